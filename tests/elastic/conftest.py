from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from prox_monai.elastic import Supernet
from prox_monai.networks.blocks import continue_block
from prox_monai.space import SearchSpace, SectionConfig, SubnetConfig


@dataclass(frozen=True)
class Classifier:
    """Two sections of convolutions and a linear layer: an architecture that is no U-Net."""

    channels: int = 4
    spatial_dims: int = 2
    sections: int = 2
    stride: tuple[int, ...] = (2, 2)

    def build(self, config):
        inputs, sections = 1, []
        for section, stride in zip(config.sections, (1, 2), strict=True):
            width = self.width(section)
            shapes = [(inputs, stride)] + [(width, 1)] * (section.depth - 1)
            sections.append(nn.Sequential(*(self.block(c, width, section.kernel, s) for c, s in shapes)))
            inputs = width
        return nn.Sequential(*sections, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 3))

    def block(self, inputs, outputs, kernel, stride):
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

    def width(self, section):
        return round(section.width * self.channels)

    def canonical(self, config):
        sections = (SectionConfig(s.depth, self.width(s) / self.channels, s.kernel) for s in config.sections)
        return SubnetConfig(tuple(sections), config.resolution)

    def concatenated(self, config):
        return {}

    def block_prefix(self, section, block):
        return f"{section}.{block}."

    def continue_depth(self, network, section, block, moments=None):
        before, new = (network[section][b] for b in (block - 1, block))
        continue_block(before[1], new[0], new[1], 0, moments)


@pytest.fixture
def classifier_type() -> type[Classifier]:
    return Classifier


@pytest.fixture
def classifier_space() -> SearchSpace:
    return SearchSpace(2, (1, 2), (0.25, 0.5, 1), (3, 5), (0.5, 1))


@pytest.fixture
def randomise() -> Callable[[Supernet], Supernet]:
    """Fill every cell with noise, so that no ring and no late channel is zero."""

    def fill(supernet: Supernet) -> Supernet:
        with torch.no_grad():
            for parameter in supernet.parameters():
                parameter.normal_(std=0.3)
            for name, buffer in supernet.named_buffers():
                if not name.endswith("num_batches_tracked"):
                    buffer.uniform_(0.5, 1.5)
        return supernet

    return fill
