"""The best subnet for a device, from its limits to a file that runs there: measured, searched, exported, reported."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from prox_monai.evaluation.cost import device_name
from prox_monai.evaluation.threads import torch_threads
from prox_monai.export.description import Description, read_description
from prox_monai.export.exported import load_exported
from prox_monai.export.formats import check_installed, form_of
from prox_monai.export.runtimes import make_runtime
from prox_monai.export.timing import side_by_side
from prox_monai.integrations.nnunet.calibration import cases_of
from prox_monai.integrations.nnunet.compression import Compression
from prox_monai.integrations.nnunet.deploy import deploy
from prox_monai.integrations.nnunet.device_report import Compared
from prox_monai.integrations.nnunet.found import draw_found
from prox_monai.integrations.nnunet.latency import measured_latency
from prox_monai.integrations.nnunet.planned import planned_costs, planned_module
from prox_monai.integrations.nnunet.report import Wanted as Shown
from prox_monai.integrations.nnunet.report import write_report
from prox_monai.integrations.nnunet.search import PICTURE, Found, Wanted, search_trained
from prox_monai.integrations.nnunet.trained import TrainedModel
from prox_monai.integrations.nnunet.unseen import evaluate_trained, preprocessed_folder
from prox_monai.search.predictor import SubnetLatency

LATENCIES, SEARCH, REPORT = "latency.jsonl", "found", "report.html"
_LARGEST = "largest.jsonl"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ForDevice:
    """What was found for a device.

    Args:
        found: by the search.
        folder: of the exported subnet.
        description: of it.
        rows: what it gives up: the exported subnet, the largest, and the network that nnU-Net plans; latency in the
            runtime, here, and Dice on the reporting half, None for the last.
    """

    found: Found
    folder: Path
    description: Description
    rows: tuple[Mapping[str, Any], ...]


def subnet_for_device(
    model: TrainedModel,
    wanted: Wanted,
    output: str | Path,
    environment: Mapping[str, str],
    *,
    runtime: str = "openvino-int8",
    threads: int = 1,
    latency: SubnetLatency | None = None,
    max_dice_drop: float = Compression.max_dice_drop,
) -> ForDevice:
    """Find the best subnet within limits, export it and report on it; what the folder holds is not done again.

    In the output folder are ``latency.jsonl``, ``found`` (see :func:`search_trained`), the export under the subnet's
    name, and ``report.html``. The subnet is that of the Pareto set with the best Dice on the tuning half; where only
    Dice is limited, the one that costs the least.

    Args:
        model: the trained model.
        wanted: limits and length of the search.
        output: folder of all results.
        environment: variables that name nnU-Net's folders.
        runtime: in which the subnet will run; a name in :data:`~prox_monai.export.formats.RUNTIMES`.
        threads: of it.
        latency: of subnets, measured elsewhere; if not given and latency is limited or weighed, it is measured here.
        max_dice_drop: by how much the exported form's Dice may be below the plain subnet's.

    Raises:
        ImportError: When a package is not installed that is needed.
        FileExistsError: When the folder holds something else where results go.
        FileNotFoundError: When the preprocessed data or their split are not there.
        ValueError: When there is no limit, no subnet meets the limits, or the folder holds results of another model.
        RuntimeError: When the exported form differs from the plain subnet by more than is allowed, made now or before.
    """
    if not (wanted.at_most or wanted.min_dice):
        raise ValueError("give a limit of latency, parameters, multiply-adds, memory or Dice; there is none.")
    format, precision = form_of(runtime)
    check_installed(format, precision)
    compression = Compression(precision=precision, max_dice_drop=max_dice_drop)
    output, preprocessed = Path(output), preprocessed_folder(model, environment)
    cases = cases_of(model, environment)
    output.mkdir(parents=True, exist_ok=True)
    if latency is None and "latency_ms" in {wanted.cost, *wanted.at_most}:
        latency = measured_latency(model, runtime, threads, output / LATENCIES)
    with tqdm(desc="subnets scored", unit="", disable=None, leave=False) as bar:
        found = search_trained(model, wanted, preprocessed, output / SEARCH, latency=latency, scored=bar.update)
    front = list(zip(found.front, found.reporting, strict=True))  # by increasing cost
    chosen, row = max(front, key=lambda pair: pair[0].dice) if wanted.at_most else front[0]
    draw_found(found, model, latency, output / SEARCH / PICTURE, row["key"])
    folder = output / f"{chosen.config.name}_{runtime}"
    if not folder.exists():
        with torch_threads(threads):  # of the comparison
            deploy(model, chosen.config, format, folder, cases=cases, compression=compression)
    description = read_description(folder)
    if (dice := description.checks.get("dice")) is not None:
        compression.check(dice["plain"] - dice["exported"], str(folder), dice["cases"])
    config = model.space.largest()
    (largest,) = evaluate_trained(model, [("largest", config)], preprocessed, output / _LARGEST, repeats=0)
    rows = _as_exported(row, description, runtime), largest, planned_costs(model)
    times = _side_by_side(model, folder, runtime, threads)
    _warn_of_latency(times[0], wanted.at_most.get("latency_ms"))
    timed = tuple(row | {"latency_ms": time} for row, time in zip(rows, times, strict=True))
    compared = Compared(timed, f"{runtime} on {device_name('cpu')}, threads: {threads}")
    _report(model, output, folder, compared, environment)
    return ForDevice(found, folder, description, timed)


def _side_by_side(model: TrainedModel, folder: Path, runtime: str, threads: int) -> list[float]:
    """The milliseconds of the exported subnet, the largest, and the network that nnU-Net plans, which take turns."""
    plain = {
        "largest": model.supernet.extract(model.space.largest()).eval(),
        "planned": planned_module(model.plans_manager, model.configuration_name, model.dataset_json),
    }
    shape = model.input_shape
    made = {name: make_runtime(runtime, network, shape, threads) for name, network in plain.items()}
    networks = {"exported": load_exported(folder, threads)[1], **made}
    return list(side_by_side(networks, torch.randn(1, *shape)).values())


def _as_exported(row: Mapping[str, Any], description: Description, runtime: str) -> dict[str, Any]:
    """The row of a subnet with the Dice of its exported form, where that is another one."""
    dice = description.checks.get("dice_reporting")
    return {
        **row,
        "name": f"{description.subnet}, {runtime}",
        "dice": dice["exported"] if dice else row["dice"],
    }


def _warn_of_latency(time: float, limit_ms: float | None) -> None:
    """Warn where what was exported is slower here than the limit: by the table it was not."""
    if limit_ms is not None and time > limit_ms:
        logger.warning("latency is %.2f ms here, above the limit of %g ms; does something else run?", time, limit_ms)


def _report(
    model: TrainedModel, output: Path, folder: Path, compared: Compared, environment: Mapping[str, str]
) -> None:
    tables, front = (output / SEARCH / "reporting.jsonl",), output / SEARCH / "front.json"
    shown = Shown(tables, front=front, exported=(folder,), compared=compared)
    try:
        write_report(model, shown, output / REPORT, environment)
    except ValueError as error:  # of rows that were timed on several machines, for example
        logger.warning("there is no report: %s", error)
