from __future__ import annotations

import pytest
import torch
from torch import nn

from prox_monai.elastic.resolution import AtResolution
from prox_monai.evaluation import cost
from prox_monai.evaluation.memory import tensor_bytes
from prox_monai.networks import UNetArchitecture
from prox_monai.space import SubnetConfig

VOLUME = UNetArchitecture(3, 1, 3, (4, 8), ((1, 1, 1), (2, 2, 2)))


def unet(depth: int = 1, width: float = 1.0, kernel: int = 3) -> nn.Module:
    return VOLUME.build(SubnetConfig.uniform(VOLUME.sections, depth, width, kernel))


def test_closed_form_of_a_chain():
    """Of 1, 8 and 2 channels of 100 voxels: at most two neighbours are alive, and the input is held outside."""
    network = nn.Sequential(nn.Conv2d(1, 8, 1, bias=False), nn.Conv2d(8, 2, 1, bias=False))
    assert tensor_bytes(network, (1, 10, 10)) == 4 * (8 + 16 + 100 * (1 + 8 + 2))


def test_what_a_skip_holds_counts():
    class Skip(nn.Module):
        def forward(self, x):
            y = x.repeat(1, 3, 1, 1)
            return torch.cat([y, y.amax(1, keepdim=True).exp()], 1)

    assert tensor_bytes(Skip(), (1, 10, 10)) >= 4 * 100 * (1 + 3 + 1 + 4)


def test_monotone_in_every_dimension():
    smallest = tensor_bytes(unet(), (1, 8, 8, 8))
    for larger in (unet(depth=2), unet(width=2.0), unet(kernel=5)):
        assert tensor_bytes(larger, (1, 8, 8, 8)) > smallest
    scaled = AtResolution(unet(), VOLUME.stride, 0.5)
    assert tensor_bytes(scaled, (1, 16, 16, 16)) < tensor_bytes(unet(), (1, 16, 16, 16))


def test_nothing_is_computed_changed_or_allocated():
    with torch.device("meta"):
        network = unet().train()
    assert tensor_bytes(network, (1, 8, 8, 8)) == tensor_bytes(unet(), (1, 8, 8, 8))
    assert network.training
    assert all(parameter.is_meta for parameter in network.parameters())


def test_at_most_what_a_process_grows_by():
    """A measured peak adds workspaces; without any it is the same."""
    network = nn.Upsample(scale_factor=256)
    assert tensor_bytes(network, (1, 8, 16)) == pytest.approx(cost.peak_memory_bytes(network, (1, 8, 16)), rel=0.1)
