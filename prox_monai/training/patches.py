"""A curriculum of patch sizes, which can be laid over any schedule (Fischer et al. 2024)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any, Literal, get_args

from torch import Tensor

from prox_monai.elastic import scaled_size

PatchRule = Literal["full", "growing"]
PATCH_RULES: tuple[PatchRule, ...] = get_args(PatchRule)

SCALE_TOLERANCE = 0.1


def growing_sizes(
    size: Sequence[int], stride: Sequence[int], resolutions: Sequence[float] = (1.0,)
) -> tuple[tuple[int, ...], ...]:
    """Return the sizes through which a patch grows, in voxels, from the smallest to ``size`` itself.

    Each next one is longer along the axis that is shortest for its share of ``size`` (Fischer et al., "Progressive
    Growing of Patch Size", MICCAI 2024, where the smallest is the least that the network takes). Here the smallest is
    at least half as long along every axis, so that it can hold the centre wherever it lies, and every size leaves two
    voxels at the bottleneck at every resolution, and is scaled by nearly as much as the whole: a resolution leads to
    the nearest multiple of the stride, which for a small patch may be far off.

    Args:
        size: of the whole patch, multiples of ``stride``.
        stride: product of strides per spatial axis.
        resolutions: that are trained.
    """
    lengths = [_lengths(n, s, resolutions) for n, s in zip(size, stride, strict=True)]
    at, sizes = [0] * len(size), []
    while True:
        patch = tuple(axis[i] for axis, i in zip(lengths, at, strict=True))
        sizes.append(patch)
        open_axes = [axis for axis, i in enumerate(at) if i + 1 < len(lengths[axis])]
        if not open_axes:
            return tuple(sizes)
        at[min(open_axes, key=lambda axis: patch[axis] / size[axis])] += 1


def _lengths(n: int, stride: int, resolutions: Sequence[float]) -> list[int]:
    """What the patch may measure along one axis."""

    def scaled(length: int, resolution: float) -> int:
        return scaled_size([length], [stride], resolution)[0]

    def fits(length: int, resolution: float) -> bool:
        scale, whole = scaled(length, resolution) / length, scaled(n, resolution) / n
        return scaled(length, resolution) >= 2 * stride and abs(scale / whole - 1) <= SCALE_TOLERANCE

    shorter = (length for length in range(stride, n, stride) if 2 * length >= n)
    return [length for length in shorter if all(fits(length, resolution) for resolution in resolutions)] + [n]


def size_at(sizes: Sequence[tuple[int, ...]], epoch: int, epochs: int) -> tuple[int, ...]:
    """Return the size of one of so many epochs, from 0: each of ``sizes`` for as long as the others, at last the
    whole."""
    return sizes[math.ceil(len(sizes) * (epoch + 1) / epochs) - 1]


def random_origin(
    rng: random.Random, full: Sequence[int], size: Sequence[int], stride: Sequence[int]
) -> tuple[int, ...]:
    """Return where a patch of ``size`` begins in one of size ``full``: at a multiple of the stride, over its centre.

    Away from an image's border nnU-Net puts a foreground voxel there in the patches that must have one.
    """
    origin = []
    for whole, part, s in zip(full, size, stride, strict=True):
        starts = [start for start in range(0, whole - part + 1, s) if start <= whole // 2 < start + part]
        origin.append(rng.choice(starts))
    return tuple(origin)


def cropped(x: Any, full: Sequence[int], origin: Sequence[int], size: Sequence[int]) -> Any:
    """Cut a patch out of tensors ``(B, ..., *spatial)``, or lists of them whose sizes divide ``full``.

    Raises:
        ValueError: When a tensor has no spatial axes, or its size does not divide ``full``.
    """
    if not isinstance(x, Tensor):
        return [cropped(each, full, origin, size) for each in x]
    spatial = x.shape[-len(full) :]
    if x.ndim <= len(full) or any(whole % n for whole, n in zip(full, spatial, strict=True)):
        raise ValueError(
            f"patch must be 'full' where targets are not images of the input's size or a fraction of it: got a target "
            f"of shape {list(x.shape)} for an input of size {list(full)}."
        )
    factors = [whole // n for whole, n in zip(full, spatial, strict=True)]
    return x[..., *(slice(o // f, (o + n) // f) for o, n, f in zip(origin, size, factors, strict=True))]
