"""Plain blocks that networks are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from prox_monai.networks.dims import batch_norm, conv, instance_norm

NEGATIVE_SLOPE = 0.01
NORMS = {"batch": batch_norm, "instance": instance_norm}


def _norm(name: str, spatial_dims: int) -> type[nn.Module]:
    if name not in NORMS:
        raise ValueError(f"norm must be one of {sorted(NORMS)}, got {name!r}.")
    return NORMS[name](spatial_dims)


def _padding(kernel: Sequence[int]) -> tuple[int, ...]:
    """The padding with which a convolution of stride 1 keeps the size."""
    if any(size % 2 == 0 for size in kernel):
        raise ValueError(f"kernel must be odd in every axis, got {tuple(kernel)}.")
    return tuple(size // 2 for size in kernel)


class ConvBlock(nn.Module):
    """Convolution, normalisation, activation: nnU-Net's order.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel: odd kernel size per spatial axis; the padding keeps an axis of stride 1 at its size.
        stride: stride per spatial axis; an axis of ``n`` voxels leaves as ``ceil(n / stride)``.
        norm: ``"instance"`` (with affine parameters) or ``"batch"``.

    Raises:
        ValueError: When ``spatial_dims`` is not 2 or 3, a kernel is even, or ``norm`` is not a known one.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        *,
        out_channels: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        norm: str = "instance",
    ) -> None:
        super().__init__()
        self.conv = conv(spatial_dims)(in_channels, out_channels, tuple(kernel), tuple(stride), _padding(kernel))
        self.norm = _norm(norm, spatial_dims)(out_channels, affine=True)
        self.activation = nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, in_channels, *spatial)`` to ``(B, out_channels, *spatial / stride)``."""
        return self.activation(self.norm(self.conv(x)))


class InvertedResidual(nn.Module):
    """Expansion, depth-wise convolution, projection; the input is added where shapes allow it, if not told otherwise.

    From Sandler et al., "MobileNetV2" (CVPR 2018), section 3.3.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        hidden: channels of the depth-wise convolution.
        out_channels: channels of the output.
        kernel: odd kernel size per spatial axis of the depth-wise convolution.
        stride: its stride per spatial axis.
        norm: ``"batch"`` or ``"instance"`` (with affine parameters).
        expand: False leaves the expansion out, as the network's first block does; then ``hidden`` is ``in_channels``.
        residual: False never adds the input.

    Raises:
        ValueError: When ``spatial_dims`` is not 2 or 3, a kernel is even, or ``norm`` is not a known one.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        *,
        hidden: int,
        out_channels: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        norm: str = "batch",
        expand: bool = True,
        residual: bool = True,
    ) -> None:
        super().__init__()
        convolution, normalisation = conv(spatial_dims), _norm(norm, spatial_dims)
        shape = {"kernel_size": tuple(kernel), "stride": tuple(stride), "padding": _padding(kernel)}
        depthwise = convolution(hidden, hidden, **shape, groups=hidden, bias=False)
        self.residual = residual and in_channels == out_channels and all(step == 1 for step in stride)
        self.expand = nn.Sequential()
        if expand:
            pointwise = convolution(in_channels, hidden, 1, bias=False)
            self.expand = nn.Sequential(pointwise, normalisation(hidden, affine=True), nn.ReLU6(inplace=True))
        self.depthwise = nn.Sequential(depthwise, normalisation(hidden, affine=True), nn.ReLU6(inplace=True))
        self.project = nn.Sequential(
            convolution(hidden, out_channels, 1, bias=False), normalisation(out_channels, affine=True)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, in_channels, *spatial)`` to ``(B, out_channels, *spatial / stride)``."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y

    @torch.no_grad()
    def pass_on(self) -> None:
        """Give zero for now, so that a residual block passes its input on, until the last normalisation has learnt."""
        self.project[1].weight.zero_()
        self.project[1].bias.zero_()


@torch.no_grad()
def continue_block(
    previous: nn.Module,
    convolution: nn.Module,
    norm: nn.Module,
    negative_slope: float,
    moments: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> None:
    """Initialise a new block so that it hardly changes what the block before it gives.

    The convolution passes its input on, and the normalisation, which sets mean and variance of each channel,
    sets them to what they are after the block before: to ``moments``, or to those of a leaky ReLU of a Gaussian with
    the mean and the standard deviation that its own normalisation gave it.

    Args:
        previous: normalisation (affine) of the block before, which ends in a leaky ReLU.
        convolution: of the new block, with as many input as output channels.
        norm: normalisation (affine) of the new block, of as many channels as ``previous``.
        negative_slope: of the activation.
        moments: mean and standard deviation of each channel after the block before, where they were measured.
    """
    nn.init.dirac_(convolution.weight)
    if convolution.bias is not None:
        convolution.bias.zero_()
    mean, deviation = moments or _rectified_moments(previous.bias, previous.weight.abs(), negative_slope)
    norm.bias.copy_(mean)
    norm.weight.copy_(deviation)
    if norm.running_mean is not None:
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(deviation.square())


def _rectified_moments(
    mean: torch.Tensor, deviation: torch.Tensor, negative_slope: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of a leaky ReLU of a Gaussian."""

    def positive_part(mean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        score = mean / deviation.clamp_min(1e-8)
        below = torch.special.ndtr(score)
        density = deviation * torch.exp(-score.square() / 2) / math.sqrt(2 * math.pi)
        return mean * below + density, (mean.square() + deviation.square()) * below + mean * density

    (up, up_square), (down, down_square) = positive_part(mean), positive_part(-mean)
    first = up - negative_slope * down
    second = up_square + negative_slope**2 * down_square
    return first, (second - first.square()).clamp_min(0).sqrt()
