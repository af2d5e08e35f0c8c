"""Subnets, search spaces and schedules as plain values: standard library only."""

from __future__ import annotations

from prox_monai.space.groups import unet_groups
from prox_monai.space.phase import Phase, Stage
from prox_monai.space.schedule import PhaseSchedule
from prox_monai.space.search_space import SearchSpace
from prox_monai.space.subnet import Dimension, SectionConfig, SubnetConfig

__all__ = [
    "Dimension",
    "Phase",
    "PhaseSchedule",
    "SearchSpace",
    "SectionConfig",
    "Stage",
    "SubnetConfig",
    "unet_groups",
]
