"""The levels that a U-Net is planned with, and what widths and kernels of a configuration make of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from prox_monai.networks.blocks import NORMS
from prox_monai.networks.dims import conv
from prox_monai.space import SectionConfig, SubnetConfig


@dataclass(frozen=True, slots=True)
class UNetLevels:
    """What the rules from a configuration to a U-Net have in common: their fields, and names of sections and blocks.

    Sections are the encoder levels (the last is the bottleneck), then the decoder levels in the order they
    run, deepest first. A decoder section has the width and the kernel of its encoder level.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes.
        channels: planned channels per level, highest resolution first; a section's width multiplies them.
        strides: stride per level and axis; the first level's are 1.
        norm: ``"instance"`` or ``"batch"``.
        deep_supervision: whether built networks return the logits of every decoder level.
        planned_kernels: kernel size per level and axis, 3 everywhere when empty; a section's kernel replaces
            those above 1, the others stay 1.

    Raises:
        ValueError: When a field is out of its range or its shape does not fit the levels and axes.
    """

    spatial_dims: int
    in_channels: int
    out_channels: int
    channels: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    norm: str = "instance"
    deep_supervision: bool = False
    planned_kernels: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        conv(self.spatial_dims)
        for field in ("in_channels", "out_channels"):
            if not _positive(getattr(self, field)):
                raise ValueError(f"{field} must be a positive integer, got {getattr(self, field)!r}.")
        if self.norm not in NORMS:
            raise ValueError(f"norm must be one of {sorted(NORMS)}, got {self.norm!r}.")
        if not _all_positive(self.channels) or len(self.channels) < 2:
            raise ValueError(f"channels must be 2 or more positive integers, got {self.channels!r}.")
        levels = len(self.channels)
        kernels = self.planned_kernels or ((3,) * self.spatial_dims,) * levels
        for field, value in (("strides", self.strides), ("planned_kernels", kernels)):
            fits = isinstance(value, Sequence) and len(value) == levels
            if not fits or not all(_all_positive(axes) and len(axes) == self.spatial_dims for axes in value):
                shape = f"{levels} levels of {self.spatial_dims} positive integers"
                raise ValueError(f"{field} must be {shape}, got {value!r}.")
            object.__setattr__(self, field, tuple(tuple(axes) for axes in value))
        object.__setattr__(self, "channels", tuple(self.channels))
        if any(stride != 1 for stride in self.strides[0]):
            raise ValueError(f"strides of level 0 must be 1, got {self.strides[0]}.")
        if any(size % 2 == 0 for axes in self.planned_kernels for size in axes):
            raise ValueError(f"planned_kernels must be odd, got {self.planned_kernels}.")

    @property
    def sections(self) -> int:
        """Number of sections: every encoder level and every decoder level."""
        return 2 * len(self.channels) - 1

    @property
    def stride(self) -> tuple[int, ...]:
        """Product of the strides per spatial axis: an input's axes must be multiples of it."""
        return tuple(math.prod(axis) for axis in zip(*self.strides, strict=True))

    def canonical(self, config: SubnetConfig) -> SubnetConfig:
        """Return the one configuration that names the network of ``config``.

        Widths become channels / planned channels, decoder sections take width and kernel from their encoder
        level, and the kernel of a level whose planned kernel is 1 in every axis becomes 1.

        Raises:
            ValueError: When ``config`` has another number of sections or a width that leaves no channel.
        """
        widths = [c / planned for c, planned in zip(self.channels_of(config), self.channels, strict=True)]
        kernels = [
            section.kernel if max(planned) > 1 else 1
            for section, planned in zip(config.sections, self.planned_kernels, strict=False)
        ]
        levels = [min(i, self.sections - 1 - i) for i in range(self.sections)]
        sections = [
            SectionConfig(section.depth, widths[level], kernels[level])
            for section, level in zip(config.sections, levels, strict=True)
        ]
        return SubnetConfig(tuple(sections), config.resolution)

    def block_prefix(self, section: int, block: int) -> str:
        """Return the prefix of the names of all tensors of a block, for example ``encoder.0.blocks.1.``."""
        levels = len(self.channels)
        path = f"encoder.{section}" if section < levels else f"decoder.{section - levels}"
        return f"{path}.blocks.{block}."

    def kernels_of(self, config: SubnetConfig) -> list[tuple[int, ...]]:
        """Return the kernel size per level and axis in the network of ``config``."""
        return [
            tuple(section.kernel if size > 1 else 1 for size in planned)
            for section, planned in zip(config.sections, self.planned_kernels, strict=False)
        ]

    def channels_of(self, config: SubnetConfig) -> list[int]:
        """Return the channels per level in the network of ``config``.

        Raises:
            ValueError: When ``config`` has another number of sections or a width that leaves no channel.
        """
        if len(config.sections) != self.sections:
            raise ValueError(
                f"a U-Net of {len(self.channels)} levels has {self.sections} sections, "
                f"the configuration has {len(config.sections)}."
            )
        encoder = zip(config.sections, self.channels, strict=False)
        channels = [round(section.width * planned) for section, planned in encoder]
        if 0 in channels:
            level = channels.index(0)
            raise ValueError(
                f"width {config.sections[level].width:g} of section {level} leaves none of its "
                f"{self.channels[level]} planned channels; give more than {0.5 / self.channels[level]:g}."
            )
        return channels


def _positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _all_positive(values: object) -> bool:
    return isinstance(values, Sequence) and all(map(_positive, values))
