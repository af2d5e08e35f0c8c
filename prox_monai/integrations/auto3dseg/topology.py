"""Strides, kernels and patch of a U-Net by nnU-Net's rules, from spacing and size of the images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SMALLEST_MAP = 4
"""Voxels per axis below which a feature map is not made smaller."""
MAX_CHANNELS = 320
BLOCKS = 2
"""Convolutions per section of the network whose memory is estimated; the largest depth that is planned."""
_START_VOXELS = 256**3
_MAP_VALUES_PER_GB = 70_000_000
"""Values in the feature maps of a batch of two that a gigabyte allows: nnU-Net's reference, 560 million in 8 GB."""


@dataclass(frozen=True, slots=True)
class Topology:
    """The levels of a U-Net.

    Args:
        strides: per level and axis; the first level's are 1.
        kernels: per level and axis; 1 where the axis is at least twice as coarse as the finest.
        patch: size in voxels that these strides divide.
    """

    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    patch: tuple[int, ...]

    @property
    def stride(self) -> tuple[int, ...]:
        """Product of the strides per axis."""
        return tuple(math.prod(axis) for axis in zip(*self.strides, strict=True))


def topology(spacing: Sequence[float], patch: Sequence[int]) -> Topology:
    """Return the levels for a patch: an axis is halved while it has eight voxels and is among the finest.

    Args:
        spacing: in millimetres per axis.
        patch: wanted size in voxels; the result's is rounded up to what its strides divide.

    Raises:
        ValueError: When the patch is too small for two levels.

    Axes within a factor of 2 of the finest that can be halved are halved together; one alone only while it has
    twelve voxels. An axis has kernel 1 until it is within a factor of 2 of the finest.
    """
    spacing, size = list(spacing), list(patch)
    axes = range(len(size))
    strides, kernels, kernel = [(1,) * len(size)], [], [1] * len(size)
    while halved := _halved_axes(spacing, size):
        kernel = [3 if spacing[axis] < 2 * min(spacing) else kernel[axis] for axis in axes]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in halved else 1 for axis in axes))
        for axis in halved:
            spacing[axis] *= 2
            size[axis] = math.ceil(size[axis] / 2)
    if not kernels:
        raise ValueError(
            f"a patch of {'x'.join(map(str, patch))} voxels is too small: the images must have two axes of at least "
            f"{2 * SMALLEST_MAP} voxels at the finest spacing, or one of {3 * SMALLEST_MAP}."
        )
    kernels.append((3,) * len(size))
    stride = [math.prod(axis) for axis in zip(*strides, strict=True)]
    rounded = tuple(s * math.ceil(n / s) for n, s in zip(patch, stride, strict=True))
    return Topology(tuple(strides), tuple(kernels), rounded)


def _halved_axes(spacing: Sequence[float], size: Sequence[int]) -> list[int]:
    large = [axis for axis, n in enumerate(size) if n >= 2 * SMALLEST_MAP]
    finest = min((spacing[axis] for axis in large), default=0.0)
    halved = [axis for axis in large if spacing[axis] < 2 * finest]
    return [] if len(halved) == 1 and size[halved[0]] < 3 * SMALLEST_MAP else halved


def channels_per_level(first: int, levels: int) -> tuple[int, ...]:
    """Return the channels per level: doubled from level to level, 320 at most."""
    return tuple(min(MAX_CHANNELS, first * 2**level) for level in range(levels))


def map_values(shape: Topology, first_channels: int, classes: int) -> int:
    """Return the number of values in all feature maps of one patch, which is what training stores."""
    channels = channels_per_level(first_channels, len(shape.strides))
    size, voxels = list(shape.patch), []
    for stride in shape.strides:
        size = [n // s for n, s in zip(size, stride, strict=True)]
        voxels.append(math.prod(size))
    maps = [c * v for c, v in zip(channels, voxels, strict=True)]
    encoder, decoder = BLOCKS * sum(maps), (BLOCKS + 1) * sum(maps[:-1])
    return encoder + decoder + classes * voxels[0]


def plan_patch(
    spacing: Sequence[float], shape: Sequence[int], *, first_channels: int, classes: int, memory_gb: float
) -> Topology:
    """Return the levels for the largest patch of which two fit into memory.

    Args:
        spacing: in millimetres per axis.
        shape: median size of the images in voxels at this spacing; the patch is hardly larger.
        first_channels: of the first level.
        classes: that the network tells apart.
        memory_gb: memory that a training may use.

    Raises:
        ValueError: When the images are too small for two levels, or nothing fits into memory.
    """
    scale = (_START_VOXELS * math.prod(spacing)) ** (1 / len(spacing))
    planned = topology(spacing, [min(round(scale / s), n) for s, n in zip(spacing, shape, strict=True)])
    while map_values(planned, first_channels, classes) > _MAP_VALUES_PER_GB * memory_gb:
        planned = _smaller(spacing, shape, planned, memory_gb)
    return planned


def batch_size(planned: Topology, *, first_channels: int, classes: int, memory_gb: float, voxels: float) -> int:
    """Return how many patches fit into memory, two at least, and no more than a twentieth of the data set.

    Args:
        planned: the patch.
        first_channels: of the first level.
        classes: that the network tells apart.
        memory_gb: memory that a training may use.
        voxels: of all images together.
    """
    fitting = round(2 * _MAP_VALUES_PER_GB * memory_gb / map_values(planned, first_channels, classes))
    twentieth = round(voxels / 20 / math.prod(planned.patch))
    return max(2, min(fitting, twentieth))


def _smaller(spacing: Sequence[float], shape: Sequence[int], planned: Topology, memory_gb: float) -> Topology:
    """Shorten the axis that is largest relative to the images, by as little as its strides allow then."""
    shares = [n / whole for n, whole in zip(planned.patch, shape, strict=True)]
    axis = max(range(len(shares)), key=lambda index: (shares[index], index))

    def shortened(by: int) -> list[int]:
        return [n - by * (index == axis) for index, n in enumerate(planned.patch)]

    try:
        step = topology(spacing, shortened(planned.stride[axis])).stride[axis]
        return topology(spacing, shortened(step))
    except ValueError as error:
        raise ValueError(
            f"memory of {memory_gb:.1f} GB is too little for a patch of {'x'.join(map(str, planned.patch))} voxels, "
            f"the smallest there is; give fewer prox_channels."
        ) from error
