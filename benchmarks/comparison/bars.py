"""The bars that the comparison is to pass, each a line: what, the bar, what was measured, whether it is met."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prox_monai.training.expansion_stop import Gain, paired_gain

OURS, BASELINE = "plus", "progressive_shrinking"
BASELINE_UNTAUGHT = "progressive_shrinking_without_distillation"
OURS_AT_BASELINE_TIME, ALONE, ALONE_AT_OUR_TIME = "plus_at_ps_time", "standalone", "standalone_at_plus_time"

Results = Sequence[Mapping[str, Any]]


def bars(results: Results, ranking: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return all bars; what cannot be said yet is measured None, met None.

    Args:
        results: the units that are done.
        ranking: the result of ``ranking.py``, if there is one.
    """
    mean, low = (lambda run: run["dice"]["mean"]), (lambda run: run["dice"]["min"])
    interval = paired_interval(results, OURS, ALONE_AT_OUR_TIME)
    tau, ceiling = (None if ranking is None else ranking[name]["mean"] for name in ("tau", "ceiling"))
    both = pairs(results, OURS, ALONE, lambda run: run["train_seconds"], timed_training)
    at_time = differences(results, OURS_AT_BASELINE_TIME, BASELINE, mean)
    return [
        *_time_bars(results, BASELINE, "PS"),
        *_time_bars(results, BASELINE_UNTAUGHT, "PS without its teacher"),
        _bar("mean Dice of the random subnets, plus", ">=", 0.86, _over(results, OURS, mean)),
        _bar(
            "the same, plus - PS at equal steps, worst seed", ">", 0, _least(differences(results, OURS, BASELINE, mean))
        ),
        _bar("the same, plus - PS at equal time, worst seed", ">", 0, _least(at_time)),
        _bar("worst of the random subnets, plus", ">=", 0.82, _over(results, OURS, low)),
        _bar(
            "largest of plus - the same network alone, equal time: lower end of 95 %",
            ">",
            -0.005,
            interval and interval.low,
        ),
        _bar(
            "loss just after an expansion ÷ just before, worst phase of plus",
            "<=",
            1.05,
            _over(results, OURS, worst_spike),
        ),
        _bar("Kendall's tau to stand-alone training ÷ its ceiling", ">=", 0.8, tau / ceiling if ceiling else None),
        _bar("training time of plus ÷ its largest subnet alone, equal steps", "<=", 1.0, _ratio(both)),
    ]


def _time_bars(results: Results, baseline: str, name: str) -> list[dict[str, Any]]:
    times = pairs(results, OURS, baseline, lambda run: run["train_seconds_without_polish"], timed_training)
    reached = time_to_reach(results, baseline)
    return [
        _bar(f"training time of plus without its polishing ÷ {name}, equal steps", "<=", 0.2, _ratio(times)),
        _bar(f"time of plus to the final mean Dice of {name} ÷ its time", "<=", 0.2, reached),
    ]


def training(run: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what two units have in common whose Dice is compared: seed and fold."""
    return run["seed"], run["fold"]


def timed_training(run: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what two units have in common whose time is compared: seed, fold, and processor or GPU."""
    return *training(run), run["environment"]["device"]


def pairs(
    results: Results,
    ours: str,
    theirs: str,
    value: Callable[[Mapping[str, Any]], Any],
    key: Callable[[Mapping[str, Any]], tuple[Any, ...]] = training,
) -> list[tuple[Any, Any]]:
    """Return a value of two methods for each key that both have."""
    left, right = ({key(run): value(run) for run in results if run["method"] == method} for method in (ours, theirs))
    return [(left[key], right[key]) for key in left if key in right]


def differences(results: Results, ours: str, theirs: str, value: Callable[[Mapping[str, Any]], float]) -> list[float]:
    """Return by how much a value of ``ours`` is above that of ``theirs``, for each seed and fold."""
    return [a - b for a, b in pairs(results, ours, theirs, value)]


def paired_interval(results: Results, ours: str, theirs: str) -> Gain | None:
    """Return by how much the largest of one method beats that of another, paired over cases; None without a pair.

    Per case, Dice is averaged over the seeds that both have.
    """
    per_case: tuple[dict[str, list[float]], dict[str, list[float]]] = {}, {}
    for both in pairs(results, ours, theirs, lambda run: run["largest_dice_per_case"]):
        for case in both[0].keys() & both[1].keys():
            if both[0][case] is not None and both[1][case] is not None:
                for side in (0, 1):
                    per_case[side].setdefault(case, []).append(both[side][case])
    if not per_case[0]:
        return None
    left, right = ({case: statistics.fmean(values) for case, values in side.items()} for side in per_case)
    return paired_gain(right, left)


def time_to_reach(results: Results, baseline: str = BASELINE) -> float | None:
    """Return the training time in which plus reaches the baseline's final mean Dice, divided by the baseline's time.

    A learning rate that decays makes a training whole: only ends of trainings are compared. For each seed and fold it
    is the shortest training with the recipe of plus, whatever its number of iterations, whose mean Dice is at least
    the baseline's, on the same processor or GPU; infinite where there is none. The median over them.
    """
    recipe = next((_recipe(run) for run in results if run["method"] == OURS), None)
    family = [run for run in results if run["trainer"] == "ProXTrainer" and _recipe(run) == recipe]
    ratios = []
    for base in (run for run in results if run["method"] == baseline):
        runs = [run for run in family if timed_training(run) == timed_training(base)]
        reached = [run["train_seconds"] for run in runs if run["dice"]["mean"] >= base["dice"]["mean"]]
        if runs:
            ratios.append(min(reached, default=float("inf")) / base["train_seconds"])
    return statistics.median(ratios) if ratios else None


def worst_spike(run: Mapping[str, Any]) -> float | None:
    """Return the largest ratio of a training's losses just after and just before an expansion."""
    ratios = [
        phase["loss_after"] / phase["loss_before"] for phase in run["phases"] if phase.get("loss_before") is not None
    ]
    return max(ratios, default=None)


def _recipe(run: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in run["settings"].items() if key not in ("iterations_per_epoch", "seed")}


def _over(results: Results, method: str, value: Callable[[Mapping[str, Any]], float | None]) -> float | None:
    """The median over the units of a method."""
    values = [value(run) for run in results if run["method"] == method]
    return statistics.median(values) if values and None not in values else None


def _ratio(values: Sequence[tuple[float, float]]) -> float | None:
    return statistics.median(a / b for a, b in values) if values else None


def _least(values: Sequence[float]) -> float | None:
    return min(values, default=None)


def _bar(what: str, relation: str, bar: float, measured: float | None) -> dict[str, Any]:
    met = {"<=": lambda x: x <= bar, ">=": lambda x: x >= bar, ">": lambda x: x > bar}[relation]
    known = None if measured is None else met(measured)
    finite = measured is not None and math.isfinite(measured)  # JSON has no infinity
    return {"what": what, "bar": f"{relation} {bar:g}", "measured": measured if finite else None, "met": known}
