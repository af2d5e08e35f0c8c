"""The network that nnU-Net plans, to compare subnets with: its cost, and its Dice where it was trained."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from prox_monai.data.json_file import read_json
from prox_monai.evaluation.cost import device_name, latency, multiply_adds, parameters
from prox_monai.evaluation.memory import tensor_bytes
from prox_monai.evaluation.threads import torch_threads
from prox_monai.export.timing import side_by_side
from prox_monai.integrations.nnunet.scoring import mean_dice
from prox_monai.integrations.nnunet.trained import TrainedModel
from prox_monai.search.latency import MakeRuntime

_PLANNED = "nnU-Net, as planned"


def planned_network(model: TrainedModel, rows: Sequence[Mapping[str, Any]], stock: Path | None) -> dict[str, Any]:
    """Return the network that nnU-Net plans, as a row: its cost here and now, its Dice from a training of its own.

    It is timed on the GPU where the subnets were, if that is here, else on the CPU.

    Args:
        model: whose plans hold.
        rows: of the subnets; the Dice is that of the cases they were scored on.
        stock: folder of the fold, whose ``validation/summary.json`` is read.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When it lacks a case.
    """
    network = planned_module(model.plans_manager, model.configuration_name, model.dataset_json)
    measured = rows[0]["latency"]
    device = "cuda" if torch.cuda.is_available() and measured["device"] == device_name("cuda") else "cpu"
    time = _latency_ms(network, model.input_shape, measured["threads"], device)
    ending = model.dataset_json["file_ending"]
    dice = None if stock is None else validated_dice(stock, rows[0]["dice_per_case"], ending)
    return _row(network, model.input_shape, time, dice) | {"device": device_name(device)}


def planned_costs(model: TrainedModel, runtime: MakeRuntime | None = None) -> dict[str, Any]:
    """Return the network that nnU-Net plans, as a row without Dice: its costs, latency in a runtime of this device.

    Args:
        model: whose plans hold.
        runtime: makes the runtime; without it latency is None.
    """
    network = planned_module(model.plans_manager, model.configuration_name, model.dataset_json)
    shape, time = model.input_shape, None
    if runtime is not None:
        time = side_by_side({_PLANNED: runtime(network, shape)}, torch.randn(1, *shape))[_PLANNED]
    return _row(network, shape, time)


def _row(
    network: nn.Module, input_shape: Sequence[int], latency_ms: float | None, dice: float | None = None
) -> dict[str, Any]:
    return {
        "name": _PLANNED,
        "parameters": parameters(network),
        "macs": multiply_adds(network, input_shape),
        "memory_bytes": tensor_bytes(network, input_shape),
        "latency_ms": latency_ms,
        "dice": dice,
    }


def _latency_ms(network: nn.Module, input_shape: Sequence[int], threads: int, device: str) -> float:
    """Time a network with as many threads as the subnets were timed with."""
    with torch_threads(threads):
        return latency(network, input_shape, device=device, repeats=5, warmup=2).median_ms


def planned_module(plans: PlansManager, configuration_name: str, dataset_json: dict[str, Any]) -> nn.Module:
    """Return the network that plans describe, with its initial weights, in evaluation mode."""
    configuration = plans.get_configuration(configuration_name)
    return get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        determine_num_input_channels(plans, configuration, dataset_json),
        plans.get_label_manager(dataset_json).num_segmentation_heads,
        deep_supervision=False,
    ).eval()


def validated_dice(fold: Path, cases: Collection[str], ending: str) -> float:
    """Return the mean Dice of these cases as nnU-Net validated a fold.

    Args:
        fold: its folder.
        cases: names of the cases.
        ending: of the files of label maps, as in ``dataset.json``.

    Raises:
        FileNotFoundError: When the fold was not validated.
        ValueError: When a case is missing.
    """
    path = fold / "validation" / "summary.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; {fold} should be a fold that nnU-Net trained and validated.")
    found = {
        Path(case["prediction_file"]).name.removesuffix(ending): {
            label: values["Dice"] for label, values in case["metrics"].items()
        }
        for case in read_json(path, "metric_per_case")["metric_per_case"]
    }
    if missing := sorted(set(cases) - found.keys()):
        raise ValueError(f"{path} lacks {len(missing)} of the cases that subnets were scored on, such as {missing[0]}.")
    return mean_dice({case: found[case] for case in cases})
