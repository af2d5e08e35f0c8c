"""Train one elastic network by progressive expansion, deploy any of its subnets as a plain network.

Names are loaded on first use (PEP 562): ``prox_monai.space`` and the command line start without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prox_monai.elastic import Architecture as Architecture
    from prox_monai.elastic import Freeze as Freeze
    from prox_monai.elastic import Supernet as Supernet
    from prox_monai.elastic import check_architecture as check_architecture
    from prox_monai.networks import UNetArchitecture as UNetArchitecture
    from prox_monai.space import Dimension as Dimension
    from prox_monai.space import Phase as Phase
    from prox_monai.space import PhaseSchedule as PhaseSchedule
    from prox_monai.space import SearchSpace as SearchSpace
    from prox_monai.space import SectionConfig as SectionConfig
    from prox_monai.space import SubnetConfig as SubnetConfig
    from prox_monai.training import Distillation as Distillation
    from prox_monai.training import ProgressiveTraining as ProgressiveTraining
    from prox_monai.training import load_checkpoint as load_checkpoint
    from prox_monai.training import save_checkpoint as save_checkpoint

__version__ = "0.1.0"

_HOME = {
    "Architecture": "elastic",
    "Dimension": "space",
    "Distillation": "training",
    "Freeze": "elastic",
    "Phase": "space",
    "PhaseSchedule": "space",
    "ProgressiveTraining": "training",
    "SearchSpace": "space",
    "SectionConfig": "space",
    "SubnetConfig": "space",
    "Supernet": "elastic",
    "UNetArchitecture": "networks",
    "check_architecture": "elastic",
    "load_checkpoint": "training",
    "save_checkpoint": "training",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
