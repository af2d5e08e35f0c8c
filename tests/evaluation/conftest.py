from __future__ import annotations

from dataclasses import dataclass

import pytest
from torch import nn

from prox_monai.elastic import Supernet
from prox_monai.space import SearchSpace, SectionConfig, SubnetConfig


@dataclass(frozen=True)
class Classifier:
    """Two convolutions and a linear layer; widths of three channels round, so subnets have aliases."""

    spatial_dims: int = 2
    sections: int = 2
    stride: tuple[int, ...] = (2, 2)

    def build(self, config):
        first, second = (round(3 * section.width) for section in config.sections)
        kernels = config.kernels
        return nn.Sequential(
            nn.Conv2d(1, first, kernels[0], 1, kernels[0] // 2),
            nn.ReLU(),
            nn.Conv2d(first, second, kernels[1], 2, kernels[1] // 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(second, 2),
        )

    def canonical(self, config):
        sections = (SectionConfig(1, round(3 * s.width) / 3, s.kernel) for s in config.sections)
        return SubnetConfig(tuple(sections), config.resolution)

    def concatenated(self, config):
        return {}

    def block_prefix(self, section, block):
        return f"{2 * section}."

    def continue_depth(self, network, section, block, moments=None):
        """Sections have one block."""


@pytest.fixture
def classifier() -> Supernet:
    return Supernet(Classifier(), SearchSpace(2, (1,), (0.6, 0.7, 1), (3, 5), (0.5, 1)))
