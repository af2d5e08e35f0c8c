"""Elastic tensors: a supernet whose subnets are plain networks on corners of shared tensors."""

from prox_monai.elastic.architecture import Architecture, ReorderableArchitecture
from prox_monai.elastic.conformance import check_architecture
from prox_monai.elastic.freeze import Freeze
from prox_monai.elastic.reorder import reorder_channels
from prox_monai.elastic.resolution import check_resolutions, scaled_size
from prox_monai.elastic.supernet import Supernet

__all__ = [
    "Architecture",
    "Freeze",
    "ReorderableArchitecture",
    "Supernet",
    "check_architecture",
    "check_resolutions",
    "reorder_channels",
    "scaled_size",
]
