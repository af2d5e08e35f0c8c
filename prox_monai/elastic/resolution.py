"""Run a network at a fraction of its input's resolution (ProX, section 3.4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

_LINEAR = {2: "bilinear", 3: "trilinear"}

Resize = Callable[[Tensor, Sequence[int]], Tensor]


def scaled_size(size: Sequence[int], stride: Sequence[int], resolution: float) -> tuple[int, ...]:
    """Return the size at which an input is processed, in voxels.

    Per axis ``s * max(1, round_half_up(resolution * size / s))`` with ``s`` the product of the axis' strides, so
    that the result can be down-sampled; at resolution 1 the size itself.
    """
    if resolution == 1:
        return tuple(size)
    return tuple(s * max(1, math.floor(resolution * n / s + 0.5)) for n, s in zip(size, stride, strict=True))


def check_resolutions(resolutions: Sequence[float], size: Sequence[int], stride: Sequence[int]) -> None:
    """Check the resolution candidates against the native input size.

    Raises:
        ValueError: When two candidates lead to the same size, or one leaves a single voxel at the bottleneck.
    """
    seen: dict[tuple[int, ...], float] = {}
    for resolution in resolutions:
        scaled = scaled_size(size, stride, resolution)
        if scaled in seen:
            raise ValueError(
                f"resolution {resolution:g} and {seen[scaled]:g} both lead to an input of {list(scaled)} voxels "
                f"(native size {list(size)}, stride {list(stride)}); drop one of them."
            )
        if math.prod(n // s for n, s in zip(scaled, stride, strict=True)) == 1:
            raise ValueError(
                f"resolution {resolution:g} leaves a single voxel at the bottleneck (input {list(scaled)} voxels, "
                f"stride {list(stride)}); give a larger resolution."
            )
        seen[scaled] = resolution


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Interpolate ``(B, C, *spatial)`` linearly to ``(B, C, *size)``; 2-D or 3-D."""
    return F.interpolate(x, size=tuple(size), mode=_LINEAR[len(size)], align_corners=False)


def at_resolution(
    network: Callable[[Tensor], Tensor | list[Tensor]],
    x: Tensor,
    stride: Sequence[int],
    resolution: float,
    resize: Resize = resized,
) -> Tensor | list[Tensor]:
    """Resize the input, run the network, resize each output back to its own native size.

    Args:
        network: maps ``(B, C, *spatial)`` to a tensor or a list of tensors; outputs without spatial axes are
            returned as they are.
        x: input of shape ``(B, C, *spatial)``.
        stride: product of strides per spatial axis.
        resolution: fraction of the native size.
        resize: maps ``(B, C, *spatial)`` and a size to ``(B, C, *size)``.
    """
    native = tuple(x.shape[2:])
    size = scaled_size(native, stride, resolution)
    if size == native:
        return network(x)
    outputs = network(resize(x, size))

    def to_native(output: Tensor) -> Tensor:
        if output.ndim != len(native) + 2:
            return output
        return resize(output, [o * n // s for o, n, s in zip(output.shape[2:], native, size, strict=True)])

    return to_native(outputs) if isinstance(outputs, Tensor) else [to_native(output) for output in outputs]


class AtResolution(nn.Module):
    """A plain network that processes its input at a fraction of the resolution.

    Args:
        network: as of :func:`at_resolution`, like the others.
        stride: product of strides per spatial axis.
        resolution: fraction of the native size.
        resize: a function, or a module without trained weights.
    """

    def __init__(self, network: nn.Module, stride: Sequence[int], resolution: float, resize: Resize = resized) -> None:
        super().__init__()
        self.network = network
        self.stride = tuple(stride)
        self.resolution = resolution
        self.resize = resize

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Map ``(B, C, *spatial)`` to the network's outputs at their native sizes."""
        return at_resolution(self.network, x, self.stride, self.resolution, self.resize)


def without_resolution(network: nn.Module) -> nn.Module:
    """Return the plain network, at whatever resolution it works."""
    return network.network if isinstance(network, AtResolution) else network
