"""Groups: which sections of a search space share a choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from prox_monai.space.subnet import Dimension, is_integer

PER_SECTION = (Dimension.DEPTH, Dimension.WIDTH, Dimension.KERNEL)


def unet_groups(levels: int) -> dict[Dimension, tuple[int, ...]]:
    """Return the groups of a U-Net: depth per section, width and kernel per level.

    Sections are the encoder levels 0 ... levels-1, of which the last is the bottleneck, then the decoder
    levels, deepest first.

    Raises:
        ValueError: When ``levels`` is not an integer >= 1.
    """
    if not is_integer(levels) or levels < 1:
        raise ValueError(f"levels must be an integer >= 1, got {levels!r}.")
    level_of_section = (*range(levels), *reversed(range(levels - 1)))
    return {
        Dimension.DEPTH: tuple(range(2 * levels - 1)),
        Dimension.WIDTH: level_of_section,
        Dimension.KERNEL: level_of_section,
    }


def checked_groups(groups: Any, sections: int) -> Mapping[Dimension, tuple[int, ...]]:
    """Return the groups of all dimensions that a section has; sections have choices of their own where none are given.

    Raises:
        ValueError: When they are not one index per section, from 0 without gaps.
    """
    if not isinstance(groups, Mapping):
        raise ValueError(f"groups must be a mapping from a dimension to indices, got {groups!r}.")
    for key in groups:
        if key not in PER_SECTION:
            raise ValueError(f"groups must have keys out of {', '.join(PER_SECTION)}, got {key!r}.")
    checked = {}
    for dimension in PER_SECTION:
        indices = groups.get(dimension, range(sections))
        if (
            not isinstance(indices, Sequence)
            or len(indices) != sections
            or not all(map(is_integer, indices))
            or set(indices) != set(range(len(set(indices))))
        ):
            raise ValueError(
                f"groups of {dimension} must be {sections} indices, one per section, from 0 without gaps, "
                f"got {indices!r}."
            )
        checked[dimension] = tuple(indices)
    return MappingProxyType(checked)
