"""Settings and plans together: which space is trained in which phases, on which supernet."""

from __future__ import annotations

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from prox_monai.elastic import Supernet, check_resolutions
from prox_monai.integrations.nnunet.architecture import PlainConvUNetArchitecture
from prox_monai.integrations.nnunet.settings import ProXSettings
from prox_monai.space import PhaseSchedule, SearchSpace


def plan_training(settings: ProXSettings, planned: ConfigurationManager) -> tuple[SearchSpace, PhaseSchedule]:
    """Fit the settings to the plans.

    Raises:
        NotImplementedError: When the configuration is the second stage of a cascade.
        ValueError: When candidates, resolutions, epochs or names of subnets do not fit.
    """
    if planned.previous_stage_name is not None:
        raise NotImplementedError(
            "ProXTrainer does not train the second stage of a cascade; use 3d_fullres, 3d_lowres or 2d."
        )
    architecture = PlainConvUNetArchitecture.from_plans(planned, 1, 1, True)
    space = settings.search_space((architecture.sections + 1) // 2)
    check_resolutions(space.resolution, planned.patch_size, architecture.stride)
    architecture.arch_kwargs_of(space.smallest())
    for name in set(settings.validate) - {"middle"}:
        try:
            space.parse(name)
        except ValueError as error:
            raise ValueError(f"validate: {str(error).rstrip('.')}, and middle.") from error
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
    architecture = PlainConvUNetArchitecture.from_plans(
        configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
    )
    torch.manual_seed(settings.seed)
    return settings.supernet(architecture, plan_training(settings, configuration_manager)[0])
