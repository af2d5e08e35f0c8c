"""U-Nets of inverted residuals from ordinary plans: a network that plans name by its dotted path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from prox_monai.networks.inverted_unet import EXPANSION, InvertedUNet, InvertedUNetArchitecture
from prox_monai.space import SectionConfig, SubnetConfig
from prox_monai.training.checkpoint import register_architecture

NETWORK_CLASS = f"{__name__}.inverted_unet"


def inverted_unet(
    input_channels: int,
    num_classes: int,
    *,
    features_per_stage: Sequence[int],
    kernel_sizes: Sequence[Sequence[int]],
    strides: Sequence[Sequence[int]],
    n_conv_per_stage: Sequence[int],
    n_conv_per_stage_decoder: Sequence[int],
    expansion: float,
    reversible: bool,
    deep_supervision: bool = False,
) -> InvertedUNet:
    """Build what plans describe, as nnU-Net's ``get_network_from_plans`` asks for it.

    Args:
        input_channels: channels of the image.
        num_classes: segmentation heads.
        features_per_stage: channels per level, highest resolution first.
        kernel_sizes: kernel size of the depth-wise convolutions per level and axis.
        strides: stride per level and axis.
        n_conv_per_stage: blocks per encoder stage.
        n_conv_per_stage_decoder: blocks per decoder stage, deepest first.
        expansion: channels of a depth-wise convolution, as a multiple of those that its block gives.
        reversible: whether training computes residual blocks again instead of storing their activations.
        deep_supervision: whether the logits of every decoder stage are returned.
    """
    return InvertedUNet(
        len(kernel_sizes[0]),
        input_channels,
        out_channels=num_classes,
        channels=features_per_stage,
        strides=strides,
        kernels=kernel_sizes,
        depths=[*n_conv_per_stage, *n_conv_per_stage_decoder],
        expansion=expansion,
        reversible=reversible,
        deep_supervision=deep_supervision,
    )


def inverted_plans(arch_kwargs: dict[str, Any], *, reversible: bool) -> dict[str, Any]:
    """Return what plans say of a U-Net of inverted residuals in place of a plain one.

    Levels, channels, strides, kernels and blocks per stage stay as they are planned; normalisation is nnU-Net's usual
    one, of instances.

    Args:
        arch_kwargs: ``architecture.arch_kwargs`` of a plain network's plans.
        reversible: whether training computes residual blocks again instead of storing their activations.
    """
    kept = ("features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage", "n_conv_per_stage_decoder")
    return {
        "network_class_name": NETWORK_CLASS,
        "arch_kwargs": {name: arch_kwargs[name] for name in kept} | {"expansion": EXPANSION, "reversible": reversible},
        "_kw_requires_import": [],
    }


@dataclass(frozen=True, slots=True)
class PlannedInvertedUNetArchitecture(InvertedUNetArchitecture):
    """The rule from a configuration to :func:`inverted_unet`, given what plans say; nnU-Net's stages are sections.

    Args:
        planned_depths: blocks per section as planned.
    """

    planned_depths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        InvertedUNetArchitecture.__post_init__(self)
        object.__setattr__(self, "planned_depths", tuple(self.planned_depths))

    @classmethod
    def from_plans(
        cls, configuration: ConfigurationManager, in_channels: int, out_channels: int, deep_supervision: bool
    ) -> PlannedInvertedUNetArchitecture:
        """Read the planned network, which is one of inverted residuals."""
        kwargs = configuration.network_arch_init_kwargs
        return cls(
            spatial_dims=len(kwargs["kernel_sizes"][0]),
            in_channels=in_channels,
            out_channels=out_channels,
            channels=tuple(kwargs["features_per_stage"]),
            strides=kwargs["strides"],
            deep_supervision=deep_supervision,
            planned_kernels=kwargs["kernel_sizes"],
            expansion=kwargs["expansion"],
            reversible=kwargs["reversible"],
            planned_depths=(*kwargs["n_conv_per_stage"], *kwargs["n_conv_per_stage_decoder"]),
        )

    def planned(self) -> SubnetConfig:
        """Return the configuration of the network as planned."""
        kernels = [max(kernel) for kernel in self.planned_kernels]
        depths_and_kernels = zip(self.planned_depths, [*kernels, *kernels[-2::-1]], strict=True)
        return SubnetConfig(tuple(SectionConfig(depth, 1.0, kernel) for depth, kernel in depths_and_kernels))

    def arch_kwargs_of(self, config: SubnetConfig) -> dict[str, Any]:
        """Return the ``arch_kwargs`` with which plans describe a subnet.

        Raises:
            ValueError: When ``config`` has another number of sections or a width that leaves too few channels.
        """
        stages = len(self.channels)
        return {
            "features_per_stage": self.channels_of(config),
            "kernel_sizes": [list(kernel) for kernel in self.kernels_of(config)],
            "strides": [list(stride) for stride in self.strides],
            "n_conv_per_stage": list(config.depths[:stages]),
            "n_conv_per_stage_decoder": list(config.depths[stages:]),
            "expansion": self.expansion,
            "reversible": self.reversible,
        }


register_architecture("planned_inverted_unet", f"{__name__}:{PlannedInvertedUNetArchitecture.__name__}")
