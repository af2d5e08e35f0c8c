"""Plain blocks that networks are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from prox_monai.networks.dims import batch_norm, conv, instance_norm

NEGATIVE_SLOPE = 0.01
NORMS = {"batch": batch_norm, "instance": instance_norm}


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
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {sorted(NORMS)}, got {norm!r}.")
        if any(size % 2 == 0 for size in kernel):
            raise ValueError(f"kernel must be odd in every axis, got {tuple(kernel)}.")
        padding = tuple(size // 2 for size in kernel)
        self.conv = conv(spatial_dims)(in_channels, out_channels, tuple(kernel), tuple(stride), padding)
        self.norm = NORMS[norm](spatial_dims)(out_channels, affine=True)
        self.activation = nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, in_channels, *spatial)`` to ``(B, out_channels, *spatial / stride)``."""
        return self.activation(self.norm(self.conv(x)))
