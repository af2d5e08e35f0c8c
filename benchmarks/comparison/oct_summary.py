"""What ``benchmarks/oct.py`` says of all units that are done: time and balanced accuracy of each method."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from comparison.bars import BASELINE, timed_with_baseline
from comparison.results import distribution
from comparison.summary import bucket_table, devices
from prox_monai.evaluation.classification import balanced_accuracy, bootstrap_over_patients
from prox_monai.evaluation.multiply_adds import ALIASES

CHANCE = 0.25
_HEAD = ("method", "folds", "minutes", "÷ PS", "random: mean", "min", "max", "largest, pooled (95 %)")

Results = Sequence[Mapping[str, Any]]


def summarise(results: Results) -> dict[str, Any]:
    """Return a row per method, balanced accuracy by latency, and the units without subnets and predictions."""
    left_out = ("subnets", "largest", "environment")
    methods = dict.fromkeys(result["method"] for result in results)
    shared = shared_folds(results)
    return {
        "images": len({image["case"] for result in results for image in result["largest"]}),
        "machine": {**results[-1]["environment"], "device": devices(results)},
        "shared_folds": sorted(shared),
        "methods": {name: method_row(name, results, shared) for name in methods},
        "latency_buckets": by_latency(comparable(results)),
        "units": [{key: value for key, value in r.items() if key not in left_out} for r in results],
    }


def shared_folds(results: Results) -> set[int]:
    """Return the folds that all methods have, on which alone they compare."""
    folds: dict[str, set[int]] = {}
    for result in results:
        folds.setdefault(result["method"], set()).add(result["fold"])
    return set.intersection(*folds.values())


def comparable(results: Results) -> Results:
    """Return the units of the folds that all methods have; all units where there is no such fold."""
    shared = shared_folds(results)
    return [result for result in results if result["fold"] in shared] or results


def method_row(method: str, results: Results, shared: Collection[int]) -> dict[str, Any]:
    """Return time and balanced accuracy of a method over its folds; a random subnet counts once, its folds' mean.

    Times are those on the processor or GPU that most of the baseline was trained on, see ``timed_with_baseline``.

    Args:
        method: which.
        results: of all units.
        shared: the folds of all methods, on which alone they compare.
    """
    runs = [result for result in results if result["method"] == method]
    timed = [result["train_seconds"] for result in timed_with_baseline(results) if result["method"] == method]
    base = {_timed_training(result): result["train_seconds"] for result in results if result["method"] == BASELINE}
    ratios = [run["train_seconds"] / base[_timed_training(run)] for run in runs if _timed_training(run) in base]
    per_subnet: dict[str, list[float]] = {}
    for run in runs:
        for key, *_, score in run["subnets"]:
            per_subnet.setdefault(key, []).append(score)
    compared = [score for run in runs if run["fold"] in shared for *_, score in run["subnets"]]
    return {
        "folds": sorted(run["fold"] for run in runs),
        "train_seconds": _mean(timed),
        "train_seconds_ratio": statistics.fmean(ratios) if ratios else None,
        "random": distribution([statistics.fmean(scores) for scores in per_subnet.values()]),
        "random_mean_of_shared_folds": _mean(compared),
        "named": {alias: statistics.fmean(run["named"][alias] for run in runs) for alias in ALIASES},
        "largest_pooled": pooled([image for run in runs for image in run["largest"]]),
    }


def pooled(images: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return balanced accuracy over the predictions of all folds, with a bootstrap over patients.

    Args:
        images: patient, label and probabilities of each.
    """
    labels = torch.tensor([image["label"] for image in images])
    probabilities = torch.tensor([image["probabilities"] for image in images])
    patients = [image["patient"] for image in images]
    estimate, low, high = bootstrap_over_patients(labels, probabilities, patients, balanced_accuracy)
    return {"balanced_accuracy": estimate, "low": low, "high": high, "above_chance": low > CHANCE}


def by_latency(results: Results) -> dict[str, Any]:
    """Return mean balanced accuracy by quantile bucket of latency (ProX, figure 4)."""
    buckets = bucket_table(results)
    return {"milliseconds": buckets["milliseconds"], "mean_balanced_accuracy": buckets["mean_dice"]}


def table(summary: Mapping[str, Any]) -> str:
    """Return the methods as plain text, in columns."""
    lines = [_HEAD, *(_cells(method, row) for method, row in summary["methods"].items())]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _cells(method: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    largest, ratio = row["largest_pooled"], row["train_seconds_ratio"]
    return (
        method,
        str(len(row["folds"])),
        "-" if row["train_seconds"] is None else f"{row['train_seconds'] / 60:.1f}",
        "-" if ratio is None else f"{ratio:.2f}",
        *(f"{row['random'][name]:.3f}" for name in ("mean", "min", "max")),
        f"{largest['balanced_accuracy']:.3f} ({largest['low']:.3f} to {largest['high']:.3f})",
    )


def _timed_training(result: Mapping[str, Any]) -> tuple[Any, ...]:
    """What two units have in common whose time is compared."""
    return result["fold"], result["environment"]["device"]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None
