"""A U-Net of convolution blocks in two or three dimensions, and the rule from a subnet's configuration to one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from prox_monai.networks.blocks import NEGATIVE_SLOPE, ConvBlock, continue_block
from prox_monai.networks.channel_groups import ChannelGroups, unet_channel_groups
from prox_monai.networks.levels import UNetLevels
from prox_monai.networks.sections import SectionedUNet
from prox_monai.space import SubnetConfig


class UNet(SectionedUNet):
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
        one = (1,) * spatial_dims

        def blocks(section: int, inputs: int, stride: Sequence[int]) -> nn.Sequential:
            level = min(section, 2 * len(channels) - 2 - section)
            width = channels[level]
            shapes = [(inputs, stride)] + [(width, one)] * (depths[section] - 1)
            return nn.Sequential(
                *(
                    ConvBlock(spatial_dims, c, out_channels=width, kernel=kernels[level], stride=s, norm=norm)
                    for c, s in shapes
                )
            )

        super().__init__(
            spatial_dims,
            in_channels,
            out_channels=out_channels,
            channels=channels,
            strides=strides,
            deep_supervision=deep_supervision,
            blocks=blocks,
        )


@dataclass(frozen=True, slots=True)
class UNetArchitecture(UNetLevels):
    """The rule from a configuration to a :class:`UNet`; its fields are those of :class:`UNetLevels`."""

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
            depths=config.depths,
            norm=self.norm,
            deep_supervision=self.deep_supervision,
        )

    def concatenated(self, config: SubnetConfig) -> Mapping[str, tuple[int, ...]]:
        """Return, per weight after a concatenation, the channels of ``(up-sampled, skip)`` on its axis 1.

        Raises:
            ValueError: When ``config`` has another number of sections or a width that leaves no channel.
        """
        skips = self.channels_of(config)[-2::-1]
        return {f"decoder.{i}.blocks.0.conv.weight": (channels, channels) for i, channels in enumerate(skips)}

    def continue_depth(
        self, network: nn.Module, section: int, block: int, moments: tuple[Tensor, Tensor] | None = None
    ) -> None:
        """Initialise a block beyond a section's first so that it hardly changes what the block before it gives."""
        before, new = (network.get_submodule(self.block_prefix(section, b)[:-1]) for b in (block - 1, block))
        continue_block(before.norm, new.conv, new.norm, NEGATIVE_SLOPE, moments)

    def channel_groups(self, config: SubnetConfig) -> ChannelGroups:
        """Return which modules of the network of ``config`` share channels, see :func:`unet_channel_groups`."""
        return unet_channel_groups(config.depths, self.block_prefix, "decoder.{}.upsample.", "decoder.{}.head.")
