"""A U-Net in two or three dimensions, and the rule from a subnet's configuration to one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prox_monai.networks.blocks import NEGATIVE_SLOPE, NORMS, ConvBlock, continue_block
from prox_monai.networks.channel_groups import ChannelGroups, unet_channel_groups
from prox_monai.networks.dims import conv, transposed_conv
from prox_monai.space import SectionConfig, SubnetConfig


class EncoderSection(nn.Module):
    """The blocks of one encoder level; the first one reduces the resolution."""

    def __init__(self, blocks: Sequence[ConvBlock]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, C_below, *spatial)`` to ``(B, C, *spatial / stride)``."""
        return self.blocks(x)


class DecoderSection(nn.Module):
    """Up-sampling, concatenation with the skip, the blocks of one decoder level, and the head on them."""

    def __init__(self, upsample: nn.Module, blocks: Sequence[ConvBlock], head: nn.Module) -> None:
        super().__init__()
        self.upsample = upsample
        self.blocks = nn.Sequential(*blocks)
        self.head = head

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Map ``(B, C_below, *spatial)`` and the skip ``(B, C, *spatial * stride)`` to the skip's shape."""
        return self.blocks(torch.cat((self.upsample(x), skip), dim=1))


class UNet(nn.Module):
    """A U-Net of convolution blocks with transposed-convolution up-sampling: an ordinary module.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes.
        channels: channels per level, highest resolution first.
        strides: stride per level and axis; the first level's are 1.
        kernels: odd kernel size per level and axis.
        depths: blocks per section: encoder levels, then decoder levels in the order they run (deepest first).
        norm: ``"instance"`` or ``"batch"``.
        deep_supervision: whether ``forward`` returns the logits of every decoder level. All heads exist
            either way, so that names do not depend on it; the attribute may be set on a built network.

    Raises:
        ValueError: When ``spatial_dims`` is not 2 or 3, a kernel is even, or ``norm`` is not a known one.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        *,
        out_channels: int,
        channels: Sequence[int],
        strides: Sequence[Sequence[int]],
        kernels: Sequence[Sequence[int]],
        depths: Sequence[int],
        norm: str = "instance",
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        levels, one = len(channels), (1,) * spatial_dims

        def blocks(section: int, level: int, inputs: int, stride: Sequence[int]) -> list[ConvBlock]:
            width = channels[level]
            shapes = [(inputs, stride)] + [(width, one)] * (depths[section] - 1)
            return [
                ConvBlock(spatial_dims, c, out_channels=width, kernel=kernels[level], stride=s, norm=norm)
                for c, s in shapes
            ]

        def decoder(level: int) -> DecoderSection:
            width, stride = channels[level], tuple(strides[level + 1])
            upsample = transposed_conv(spatial_dims)(channels[level + 1], width, stride, stride)
            section = blocks(2 * levels - 2 - level, level, 2 * width, one)
            return DecoderSection(upsample, section, conv(spatial_dims)(width, out_channels, 1))

        inputs = (in_channels, *channels)
        self.encoder = nn.ModuleList(
            EncoderSection(blocks(level, level, inputs[level], strides[level])) for level in range(levels)
        )
        self.decoder = nn.ModuleList(decoder(level) for level in reversed(range(levels - 1)))
        self._initialise((conv(spatial_dims), transposed_conv(spatial_dims)))

    def _initialise(self, convolutions: tuple[type[nn.Module], ...]) -> None:
        for module in self.modules():
            if isinstance(module, convolutions):
                nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Compute the logits of an image.

        Args:
            x: image of shape ``(B, in_channels, *spatial)``, each axis a multiple of its product of strides.

        Returns:
            Logits of shape ``(B, out_channels, *spatial)``; with deep supervision a list of the logits of
            every decoder level, highest resolution first.
        """
        skips = []
        for section in self.encoder:
            x = section(x)
            skips.append(x)
        skips.pop()
        logits = []
        for section in self.decoder:
            x = section(x, skips.pop())
            if self.deep_supervision or not skips:
                logits.insert(0, section.head(x))
        return logits if self.deep_supervision else logits[0]


@dataclass(frozen=True, slots=True)
class UNetArchitecture:
    """The rule from a configuration to a :class:`UNet`.

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

    def build(self, config: SubnetConfig) -> UNet:
        """Build the network of ``config`` with He initialisation; its ``resolution`` plays no part.

        Raises:
            ValueError: When ``config`` has another number of sections or a width that leaves no channel.
        """
        return UNet(
            self.spatial_dims,
            self.in_channels,
            out_channels=self.out_channels,
            channels=self.channels_of(config),
            strides=self.strides,
            kernels=self.kernels_of(config),
            depths=[section.depth for section in config.sections],
            norm=self.norm,
            deep_supervision=self.deep_supervision,
        )

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

    def concatenated(self, config: SubnetConfig) -> Mapping[str, tuple[int, ...]]:
        """Return, per weight after a concatenation, the channels of ``(up-sampled, skip)`` on its axis 1.

        Raises:
            ValueError: When ``config`` has another number of sections or a width that leaves no channel.
        """
        skips = self.channels_of(config)[-2::-1]
        return {f"decoder.{i}.blocks.0.conv.weight": (channels, channels) for i, channels in enumerate(skips)}

    def block_prefix(self, section: int, block: int) -> str:
        """Return the prefix of the names of all tensors of a block, for example ``encoder.0.blocks.1.``."""
        levels = len(self.channels)
        path = f"encoder.{section}" if section < levels else f"decoder.{section - levels}"
        return f"{path}.blocks.{block}."

    def continue_depth(
        self, network: nn.Module, section: int, block: int, moments: tuple[Tensor, Tensor] | None = None
    ) -> None:
        """Initialise a block beyond a section's first so that it hardly changes what the block before it gives."""
        before, new = (network.get_submodule(self.block_prefix(section, b)[:-1]) for b in (block - 1, block))
        continue_block(before.norm, new.conv, new.norm, NEGATIVE_SLOPE, moments)

    def channel_groups(self, config: SubnetConfig) -> ChannelGroups:
        """Return which modules of the network of ``config`` share channels, see :func:`unet_channel_groups`."""
        return unet_channel_groups(config.depths, self.block_prefix, "decoder.{}.upsample.", "decoder.{}.head.")

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
