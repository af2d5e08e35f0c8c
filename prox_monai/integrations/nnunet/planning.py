"""Settings and plans together: which space is trained in which phases, on which supernet."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from prox_monai.elastic import Supernet, check_resolutions
from prox_monai.evaluation.multiply_adds import check_name
from prox_monai.integrations.nnunet.architecture import PlainConvUNetArchitecture
from prox_monai.integrations.nnunet.inverted import NETWORK_CLASS, PlannedInvertedUNetArchitecture, inverted_plans
from prox_monai.integrations.nnunet.settings import ProXSettings
from prox_monai.space import PhaseSchedule, SearchSpace

PlannedArchitecture = PlainConvUNetArchitecture | PlannedInvertedUNetArchitecture


def architecture_of(
    planned: ConfigurationManager, in_channels: int, out_channels: int, deep_supervision: bool
) -> PlannedArchitecture:
    """Read the planned network.

    Raises:
        NotImplementedError: When the plans ask for another class of network.
    """
    inverted = planned.network_arch_class_name == NETWORK_CLASS
    family = PlannedInvertedUNetArchitecture if inverted else PlainConvUNetArchitecture
    return family.from_plans(planned, in_channels, out_channels, deep_supervision)


def network_of(planned: ConfigurationManager) -> str:
    """Return the setting ``network`` with which plans are what they are."""
    if planned.network_arch_class_name != NETWORK_CLASS:
        return "plain"
    return "reversible" if planned.network_arch_init_kwargs["reversible"] else "inverted"


def with_network(planned: ConfigurationManager, network: str) -> ConfigurationManager:
    """Return a configuration that plans the network that the setting ``network`` asks for, of the same stages.

    Raises:
        NotImplementedError: When the plans ask for another class of network.
        ValueError: When the plans name a network of inverted residuals that the setting does not ask for.
    """
    if (present := network_of(planned)) == network:
        return planned
    if present != "plain":
        raise ValueError(f"network must be {present!r}, as these plans ask for it, got {network!r}.")
    architecture_of(planned, 1, 1, True)
    architecture = inverted_plans(planned.network_arch_init_kwargs, reversible=network == "reversible")
    return ConfigurationManager(planned.configuration | {"architecture": architecture})


def plans_with_network(plans: dict[str, Any], configuration_name: str, network: str) -> dict[str, Any]:
    """Return plans whose configuration names the network that the setting ``network`` asks for.

    Prediction builds a network from the plans beside its weights alone, so these have to name it.

    Raises:
        NotImplementedError: When the plans ask for another class of network.
        ValueError: When the plans name a network of inverted residuals that the setting does not ask for.
    """
    planned = PlansManager(plans).get_configuration(configuration_name)
    if (wanted := with_network(planned, network)) is planned:
        return plans
    plans = copy.deepcopy(plans)
    plans["configurations"][configuration_name]["architecture"] = wanted.configuration["architecture"]
    return plans


def check_other_folds(folder: Path, configuration_name: str, network: str) -> None:
    """Check that a results folder, whose one ``plans.json`` holds for all folds, has no folds of another network.

    Raises:
        FileExistsError: When it has.
    """
    path = folder / "plans.json"
    there = network_of(PlansManager(str(path)).get_configuration(configuration_name)) if path.is_file() else network
    if there != network:
        raise FileExistsError(
            f"{folder} holds folds of network {there!r}, which could not be predicted with beside one of {network!r}; "
            f"choose another nnUNet_results, a subclass of the trainer, or set `overwrite: true`."
        )


def plan_training(settings: ProXSettings, planned: ConfigurationManager) -> tuple[SearchSpace, PhaseSchedule]:
    """Fit the settings to the plans.

    Raises:
        NotImplementedError: When the configuration is the second stage of a cascade, or the plans ask for another class
            of network, or for blocks that depth cannot grow by.
        ValueError: When candidates, resolutions, epochs, names of subnets or the network do not fit.
    """
    if planned.previous_stage_name is not None:
        raise NotImplementedError(
            "ProXTrainer does not train the second stage of a cascade; use 3d_fullres, 3d_lowres or 2d."
        )
    architecture = architecture_of(with_network(planned, settings.network), 1, 1, True)
    space = settings.search_space((architecture.sections + 1) // 2)
    check_resolutions(space.resolution, planned.patch_size, architecture.stride)
    architecture.arch_kwargs_of(space.smallest())
    for name in settings.validate:
        check_name(space, name, "validate")
    if settings.growth == "preserving" and len(space.depth) > 1:
        with torch.device("meta"), torch.no_grad():
            architecture.continue_depth(architecture.build(space.largest()), 0, space.depth[0])
    return space, settings.phase_schedule(space, settings.epochs)


def build_supernet(
    settings: ProXSettings,
    plans_manager: PlansManager,
    configuration_manager: ConfigurationManager,
    num_input_channels: int,
    num_output_channels: int,
    enable_deep_supervision: bool = True,
) -> Supernet:
    """Build the supernet of a training; nnU-Net's ``build_network_architecture`` with the settings in front."""
    architecture = architecture_of(
        configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
    )
    torch.manual_seed(settings.seed)
    return settings.supernet(architecture, plan_training(settings, configuration_manager)[0])
