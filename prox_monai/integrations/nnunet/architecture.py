"""nnU-Net's own ``PlainConvUNet`` as an architecture: every subnet is a network that stock nnU-Net can build."""

from __future__ import annotations

import json
import pydoc
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import Tensor, nn

from prox_monai.networks.blocks import continue_block
from prox_monai.networks.channel_groups import ChannelGroups, unet_channel_groups
from prox_monai.networks.unet import UNetArchitecture
from prox_monai.space import SectionConfig, SubnetConfig
from prox_monai.training.checkpoint import register_architecture

_NETWORK_CLASS = "dynamic_network_architectures.architectures.unet.PlainConvUNet"


@dataclass(frozen=True, slots=True)
class PlainConvUNetArchitecture:
    """The rule from a configuration to nnU-Net's ``PlainConvUNet``, given what nnU-Net planned.

    nnU-Net's stages are sections here: encoder stages (the last is the bottleneck), then decoder stages in the
    order they run. A decoder stage takes channels and kernel from its encoder stage, as in every stock network.

    Args:
        in_channels: image channels.
        out_channels: segmentation heads.
        arch_kwargs: the plans' ``architecture.arch_kwargs``, as JSON text.
        requires_import: the plans' ``architecture._kw_requires_import``.
        deep_supervision: whether networks return the logits of every decoder stage.
    """

    in_channels: int
    out_channels: int
    arch_kwargs: str
    requires_import: tuple[str, ...]
    deep_supervision: bool = True

    @classmethod
    def from_plans(
        cls,
        configuration: ConfigurationManager,
        in_channels: int,
        out_channels: int,
        deep_supervision: bool,
    ) -> PlainConvUNetArchitecture:
        """Read the planned network.

        Raises:
            NotImplementedError: When the plans ask for another class of network.
        """
        if configuration.network_arch_class_name != _NETWORK_CLASS:
            raise NotImplementedError(
                f"ProXTrainer makes PlainConvUNet elastic; the plans ask for {configuration.network_arch_class_name}. "
                f"Use plans with a plain U-Net, for example nnUNetPlans."
            )
        return cls(
            in_channels,
            out_channels,
            json.dumps(configuration.network_arch_init_kwargs, sort_keys=True),
            tuple(configuration.network_arch_init_kwargs_req_import),
            deep_supervision,
        )

    def __post_init__(self) -> None:
        object.__setattr__(self, "requires_import", tuple(self.requires_import))

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return self._levels.spatial_dims

    @property
    def sections(self) -> int:
        """Number of encoder and decoder stages."""
        return self._levels.sections

    @property
    def stride(self) -> tuple[int, ...]:
        """Product of the strides per spatial axis."""
        return self._levels.stride

    def planned(self) -> SubnetConfig:
        """Return the configuration of the network as planned."""
        kwargs = json.loads(self.arch_kwargs)
        depths = [*kwargs["n_conv_per_stage"], *kwargs["n_conv_per_stage_decoder"]]
        kernels = [max(kernel) for kernel in kwargs["kernel_sizes"]]
        return SubnetConfig(
            tuple(
                SectionConfig(depth, 1.0, kernel)
                for depth, kernel in zip(depths, [*kernels, *kernels[-2::-1]], strict=True)
            )
        )

    def arch_kwargs_of(self, config: SubnetConfig) -> dict[str, Any]:
        """Return the ``arch_kwargs`` with which stock plans describe a subnet."""
        levels = self._levels
        depths, stages = config.depths, len(levels.channels)
        return json.loads(self.arch_kwargs) | {
            "features_per_stage": levels.channels_of(config),
            "kernel_sizes": [list(kernel) for kernel in levels.kernels_of(config)],
            "n_conv_per_stage": list(depths[:stages]),
            "n_conv_per_stage_decoder": list(depths[stages:]),
        }

    def build(self, config: SubnetConfig) -> nn.Module:
        """Build the stock network of ``config`` with nnU-Net's initialisation; ``resolution`` plays no part.

        Raises:
            ValueError: When ``config`` has another number of sections or a width that leaves no channel.
        """
        # As get_network_from_plans does, which looks all classes up again for every network.
        network = PlainConvUNet(
            input_channels=self.in_channels,
            num_classes=self.out_channels,
            deep_supervision=self.deep_supervision,
            **self.arch_kwargs_of(config) | _imported(self.arch_kwargs, self.requires_import),
        )
        if not torch.empty(0).is_meta:  # where there is nothing to initialise
            network.apply(network.initialize)
        return network

    def canonical(self, config: SubnetConfig) -> SubnetConfig:
        """Return the one configuration that names the network of ``config``."""
        return self._levels.canonical(config)

    def concatenated(self, config: SubnetConfig) -> Mapping[str, tuple[int, ...]]:
        """Return, per weight after a concatenation, the channels of ``(up-sampled, skip)``."""
        skips = self._levels.channels_of(config)[-2::-1]
        return {f"decoder.stages.{i}.convs.0.conv.weight": (channels,) * 2 for i, channels in enumerate(skips)}

    def block_prefix(self, section: int, block: int) -> str:
        """Return the prefix of the names of all tensors of one convolution block."""
        encoder_stages = len(self._levels.channels)
        if section < encoder_stages:
            return f"encoder.stages.{section}.0.convs.{block}."
        return f"decoder.stages.{section - encoder_stages}.convs.{block}."

    def continue_depth(
        self, network: nn.Module, section: int, block: int, moments: tuple[Tensor, Tensor] | None = None
    ) -> None:
        """Initialise a block beyond a stage's first so that it hardly changes what the block before it gives.

        Raises:
            NotImplementedError: When the plans do not ask for convolution, affine norm, (leaky) ReLU in this order.
        """
        before, new = (network.get_submodule(self.block_prefix(section, b)[:-1]) for b in (block - 1, block))
        activation = new.all_modules[-1]
        affine = getattr(getattr(new, "norm", None), "affine", False)
        if not affine or not isinstance(activation, (nn.ReLU, nn.LeakyReLU)):
            raise NotImplementedError(
                "growth `preserving` needs blocks of convolution, affine norm and (leaky) ReLU; use growth `host`."
            )
        continue_block(before.norm, new.conv, new.norm, getattr(activation, "negative_slope", 0.0), moments)

    def channel_groups(self, config: SubnetConfig) -> ChannelGroups:
        """Return which modules of the network of ``config`` share channels, see :func:`unet_channel_groups`."""
        return unet_channel_groups(
            config.depths, self.block_prefix, "decoder.transpconvs.{}.", "decoder.seg_layers.{}."
        )

    @property
    def _levels(self) -> UNetArchitecture:
        return _levels_of(self.arch_kwargs, self.in_channels, self.out_channels)


register_architecture("plain_conv_unet", f"{__name__}:{PlainConvUNetArchitecture.__name__}")


@lru_cache(maxsize=64)
def _levels_of(arch_kwargs: str, in_channels: int, out_channels: int) -> UNetArchitecture:
    """The levels of the planned network: channels, strides and kernels, with the arithmetic of widths on them."""
    kwargs = json.loads(arch_kwargs)
    return UNetArchitecture(
        spatial_dims=len(kwargs["kernel_sizes"][0]),
        in_channels=in_channels,
        out_channels=out_channels,
        channels=tuple(kwargs["features_per_stage"]),
        strides=tuple(map(tuple, kwargs["strides"])),
        planned_kernels=tuple(map(tuple, kwargs["kernel_sizes"])),
    )


@lru_cache(maxsize=64)
def _imported(arch_kwargs: str, names: tuple[str, ...]) -> dict[str, Any]:
    """The entries of the plans that name classes, as classes."""
    kwargs = json.loads(arch_kwargs)
    return {name: kwargs[name] and pydoc.locate(kwargs[name]) for name in names}
