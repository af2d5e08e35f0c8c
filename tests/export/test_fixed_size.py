from __future__ import annotations

import pytest
import torch
from torch import nn

from prox_monai.elastic.resolution import AtResolution, resized
from prox_monai.export.fixed_size import ResizeByMatrices, at_fixed_size


@pytest.mark.parametrize(
    ("native", "scaled"),
    [((8, 12), (4, 6)), ((8, 12, 10), (4, 8, 5)), ((40, 56, 40), (24, 32, 24)), ((7,) * 3, (7,) * 3)],
)
def test_both_ways_as_torch_interpolates(native, scaled):
    resize = ResizeByMatrices(native, scaled)
    for size, to in ((native, scaled), (scaled, native)):
        x = torch.randn(2, 3, *size)
        torch.testing.assert_close(resize(x, to), resized(x, to), rtol=0, atol=3e-6)


def test_other_sizes_are_interpolated():
    x = torch.randn(1, 1, 4, 6)
    assert torch.equal(ResizeByMatrices((8, 12), (6, 9))(x, (5, 5)), resized(x, (5, 5)))


def test_the_network_is_copied_and_its_outputs_stay(networks, shape):
    x = torch.randn(1, *shape)
    network = networks["half"]
    fixed = at_fixed_size(network, shape)
    assert network.resize is resized
    assert isinstance(fixed.resize, ResizeByMatrices)
    assert fixed.state_dict().keys() == network.state_dict().keys()
    with torch.no_grad():
        torch.testing.assert_close(fixed(x), network(x), rtol=0, atol=1e-5)


def test_several_outputs_each_at_their_own_size():
    """Deep supervision: full size by matrices, half size by interpolation, logits of classes as they are."""
    network = AtResolution(Outputs(), (2, 2), 0.5)
    x = torch.randn(1, 1, 16, 8)
    for ours, theirs in zip(at_fixed_size(network, (1, 16, 8))(x), network(x), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_plain_network_is_as_it_was(networks, shape):
    x = torch.randn(1, *shape)
    with torch.no_grad():
        assert torch.equal(at_fixed_size(networks["plain"], shape)(x), networks["plain"](x))


class Outputs(nn.Module):
    def forward(self, x):
        return [x, x[..., ::2, ::2], x.flatten(1)]
