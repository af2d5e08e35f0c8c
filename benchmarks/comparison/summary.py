"""The results of all units that are done as one JSON file: medians, ratios, buckets, bars."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from comparison.bars import BASELINE, bars, seed_and_fold, timed_training, timed_with_baseline
from comparison.methods import Method
from comparison.units import Unit
from prox_monai.data.complete import complete_file
from prox_monai.search.pareto import latency_buckets

BUCKETS = 5
_LIST = re.compile(r"\[\s+((?:\[[^\[\]]*\]|[^\[\]{}])*?)\s+\]")


def finished_units(root: Path, methods: Iterable[Method]) -> list[Unit]:
    """Return all units of these methods that are done, by method, seed and fold."""
    found = []
    for method in methods:
        of_method = []
        for path in (root / method.name).glob("seed*/fold*/result.json"):
            seed, fold = path.parts[-3].removeprefix("seed"), path.parts[-2].removeprefix("fold")
            of_method.append(Unit(method, int(seed), int(fold), root))
        found += sorted(of_method, key=lambda unit: (unit.seed, unit.fold))
    return found


def summarise(
    results: Sequence[Mapping[str, Any]],
    methods: Sequence[Method],
    *,
    command: str,
    dataset: str,
    ranking: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the summary.

    Args:
        results: the units that are done.
        methods: all methods, those that are not trained yet included.
        command: what made them.
        dataset: what they were trained on.
        ranking: the result of ``ranking.py``, if there is one.
    """
    done = {result["method"] for result in results}
    measured = next((result["measured_on"] for result in results if "measured_on" in result), {})
    return {
        "command": command,
        "dataset": dataset,
        "cases": sum({result["fold"]: result["cases"] for result in results}.values()),
        "dates": [min(result["date"] for result in results), max(result["date"] for result in results)],
        "machine": {
            **results[-1]["environment"],
            "device": devices(results),
            "commits": list(dict.fromkeys(result["environment"].get("commit") for result in results)),
            "threads": measured.get("threads"),
        },
        "not_trained": [method.name for method in methods if method.name not in done],
        "bars": bars(results, ranking),
        "methods": {
            name: medians([result for result in results if result["method"] == name], results)
            for name in dict.fromkeys(result["method"] for result in results)
        },
        "latency_buckets": bucket_table(results),
        "units": [_shortened(result) for result in results],
    }


def devices(results: Iterable[Mapping[str, Any]]) -> str:
    """Return the processors or GPUs that units ran on."""
    return " and ".join(dict.fromkeys(result["environment"]["device"] for result in results))


def medians(runs: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the medians over the units of one method; costs also against the baseline's of the same seed and fold.

    Times are those of units on the device of the baseline, see ``timed_with_baseline``; their ratios are of pairs that
    share a device, whichever it is.
    """
    row: dict[str, Any] = {"seeds": sorted({run["seed"] for run in runs}), "units": len(runs)}
    timed = [run for run in timed_with_baseline(results) if run["method"] == runs[0]["method"]]
    for field, counted, key in (
        ("train_seconds", timed, timed_training),
        ("train_seconds_without_polish", timed, timed_training),
        ("multiply_adds_1e9", runs, seed_and_fold),
    ):
        baseline = {key(result): result for result in results if result["method"] == BASELINE}
        pairs = [(run, baseline[key(run)]) for run in runs if key(run) in baseline]
        row[field] = _median(run.get(field) for run in counted)
        row[f"{field}_ratio"] = _median(
            run[field] / base[field] for run, base in pairs if run.get(field) is not None and base.get(field)
        )
    for statistic in ("mean", "min", "max"):
        row[statistic] = _median(run["dice"][statistic] for run in runs if run.get("dice"))
    for alias in ("smallest", "middle", "largest"):
        row[alias] = _median(run["named"].get(alias) for run in runs)
    return row


def bucket_table(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return mean Dice by latency bucket (ProX, figure 4).

    A subnet's latency is the median of what the units measured for it on the device of the first: it does not depend on
    the weights. The buckets are quantiles over all subnets that any unit evaluated.
    """
    scores = bucket_scores(results)
    if not scores:
        return {}
    latencies = [latency for pairs in scores.values() for latency, _ in pairs]
    distinct = sorted(set(latencies))
    buckets = min(BUCKETS, len(distinct))
    index = dict(zip(distinct, latency_buckets(distinct, buckets), strict=True))
    edges = [[min(part), max(part)] for part in ([x for x in distinct if index[x] == b] for b in range(buckets))]
    return {
        "device": results[0]["environment"]["device"],
        "milliseconds": edges,
        "mean_dice": {
            method: [_mean(dice for latency, dice in pairs if index[latency] == b) for b in range(buckets)]
            for method, pairs in scores.items()
        },
    }


def bucket_scores(results: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Return latency (ms) and Dice of every random subnet of every unit, by method; latencies are of one device."""
    measured: dict[str, list[float]] = {}
    for result in results:
        for key, _, latency, _ in result.get("subnets", ()):
            if result["environment"]["device"] == results[0]["environment"]["device"]:
                measured.setdefault(key, []).append(latency)
    latency_of = {key: statistics.median(values) for key, values in measured.items()}
    scores: dict[str, list[tuple[float, float]]] = {}
    for result in results:
        pairs = [(latency_of[key], dice) for key, _, _, dice in result.get("subnets", ()) if key in latency_of]
        if pairs:
            scores.setdefault(result["method"], []).extend(pairs)
    return scores


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write JSON with each list of values on one line."""
    text = json.dumps(content, indent=1)
    text = _LIST.sub(lambda match: f"[{' '.join(match[1].split())}]", text)
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_file(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def _shortened(result: Mapping[str, Any]) -> dict[str, Any]:
    """A unit without the rows of its subnets but their Dice."""
    short = {
        key: value for key, value in result.items() if key not in ("subnets", "environment", "measured_on", "cases")
    }
    if result.get("subnets"):
        short["random_dice"] = [round(dice, 4) for *_, dice in result["subnets"]]
    return short


def _median(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else None


def _mean(values: Iterable[float]) -> float | None:
    there = list(values)
    return statistics.fmean(there) if there else None
