"""A U-Net of inverted residuals in two or three dimensions, and the rule from a subnet's configuration to one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from prox_monai.networks.blocks import ConvBlock, InvertedResidual
from prox_monai.networks.levels import UNetLevels
from prox_monai.networks.reversible import AdditiveCoupling, ReversibleBlocks
from prox_monai.networks.sections import SectionedUNet
from prox_monai.space import SubnetConfig

EXPANSION = 2.0
"""Less than MobileNetV2's 6: a U-Net works at full resolution, where hidden channels are dear."""


class InvertedUNet(SectionedUNet):
    """A U-Net of inverted residuals with transposed-convolution up-sampling: an ordinary module.

    From Sandler et al., "MobileNetV2" (CVPR 2018), section 3.3. As there, the network's first block is a convolution.
    The first block of a section changes channels and resolution, later ones are residual.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes.
        channels: channels per level, highest resolution first.
        strides: stride per level and axis; the first level's are 1.
        kernels: odd kernel size per level and axis, of the depth-wise convolutions.
        depths: blocks per section: encoder levels, then decoder levels in the order they run (deepest first).
        expansion: channels of a depth-wise convolution, as a multiple of those that its block gives.
        norm: ``"instance"`` or ``"batch"``.
        reversible: whether residual blocks are additive couplings, which training computes again instead of storing
            them (:class:`~prox_monai.networks.reversible.ReversibleBlocks`).
        deep_supervision: whether ``forward`` returns the logits of every decoder level. All heads exist
            either way, so that names do not depend on it; the attribute may be set on a built network.

    Raises:
        ValueError: When ``spatial_dims`` is not 2 or 3, a kernel is even, ``expansion`` is not positive, ``norm`` is
            not a known one, or ``reversible`` comes with ``"batch"`` or fewer than 2 channels.
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
        expansion: float = EXPANSION,
        norm: str = "instance",
        reversible: bool = False,
        deep_supervision: bool = False,
    ) -> None:
        _check(expansion, norm, reversible)
        if reversible and min(channels) < 2:
            raise ValueError(f"channels must be 2 or more per level for reversible blocks, got {tuple(channels)}.")
        super().__init__(
            spatial_dims,
            in_channels,
            out_channels=out_channels,
            channels=channels,
            strides=strides,
            deep_supervision=deep_supervision,
            blocks=_Blocks(spatial_dims, channels, kernels, depths, expansion, norm, reversible),
        )


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Makes the blocks of a section: the ``MakeBlocks`` of a network of these channels, kernels and depths."""

    spatial_dims: int
    channels: Sequence[int]
    kernels: Sequence[Sequence[int]]
    depths: Sequence[int]
    expansion: float
    norm: str
    reversible: bool

    def __call__(self, section: int, inputs: int, stride: Sequence[int]) -> nn.Sequential:
        level = min(section, 2 * len(self.channels) - 2 - section)
        width, later = self.channels[level], range(self.depths[section] - 1)
        if section == 0:
            shape = {"kernel": self.kernels[level], "stride": stride, "norm": self.norm}
            first = ConvBlock(self.spatial_dims, inputs, out_channels=width, **shape)
        else:
            first = self._inverted(level, inputs, width, stride)
        if self.reversible:
            return ReversibleBlocks(first, *(self._coupling(level, width) for _ in later))
        one = (1,) * self.spatial_dims
        return nn.Sequential(first, *(self._inverted(level, width, width, one, residual=True) for _ in later))

    def _coupling(self, level: int, width: int) -> AdditiveCoupling:
        odd, even, one = width // 2, width - width // 2, (1,) * self.spatial_dims
        return AdditiveCoupling(self._inverted(level, odd, even, one), self._inverted(level, even, odd, one))

    def _inverted(
        self, level: int, inputs: int, outputs: int, stride: Sequence[int], *, residual: bool = False
    ) -> InvertedResidual:
        return InvertedResidual(
            self.spatial_dims,
            inputs,
            hidden=max(1, round(self.expansion * outputs)),
            out_channels=outputs,
            kernel=self.kernels[level],
            stride=stride,
            norm=self.norm,
            residual=residual,
        )


@dataclass(frozen=True, slots=True)
class InvertedUNetArchitecture(UNetLevels):
    """The rule from a configuration to an :class:`InvertedUNet`; fields beside these are those of :class:`UNetLevels`.

    Args:
        expansion: channels of a depth-wise convolution, as a multiple of those that its block gives.
        reversible: whether residual blocks are additive couplings, which training does not store.

    Raises:
        ValueError: When a field is out of its range, or ``reversible`` comes with ``norm`` ``"batch"``.
    """

    expansion: float = EXPANSION
    reversible: bool = False

    def __post_init__(self) -> None:
        UNetLevels.__post_init__(self)
        _check(self.expansion, self.norm, self.reversible)

    def build(self, config: SubnetConfig) -> InvertedUNet:
        """Build the network of ``config`` with He initialisation; its ``resolution`` plays no part.

        Raises:
            ValueError: When ``config`` has another number of sections or a width that leaves too few channels.
        """
        return InvertedUNet(
            self.spatial_dims,
            self.in_channels,
            out_channels=self.out_channels,
            channels=self.channels_of(config),
            strides=self.strides,
            kernels=self.kernels_of(config),
            depths=config.depths,
            expansion=self.expansion,
            norm=self.norm,
            reversible=self.reversible,
            deep_supervision=self.deep_supervision,
        )

    def concatenated(self, config: SubnetConfig) -> Mapping[str, tuple[int, ...]]:
        """Return, per weight after a concatenation, the channels of ``(up-sampled, skip)`` on its axis 1.

        Raises:
            ValueError: When ``config`` has another number of sections or a width that leaves too few channels.
        """
        skips = self.channels_of(config)[-2::-1]
        return {f"decoder.{i}.blocks.0.expand.0.weight": (channels, channels) for i, channels in enumerate(skips)}

    def continue_depth(
        self, network: nn.Module, section: int, block: int, moments: tuple[Tensor, Tensor] | None = None
    ) -> None:
        """Let a block beyond a section's first pass its input on, exactly."""
        network.get_submodule(self.block_prefix(section, block)[:-1]).pass_on()

    def channels_of(self, config: SubnetConfig) -> list[int]:
        """Return the channels per level in the network of ``config``.

        Raises:
            ValueError: When ``config`` has another number of sections, or a width that leaves no channel, or of
                reversible blocks a single one.
        """
        channels = UNetLevels.channels_of(self, config)
        if self.reversible and 1 in channels:
            level = channels.index(1)
            raise ValueError(
                f"width {config.sections[level].width:g} of section {level} leaves 1 of its {self.channels[level]} "
                f"planned channels, but reversible blocks need 2; give at least {1.5 / self.channels[level]:g}."
            )
        return channels


def _check(expansion: float, norm: str, reversible: bool) -> None:
    if isinstance(expansion, bool) or not isinstance(expansion, (int, float)) or not 0 < expansion < float("inf"):
        raise ValueError(f"expansion must be a number > 0, got {expansion!r}.")
    if not isinstance(reversible, bool):
        raise ValueError(f"reversible must be true or false, got {reversible!r}.")
    if reversible and norm == "batch":
        raise ValueError(
            "norm must be 'instance' for reversible blocks, got 'batch': computing a block again would count its input "
            "in the running statistics twice."
        )
