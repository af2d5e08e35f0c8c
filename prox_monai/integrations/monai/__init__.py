"""MONAI: expansion in its trainer, subnets in its evaluator, bundles.

Raises:
    ImportError: When what MONAI's engines and bundles need is not installed.
"""

from __future__ import annotations

from importlib.util import find_spec

_NEEDED = {
    "monai": "monai",
    "ignite": "pytorch-ignite",
    "fire": "fire",
    "nibabel": "nibabel",
    "PIL": "pillow",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
    "tensorboard": "tensorboard",
}
if _missing := [package for module, package in _NEEDED.items() if find_spec(module) is None]:
    raise ImportError(f'MONAI bundles need {", ".join(_missing)}: pip install "prox-monai[monai]".')

from prox_monai.elastic import check_resolutions  # noqa: E402
from prox_monai.integrations.monai.bundle import (  # noqa: E402
    check_bundle_root,
    check_patch,
    check_trained,
    check_unfinished,
    images_of,
    latest_checkpoint,
)
from prox_monai.integrations.monai.calibration import calibration_images  # noqa: E402
from prox_monai.integrations.monai.choice import LargestOfPhase, SubnetChoice  # noqa: E402
from prox_monai.integrations.monai.datalists import (  # noqa: E402
    balancing_weights,
    class_folder_split,
    decathlon_split,
    grey_images_of,
)
from prox_monai.integrations.monai.handler import ExpansionHandler, TrainedModel  # noqa: E402
from prox_monai.integrations.monai.intervals import PatientIntervals  # noqa: E402
from prox_monai.integrations.monai.network import SubnetInferer, SubnetNetwork  # noqa: E402
from prox_monai.integrations.monai.predictions import ClassPredictionSaver  # noqa: E402
from prox_monai.integrations.monai.ranks import of_first_rank  # noqa: E402
from prox_monai.integrations.monai.repeatable import EpochSampler, EpochSeedHandler  # noqa: E402
from prox_monai.integrations.monai.sampling import SubnetSamplingHandler  # noqa: E402
from prox_monai.integrations.monai.transforms import CheckChannelsd, CheckLabelsd, RegionsToLabelsd  # noqa: E402

__all__ = [
    "CheckChannelsd",
    "CheckLabelsd",
    "ClassPredictionSaver",
    "EpochSampler",
    "EpochSeedHandler",
    "ExpansionHandler",
    "LargestOfPhase",
    "PatientIntervals",
    "RegionsToLabelsd",
    "SubnetChoice",
    "SubnetInferer",
    "SubnetNetwork",
    "SubnetSamplingHandler",
    "TrainedModel",
    "balancing_weights",
    "calibration_images",
    "check_bundle_root",
    "check_patch",
    "check_resolutions",
    "check_trained",
    "check_unfinished",
    "class_folder_split",
    "decathlon_split",
    "grey_images_of",
    "images_of",
    "latest_checkpoint",
    "of_first_rank",
]
