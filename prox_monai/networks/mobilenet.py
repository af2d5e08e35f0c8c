"""MobileNetV2 in two or three dimensions, and the rule from a subnet's configuration to one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor, nn

from prox_monai.networks.blocks import InvertedResidual
from prox_monai.networks.channel_groups import ChannelGroups
from prox_monai.networks.dims import batch_norm, conv
from prox_monai.space import SubnetConfig

_DIVISOR = 8


class MobileNet(nn.Module):
    """A classifier of inverted residuals: an ordinary module.

    From Sandler et al., "MobileNetV2" (CVPR 2018), table 2: a convolution of stride 2, a block without expansion,
    sections of blocks, a point-wise convolution, the mean over all voxels, a linear layer.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes.
        stem: channels of the first convolution.
        first: channels of the block without expansion.
        channels: channels per section.
        strides: stride of each section's first block, in all axes.
        head: channels of the last convolution.
        depths: blocks per section.
        expansions: channels of a block's depth-wise convolution, as a multiple of its input channels, per section.
        kernels: odd size of the depth-wise kernels, in voxels, per section.
        dropout: probability before the linear layer.

    Raises:
        ValueError: When ``spatial_dims`` is not 2 or 3, or a kernel is even.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        *,
        out_channels: int,
        stem: int,
        first: int,
        channels: Sequence[int],
        strides: Sequence[int],
        head: int,
        depths: Sequence[int],
        expansions: Sequence[float],
        kernels: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, expansion: float, kernel: int, stride: int) -> InvertedResidual:
            return InvertedResidual(
                spatial_dims,
                inputs,
                hidden=round(inputs * expansion),
                out_channels=outputs,
                kernel=(kernel,) * spatial_dims,
                stride=(stride,) * spatial_dims,
                expand=expansion != 1,
            )

        def section(inputs: int, outputs: int, stride: int, depth: int, expansion: float, kernel: int) -> nn.Sequential:
            shapes = [(inputs, stride)] + [(outputs, 1)] * (depth - 1)
            return nn.Sequential(*(block(c, outputs, expansion, kernel, s) for c, s in shapes))

        inputs = (first, *channels)
        rows = zip(inputs, channels, strides, depths, expansions, kernels, strict=False)
        self.stem = _convolution(spatial_dims, in_channels, stem, kernel=3, stride=2)
        self.first = block(stem, first, 1, 3, 1)
        self.sections = nn.ModuleList(section(*row) for row in rows)
        self.last = _convolution(spatial_dims, channels[-1], head, kernel=1, stride=1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(head, out_channels))
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits ``(B, out_channels)`` of an image ``(B, in_channels, *spatial)``."""
        x = self.first(self.stem(x))
        for section in self.sections:
            x = section(x)
        return self.classifier(self.last(x).flatten(2).mean(2))


def _convolution(spatial_dims: int, inputs: int, outputs: int, *, kernel: int, stride: int) -> nn.Sequential:
    convolution = conv(spatial_dims)(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, batch_norm(spatial_dims)(outputs), nn.ReLU6(inplace=True))


@dataclass(frozen=True, slots=True)
class MobileNetArchitecture:
    """The rule from a configuration to a :class:`MobileNet`; ``width`` is the expansion ratio of a section's blocks.

    Channels between blocks are ``multiplier``'s and the same for all subnets, as in once-for-all (Cai et al. 2020).

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes.
        channels: channels per section.
        strides: stride of each section's first block.
        stem: channels of the first convolution, which has stride 2.
        first: channels of the block without expansion.
        head: channels of the last convolution.
        multiplier: width multiplier of all of these channels (MobileNetV2, section 4): rounded to multiples of 8; the
            head does not go below its own.
        dropout: probability before the linear layer.

    Raises:
        ValueError: When ``channels`` and ``strides`` differ in length, or ``multiplier`` is not positive.
    """

    spatial_dims: int
    in_channels: int
    out_channels: int
    channels: tuple[int, ...] = (24, 32, 64, 96, 160, 320)
    strides: tuple[int, ...] = (2, 2, 2, 1, 2, 1)
    stem: int = 32
    first: int = 16
    head: int = 1280
    multiplier: float = 1.0
    dropout: float = 0.2

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        object.__setattr__(self, "strides", tuple(self.strides))
        if len(self.channels) != len(self.strides):
            raise ValueError(f"strides must be {len(self.channels)}, one per section of channels, got {self.strides}.")
        if not self.multiplier > 0:
            raise ValueError(f"multiplier must be a number > 0, got {self.multiplier!r}.")

    @property
    def sections(self) -> int:
        """Number of sections."""
        return len(self.channels)

    @property
    def stride(self) -> tuple[int, ...]:
        """Product of the strides per spatial axis, the first convolution's included."""
        return (2 * prod(self.strides),) * self.spatial_dims

    def build(self, config: SubnetConfig) -> MobileNet:
        """Build the network of ``config``, initialised as torchvision's; ``resolution`` plays no part.

        Raises:
            ValueError: When ``config`` has another number of sections, or a width of 1 or less.
        """
        self._check(config)
        return MobileNet(
            self.spatial_dims,
            self.in_channels,
            out_channels=self.out_channels,
            stem=self._scaled(self.stem),
            first=self._scaled(self.first),
            channels=[self._scaled(channels) for channels in self.channels],
            strides=self.strides,
            head=_divisible(self.head * max(1.0, self.multiplier)),
            depths=config.depths,
            expansions=config.widths,
            kernels=config.kernels,
            dropout=self.dropout,
        )

    def canonical(self, config: SubnetConfig) -> SubnetConfig:
        """Return ``config``: different configurations are different networks."""
        return config

    def concatenated(self, config: SubnetConfig) -> Mapping[str, tuple[int, ...]]:
        """Return nothing: there are no concatenations."""
        return {}

    def block_prefix(self, section: int, block: int) -> str:
        """Return the prefix of the names of all tensors of a block, for example ``sections.0.1.``."""
        return f"sections.{section}.{block}."

    def continue_depth(
        self, network: MobileNet, section: int, block: int, moments: tuple[Tensor, Tensor] | None = None
    ) -> None:
        """Let a block beyond a section's first pass its input on, exactly."""
        network.sections[section][block].pass_on()

    def channel_groups(self, config: SubnetConfig) -> ChannelGroups:
        """Return which modules share the channels that an expansion ratio leaves out: those inside a block.

        A channel is worth what the projection reads of it. The depth-wise convolution has no axis of channels that it
        reads; it follows what it writes. Channels between blocks are the same in all subnets and keep their order.
        """
        groups: ChannelGroups = {}
        for section, depth in enumerate(config.depths):
            for block in range(depth):
                prefix = self.block_prefix(section, block)
                hidden = prefix.rstrip(".")
                groups[f"{prefix}expand."] = groups[f"{prefix}depthwise."] = (None,), hidden
                groups[f"{prefix}project."] = (hidden,), None
        return groups

    def _scaled(self, channels: int) -> int:
        return _divisible(channels * self.multiplier)

    def _check(self, config: SubnetConfig) -> None:
        if len(config.sections) != self.sections:
            raise ValueError(f"the subnet has {len(config.sections)} sections, the architecture {self.sections}.")
        for section, width in enumerate(config.widths):
            if width <= 1:
                raise ValueError(f"width {width:g} of section {section} is an expansion ratio and must be above 1.")


def _divisible(channels: float) -> int:
    """The multiple of 8 nearest to a number of channels, not more than a tenth below it (MobileNetV2's code)."""
    rounded = max(_DIVISOR, int(channels + _DIVISOR / 2) // _DIVISOR * _DIVISOR)
    return rounded + _DIVISOR if rounded < 0.9 * channels else rounded
