"""Smaller kernels as learnable maps of larger ones, for progressive shrinking (Cai et al., section 3.3)."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from prox_monai.elastic.shells import Extent, ShellTensor


class KernelTransforms(nn.Module):
    """The kernel transformation matrices of one weight (Cai et al., section 3.3, "elastic kernel size").

    A smaller kernel is the centre of the next larger one, flattened, times a matrix that all channels share; each
    starts as the identity. Its gradient goes to the matrix and to the shared weight.

    Args:
        taps: the candidate kernels of the weight, two or more, increasing, each as its size per spatial axis.
    """

    def __init__(self, taps: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        self.taps = taps
        for kernel in taps[:-1]:
            self.register_parameter(_name(kernel), nn.Parameter(torch.eye(math.prod(kernel))))

    def matrix(self, kernel: tuple[int, ...]) -> nn.Parameter:
        """Return the matrix of a kernel, of shape ``(taps, taps)``; rows are the taps of the centre."""
        return self._parameters[_name(kernel)]

    def corner(self, shells: ShellTensor, extent: Extent, *, frozen: bool = False, frozen_kernel: int = 0) -> Tensor:
        """Put a corner together, and derive its kernel where it is not the largest.

        The centre of the largest kernel is put together at the size of the second largest: outer shells are left
        alone.

        Args:
            shells: the weight.
            extent: size of the corner.
            frozen: hand over every cell and matrix detached.
            frozen_kernel: hand over the cells of elastic kernels up to this size detached.
        """
        if extent.taps == self.taps[-1]:
            return shells.corner(extent, frozen=frozen, frozen_kernel=frozen_kernel)
        centre = dataclasses.replace(extent, taps=self.taps[-2])
        weight = shells.corner(centre, frozen=frozen, frozen_kernel=frozen_kernel)
        with torch.autocast(weight.device.type, enabled=False):  # an extracted network's weights are not rounded either
            for kernel in reversed(self.taps[self.taps.index(extent.taps) : -1]):
                matrix = self.matrix(kernel)
                weight = _centre(weight, kernel)
                rows = weight.reshape(-1, math.prod(kernel))
                weight = (rows @ (matrix.detach() if frozen else matrix)).view(weight.shape)
        return weight


def _centre(weight: Tensor, kernel: tuple[int, ...]) -> Tensor:
    sizes = zip(weight.shape[2:], kernel, strict=True)
    return weight[(slice(None), slice(None), *(slice((n - m) // 2, (n + m) // 2) for n, m in sizes))]


def _name(kernel: tuple[int, ...]) -> str:
    return "x".join(map(str, kernel))
