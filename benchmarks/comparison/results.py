"""What is kept of a unit: its time and its Dice."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prox_monai.evaluation.multiply_adds import ALIASES
from prox_monai.integrations.nnunet.checkpoint import read_stock
from prox_monai.training.checkpoint import read_safely

POLISH = "polish"
QUANTILES = (5, 25, 50, 75, 95)


def prox_result(fold_folder: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the result of a supernet, or of one subnet that was trained alone.

    Args:
        fold_folder: has ``checkpoint_final.pth`` and ``phases.json``.
        rows: the evaluated subnets: those with an alias for a name, and random ones.
    """
    log = read_safely(fold_folder / "checkpoint_final.pth")["logging"]
    phases = json.loads((fold_folder / "phases.json").read_text(encoding="utf-8"))
    seconds = log["train_seconds"]
    expansion = [second for second, stage in zip(seconds, log["stage"], strict=True) if stage != POLISH]
    named = {row["name"]: row for row in rows if row["name"] in ALIASES}
    drawn = {row["key"]: row for row in rows if row["name"] not in ALIASES}.values()
    return {
        "train_seconds": sum(seconds),
        "train_seconds_without_polish": sum(expansion),
        "multiply_adds_1e9": sum(log["multiply_adds"]),
        "phases": [{key: value for key, value in phase.items() if key != "space"} for phase in phases],
        "curve": {
            "loss": [round(value, 4) for value in log["task_losses"]],
            "seconds": [round(value, 2) for value in seconds],
            "stage": log["stage"],
            "phase": log["phase"],
        },
        "named": {alias: row["dice"] for alias, row in named.items()},
        "largest_dice_per_case": named["largest"]["dice_per_case"] if "largest" in named else None,
        "dice": distribution([row["dice"] for row in drawn]) if drawn else None,
        "subnets": [[row["key"], row["macs"], round(row["latency_ms"], 3), row["dice"]] for row in drawn],
        "measured_on": rows[0]["latency"],
    }


def stock_result(fold_folder: Path, cases: Sequence[str]) -> dict[str, Any]:
    """Return the result of one of nnU-Net's own trainings, from its own validation, mirroring included.

    Args:
        fold_folder: has ``checkpoint_final.pth`` and ``validation/summary.json``.
        cases: the cases that count.
    """
    log = read_stock(fold_folder / "checkpoint_final.pth")["logging"]
    summary = json.loads((fold_folder / "validation" / "summary.json").read_text(encoding="utf-8"))
    dice = {}
    for entry in summary["metric_per_case"]:
        case = Path(entry["reference_file"]).name.partition(".")[0]
        dice[case] = {label: values["Dice"] for label, values in entry["metrics"].items()}
    dice = {case: dice[case] for case in cases}
    labels = next(iter(dice.values()))
    per_label = [_mean(values[label] for values in dice.values()) for label in labels]
    seconds = log["train_seconds"][1:]  # the first epoch measures the speed
    return {
        "train_seconds": sum(seconds),
        "train_seconds_without_polish": sum(seconds),
        "steps": sum(log["steps"]),
        "curve": {
            "loss": [round(float(value), 4) for value in log["train_losses"][1:]],
            "seconds": [round(value, 2) for value in seconds],
            "stage": [""] * len(seconds),
            "phase": [0] * len(seconds),
        },
        "named": {"largest": _mean(per_label)},
        "largest_dice_per_case": {case: _mean(values.values()) for case, values in dice.items()},
    }


def distribution(values: Sequence[float]) -> dict[str, Any]:
    """Return number, mean, minimum, maximum and quantiles (in percent)."""
    ordered = sorted(values)
    hundredths = statistics.quantiles(ordered, n=100, method="inclusive") if len(ordered) > 1 else ordered * 99
    return {
        "subnets": len(ordered),
        "mean": statistics.fmean(ordered),
        "min": ordered[0],
        "max": ordered[-1],
        "quantiles": {str(percent): hundredths[percent - 1] for percent in QUANTILES},
    }


def _mean(values: Any) -> float | None:
    """The mean of the values that there are: a label that neither truth nor prediction has is NaN."""
    there = [float(value) for value in values if value is not None and not math.isnan(value)]
    return statistics.fmean(there) if there else None
