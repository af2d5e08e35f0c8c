from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prox_monai.elastic import check_resolutions, scaled_size
from prox_monai.elastic.resolution import AtResolution, at_resolution


@pytest.mark.parametrize(
    ("size", "stride", "resolution", "expected"),
    [
        ((40, 56, 40), (8, 8, 8), 0.6, (24, 32, 24)),
        ((40, 56, 40), (8, 8, 8), 0.8, (32, 48, 32)),
        ((40, 56, 40), (8, 8, 8), 1.0, (40, 56, 40)),
        ((20, 64), (4, 8), 0.5, (12, 32)),
        ((8, 64), (8, 8), 0.1, (8, 8)),
        ((41, 57), (8, 8), 1.0, (41, 57)),
    ],
)
def test_sizes_by_hand(size, stride, resolution, expected):
    assert scaled_size(size, stride, resolution) == expected


def test_candidates_of_the_planned_hippocampus_network_are_accepted():
    check_resolutions((0.6, 0.8, 1.0), (40, 56, 40), (8, 8, 8))


def test_two_candidates_of_one_size_are_refused():
    with pytest.raises(ValueError, match=r"resolution 0.8 and 0.75 both lead to an input of \[24, 24\] voxels"):
        check_resolutions((0.75, 0.8, 1.0), (32, 32), (8, 8))


def test_a_single_voxel_at_the_bottleneck_is_refused():
    with pytest.raises(ValueError, match=r"resolution 0.2 leaves a single voxel .*\[16, 16\] voxels"):
        check_resolutions((0.2, 1.0), (64, 64), (16, 16))


def test_at_native_size_the_network_sees_the_input_itself():
    x = torch.rand(1, 1, 8, 8)
    seen = []
    at_resolution(lambda data: seen.append(data) or data, x, (2, 2), 1.0)
    assert seen[0] is x


@pytest.mark.parametrize(("shape", "mode"), [((16, 8), "bilinear"), ((8, 16, 8), "trilinear")])
def test_outputs_return_to_their_own_native_size(shape, mode):
    """Full and half size (deep supervision) come back as such; logits of classes are left alone."""
    dims = len(shape)
    pool = (F.avg_pool2d, F.avg_pool3d)[dims - 2]
    x = torch.rand(2, 1, *shape)
    full, half, classes = at_resolution(
        lambda data: [data + 1, pool(data, 2), data.flatten(1).mean(1, keepdim=True)], x, (4,) * dims, 0.5
    )
    small = F.interpolate(x, size=tuple(n // 2 for n in shape), mode=mode, align_corners=False)
    assert torch.equal(full, F.interpolate(small + 1, size=shape, mode=mode, align_corners=False))
    assert half.shape[2:] == tuple(n // 2 for n in shape)
    assert torch.equal(classes, small.flatten(1).mean(1, keepdim=True))


def test_module_equals_function():
    network, x = nn.Conv2d(1, 2, 3, padding=1), torch.rand(1, 1, 8, 8)
    module = AtResolution(network, (2, 2), 0.5)
    assert torch.equal(module(x), at_resolution(network, x, (2, 2), 0.5))
    assert not torch.equal(module(x), network(x))
