"""The bars that the comparison is to pass, each a line: what, the bar, what was measured, whether it is met."""

from __future__ import annotations

import math
import operator
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from comparison.results import POLISH
from prox_monai.training.expansion_stop import Gain, paired_gain

_RELATIONS = {"<=": operator.le, ">=": operator.ge, ">": operator.gt}
OURS, BASELINE = "plus", "progressive_shrinking"
BASELINE_UNTAUGHT = "progressive_shrinking_without_distillation"
OURS_AT_BASELINE_TIME, ALONE, ALONE_AT_OUR_TIME = "plus_at_ps_time", "standalone", "standalone_at_plus_time"

Results = Sequence[Mapping[str, Any]]


def bars(results: Results, ranking: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return all bars; what cannot be said yet is measured None, met None. ``seeds`` says how many trainings it is of.

    Args:
        results: the units that are done.
        ranking: the result of ``ranking.py``, if there is one.
    """
    ours = [run for run in results if run["method"] == OURS]
    interval, pairs_of_largest = paired_interval(results, OURS, ALONE_AT_OUR_TIME)
    return [
        *_time_bars(results, BASELINE, "PS"),
        *_time_bars(results, BASELINE_UNTAUGHT, "PS without its teacher"),
        _median("mean Dice of the random subnets, plus", ">=", 0.86, map(_mean_dice, ours)),
        _least("the same, plus - PS at equal steps, worst seed", ">", 0, _gains(results, OURS)),
        _least("the same, plus - PS at equal time, worst seed", ">", 0, _gains(results, OURS_AT_BASELINE_TIME)),
        _median("worst of the random subnets, plus", ">=", 0.82, (run["dice"]["min"] for run in ours)),
        _bar(
            "largest of plus - the same network alone, equal time: lower end of 95 %",
            ">",
            -0.005,
            interval and interval.low,
            pairs_of_largest,
        ),
        _median("loss just after an expansion ÷ just before, worst phase of plus", "<=", 1.05, map(worst_spike, ours)),
        _bar("Kendall's tau to stand-alone training ÷ its ceiling", ">=", 0.8, *_share_of_ceiling(ranking)),
        _median(
            "training time of plus ÷ its largest subnet alone, equal steps",
            "<=",
            1.0,
            _ratios(results, ALONE, lambda run: run["train_seconds"]),
        ),
    ]


def _time_bars(results: Results, baseline: str, name: str) -> list[dict[str, Any]]:
    return [
        _median(
            f"training time of plus without its polishing ÷ {name}, per step",
            "<=",
            0.2,
            _ratios(results, baseline, seconds_per_epoch),
        ),
        _median(
            f"time of plus to the final mean Dice of {name} ÷ its time", "<=", 0.2, times_to_reach(results, baseline)
        ),
    ]


def seed_and_fold(run: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what two units have in common whose Dice is compared: seed and fold."""
    return run["seed"], run["fold"]


def timed_training(run: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what two units have in common whose time is compared: seed, fold, and processor or GPU."""
    return *seed_and_fold(run), run["environment"]["device"]


def timed_with_baseline(results: Results) -> list[Mapping[str, Any]]:
    """Return the units on the processor or GPU that most of the baseline was trained on, all where there is none.

    Only times of one device stand beside each other; of several that the baseline was trained on as often, the first.
    """
    devices = Counter(run["environment"]["device"] for run in results if run["method"] == BASELINE)
    return [run for run in results if not devices or run["environment"]["device"] == devices.most_common(1)[0][0]]


def pairs(
    results: Results,
    ours: str,
    theirs: str,
    value: Callable[[Mapping[str, Any]], Any],
    key: Callable[[Mapping[str, Any]], tuple[Any, ...]] = seed_and_fold,
) -> list[tuple[Any, Any]]:
    """Return a value of two methods for each key that both have."""
    left, right = ({key(run): value(run) for run in results if run["method"] == method} for method in (ours, theirs))
    return [(left[key], right[key]) for key in left if key in right]


def paired_interval(results: Results, ours: str, theirs: str) -> tuple[Gain | None, int]:
    """Return by how much the largest of one method beats that of another, paired over cases, and of how many seeds.

    Per case, Dice is averaged over the seeds that both have.
    """
    per_case: tuple[dict[str, list[float]], dict[str, list[float]]] = {}, {}
    trained = pairs(results, ours, theirs, lambda run: run["largest_dice_per_case"])
    for both in trained:
        for case in both[0].keys() & both[1].keys():
            if both[0][case] is not None and both[1][case] is not None:
                for side in (0, 1):
                    per_case[side].setdefault(case, []).append(both[side][case])
    if not per_case[0]:
        return None, 0
    left, right = ({case: statistics.fmean(values) for case, values in side.items()} for side in per_case)
    return paired_gain(right, left), len(trained)


def times_to_reach(results: Results, baseline: str = BASELINE) -> list[float]:
    """Return the training time in which plus reaches the baseline's final mean Dice, divided by the baseline's time.

    A learning rate that decays makes a training whole: only ends of trainings are compared. For each seed and fold it
    is the shortest training with the recipe of plus, whatever its number of iterations, whose mean Dice is at least
    the baseline's, on the same processor or GPU; infinite where there is none.
    """
    recipe = next((_recipe(run) for run in results if run["method"] == OURS), None)
    family = [run for run in results if run["trainer"] == "ProXTrainer" and _recipe(run) == recipe]
    ratios = []
    for base in (run for run in results if run["method"] == baseline):
        runs = [run for run in family if timed_training(run) == timed_training(base)]
        reached = [run["train_seconds"] for run in runs if run["dice"]["mean"] >= base["dice"]["mean"]]
        if runs:
            ratios.append(min(reached, default=math.inf) / base["train_seconds"])
    return ratios


def worst_spike(run: Mapping[str, Any]) -> float | None:
    """Return the largest ratio of a training's losses just after and just before an expansion."""
    ratios = [
        phase["loss_after"] / phase["loss_before"] for phase in run["phases"] if phase.get("loss_before") is not None
    ]
    return max(ratios, default=None)


def seconds_per_epoch(run: Mapping[str, Any]) -> float:
    """Return the mean time of an epoch, polishing left out; epochs of methods that are compared have as many steps."""
    stages = run["curve"]["stage"]
    return run["train_seconds_without_polish"] / sum(stage != POLISH for stage in stages)


def _recipe(run: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in run["settings"].items() if key not in ("iterations_per_epoch", "seed")}


def _mean_dice(run: Mapping[str, Any]) -> float:
    return run["dice"]["mean"]


def _gains(results: Results, method: str) -> list[float]:
    """By how much a method's mean Dice is above the baseline's, for each seed and fold."""
    return [a - b for a, b in pairs(results, method, BASELINE, _mean_dice)]


def _ratios(results: Results, theirs: str, value: Callable[[Mapping[str, Any]], float]) -> list[float]:
    """A time of plus divided by that of another method, for each seed, fold and device."""
    return [a / b for a, b in pairs(results, OURS, theirs, value, timed_training)]


def _share_of_ceiling(ranking: Mapping[str, Any] | None) -> tuple[float | None, int]:
    """Tau divided by its ceiling, which says nothing where it is not positive; and of how many supernets."""
    if ranking is None or ranking["ceiling"]["mean"] <= 0:
        return None, 0
    return ranking["tau"]["mean"] / ranking["ceiling"]["mean"], len(ranking["subnets"][0]["extracted"])


def _median(what: str, relation: str, bar: float, values: Iterable[float | None]) -> dict[str, Any]:
    measured = [value for value in values if value is not None]
    return _bar(what, relation, bar, statistics.median(measured) if measured else None, len(measured))


def _least(what: str, relation: str, bar: float, values: Sequence[float]) -> dict[str, Any]:
    return _bar(what, relation, bar, min(values, default=None), len(values))


def _bar(what: str, relation: str, bar: float, measured: float | None, seeds: int) -> dict[str, Any]:
    met = None if measured is None else _RELATIONS[relation](measured, bar)
    finite = measured is not None and math.isfinite(measured)  # JSON has no infinity
    said = measured if finite else None
    return {"what": what, "bar": f"{relation} {bar:g}", "measured": said, "met": met, "seeds": seeds}
