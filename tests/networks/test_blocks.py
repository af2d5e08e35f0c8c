from __future__ import annotations

import pytest
import torch
from torch import nn

from prox_monai.networks import ConvBlock
from prox_monai.networks.blocks import continue_block


def test_order_is_convolution_norm_activation():
    block = ConvBlock(2, 3, out_channels=4, kernel=(3, 3), stride=(1, 1))
    x = torch.randn(2, 3, 6, 6)
    convolved = nn.functional.conv2d(x, block.conv.weight, block.conv.bias, padding=1)
    expected = nn.functional.leaky_relu(nn.functional.instance_norm(convolved), 0.01)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("kernel", [(1, 3, 5), (3, 3, 3), (7, 1, 1)])
def test_size_is_kept_at_stride_one_and_divided_otherwise(kernel):
    x = torch.randn(1, 2, 8, 9, 10)
    assert ConvBlock(3, 2, out_channels=3, kernel=kernel, stride=(1, 1, 1))(x).shape == (1, 3, 8, 9, 10)
    assert ConvBlock(3, 2, out_channels=3, kernel=kernel, stride=(2, 1, 2))(x).shape == (1, 3, 4, 9, 5)


@pytest.mark.parametrize(("norm", "cls"), [("instance", nn.InstanceNorm3d), ("batch", nn.BatchNorm3d)])
def test_norm_is_affine(norm, cls):
    block = ConvBlock(3, 1, out_channels=2, kernel=(3, 3, 3), stride=(1, 1, 1), norm=norm)
    assert type(block.norm) is cls
    assert block.norm.weight.shape == block.norm.bias.shape == (2,)


def test_bad_input():
    with pytest.raises(ValueError, match=r"norm must be one of \['batch', 'instance'\], got 'group'"):
        ConvBlock(2, 1, out_channels=1, kernel=(3, 3), stride=(1, 1), norm="group")
    with pytest.raises(ValueError, match=r"kernel must be odd in every axis, got \(3, 4\)"):
        ConvBlock(2, 1, out_channels=1, kernel=(3, 4), stride=(1, 1))
    with pytest.raises(ValueError, match="spatial_dims must be 2 or 3, got 4"):
        ConvBlock(4, 1, out_channels=1, kernel=(3,) * 4, stride=(1,) * 4)


def test_a_continued_block_has_the_moments_of_a_rectified_gaussian():
    """Against a sample: mean and deviation of a leaky ReLU of Gaussians of several means and deviations."""
    mean, deviation = torch.tensor([-2.0, -0.3, 0.0, 0.5, 3.0]), torch.tensor([0.5, 1.0, 1.0, 2.0, 0.1])
    norms = [nn.InstanceNorm3d(5, affine=True), nn.BatchNorm3d(5)]
    norms[0].bias.data, norms[0].weight.data = mean, deviation
    convolution = nn.Conv3d(5, 5, 3, padding=1)
    continue_block(norms[0], convolution, norms[1], 0.1)
    sample = nn.functional.leaky_relu(mean + deviation * torch.randn(400_000, 5), 0.1)
    torch.testing.assert_close(norms[1].bias.detach(), sample.mean(0), atol=0.01, rtol=0.01)
    torch.testing.assert_close(norms[1].weight.detach(), sample.std(0), atol=0.01, rtol=0.01)
    torch.testing.assert_close(norms[1].running_var, norms[1].weight.detach().square())
    x = torch.randn(1, 5, 4, 4, 4)
    assert torch.equal(convolution(x), x)
