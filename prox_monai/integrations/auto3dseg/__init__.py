"""Auto3DSeg: ``prox`` as an algorithm beside segresnet, dints and swinunetr.

Raises:
    ImportError: When what MONAI's engines and Auto3DSeg need is not installed.
"""

from __future__ import annotations

from importlib.util import find_spec

import prox_monai.integrations.monai  # noqa: F401  says what of MONAI's is missing

if find_spec("yaml") is None:
    raise ImportError('Auto3DSeg needs pyyaml: pip install "prox-monai[auto3dseg]".')

from prox_monai.integrations.auto3dseg.algo import ProxAlgo
from prox_monai.integrations.auto3dseg.algos import algos
from prox_monai.integrations.auto3dseg.check import check_input
from prox_monai.integrations.auto3dseg.infer import InferClass
from prox_monai.integrations.auto3dseg.members import add_subnet
from prox_monai.integrations.auto3dseg.parameters import Parameters

__all__ = ["InferClass", "Parameters", "ProxAlgo", "add_subnet", "algos", "check_input"]
