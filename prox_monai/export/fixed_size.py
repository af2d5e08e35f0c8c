"""A network as it is exported: a copy in evaluation mode, for images of one size."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prox_monai.elastic.resolution import AtResolution, resized, scaled_size


def at_fixed_size(network: nn.Module, input_shape: Sequence[int]) -> nn.Module:
    """Return a copy of a network in evaluation mode, whose inputs all have one size.

    Of a network at a fraction of the resolution, resizing becomes products with matrices: the same but for rounding,
    and two to six times as fast in the runtimes of CPUs, where interpolation took up to half of a small subnet's time.

    Args:
        network: plain network, not changed.
        input_shape: ``(C, *spatial)``.
    """
    fixed = copy.deepcopy(network).eval()
    if isinstance(fixed, AtResolution) and not isinstance(fixed.resize, ResizeByMatrices):
        native = tuple(input_shape[1:])
        fixed.resize = ResizeByMatrices(native, scaled_size(native, fixed.stride, fixed.resolution))
    return fixed


class ResizeByMatrices(nn.Module):
    """Linear resizing between two sizes, to and fro, as products with matrices, axis by axis.

    Args:
        native: voxels per axis.
        scaled: voxels per axis at the fraction of the resolution.
    """

    def __init__(self, native: Sequence[int], scaled: Sequence[int]) -> None:
        super().__init__()
        self.native, self.scaled = tuple(native), tuple(scaled)
        for axis, (large, small) in enumerate(zip(native, scaled, strict=True)):
            self.register_buffer(f"down{axis}", _matrix(large, small), persistent=False)
            self.register_buffer(f"up{axis}", _matrix(small, large), persistent=False)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Map ``(B, C, *spatial)`` to ``(B, C, *size)``; other sizes than the two are interpolated."""
        ways = {(self.native, self.scaled): "down", (self.scaled, self.native): "up"}
        way = ways.get((_numbers(x.shape[2:]), _numbers(size)))
        if way is None:
            return resized(x, size)
        axes = range(len(size))
        for axis in axes if way == "down" else reversed(axes):  # the last axis, the slowest, where there is least
            x = self._along(axis, getattr(self, f"{way}{axis}"), x)
        return x

    @staticmethod
    def _along(axis: int, matrix: Tensor, x: Tensor) -> Tensor:
        if axis == x.ndim - 3:
            return F.linear(x, matrix)
        return (matrix @ x.flatten(3 + axis)).unflatten(-1, _numbers(x.shape[3 + axis :]))


def _numbers(size: Sequence[int]) -> tuple[int, ...]:
    """Return a size as numbers, also while torch traces, when they are tensors."""
    return tuple(int(n) for n in size)


def _matrix(size: int, to: int) -> Tensor:
    """Return what maps a line of voxels to another, ``(to, size)``: torch's interpolation of unit vectors."""
    return F.interpolate(torch.eye(size)[None], size=to, mode="linear", align_corners=False)[0].T.contiguous()
