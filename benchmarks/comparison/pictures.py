"""The pictures of the comparison."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from comparison.bars import BASELINE, timed_training
from comparison.summary import BUCKETS, bucket_scores
from prox_monai.search.plots import bucket_picture, loss_picture

Results = Sequence[Mapping[str, Any]]


def draw(results: Results, folder: Path, name: str, *, title: str, main: Sequence[str] = ()) -> None:
    """Draw time, Dice, Dice by latency, and losses of the units that are done.

    Args:
        results: the units.
        folder: where the PNGs go.
        name: what their names begin with.
        title: data and cases.
        main: the methods of the pictures that only a few fit into; all if none of them is done.
    """
    time_picture(results, folder / f"{name}_time.png", title=title)
    spread = {
        method: [dice for run in runs for *_, dice in run["subnets"]]
        for method, runs in by_method(results).items()
        if runs[0].get("dice")
    }
    if spread:
        dice_picture(spread, folder / f"{name}_dice.png", title=title)
    few = [result for result in results if result["method"] in main] or results
    if scores := bucket_scores(few):
        buckets = min(BUCKETS, len({latency for pairs in scores.values() for latency, _ in pairs}))
        device = results[0]["environment"]["device"]
        bucket_picture(scores, folder / f"{name}_latency.png", title=f"{title}; {device}", buckets=buckets)
    firsts = {method: runs[0] for method, runs in by_method(few).items()}
    curves = {method: labelled_curve(run) for method, run in firsts.items()}
    said = "Training loss, first seed; x: loss of the largest just after an expansion ÷ just before"
    data = title.partition(",")[0]  # losses are of training batches, not of the cases
    loss_picture(curves, folder / f"{name}_loss.png", title=f"{said}\n{data}")
    if len({run["environment"]["device"] for run in firsts.values()}) == 1:
        loss_picture(curves, folder / f"{name}_loss_minutes.png", title=f"{said}\n{data}", over="minutes")


def labelled_curve(run: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    """Return a unit's losses, the jump at each expansion beside the stage's name."""
    jumps = {
        phase["phase"]: f"{phase['stage']} x{phase['loss_after'] / phase['loss_before']:.2f}"
        for phase in run.get("phases", ())
        if phase.get("loss_before") is not None
    }
    curve = run["curve"]
    stages = [jumps.get(phase, stage) for phase, stage in zip(curve["phase"], curve["stage"], strict=True)]
    return {**curve, "stage": stages}


def by_method(results: Results) -> dict[str, list[Mapping[str, Any]]]:
    """Return the units of each method."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault(result["method"], []).append(result)
    return groups


def time_picture(results: Results, path: Path, *, title: str) -> None:
    """Draw the training time of each method, its polishing apart (ProX, figure 3); whiskers span the seeds.

    Relative to progressive shrinking of the same seed on the same processor, where it was trained; units without such
    a twin are left out then.
    """
    base = {timed_training(run): run["train_seconds"] for run in results if run["method"] == BASELINE}
    groups = by_method([run for run in results if timed_training(run) in base] if base else results)

    def times(runs: Results, field: str) -> list[float]:
        return [run[field] / base.get(timed_training(run), 60.0) for run in runs]

    figure = Figure(figsize=(9, 1.4 + 0.36 * len(groups)), layout="constrained")
    axes = figure.subplots()
    for row, runs in enumerate(groups.values()):
        whole, expansion = times(runs, "train_seconds"), times(runs, "train_seconds_without_polish")
        median, before = statistics.median(whole), statistics.median(expansion)
        axes.barh(row, before, color="C0", label="training" if row == 0 else None)
        axes.barh(row, median - before, left=before, color="C1", label="polishing" if row == 0 else None)
        axes.plot([min(whole), max(whole)], [row, row], color="black", marker="|")
        axes.annotate(
            f"{median:.2f}",
            (max(whole), row),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )
    axes.set_yticks(range(len(groups)), list(groups))
    axes.invert_yaxis()
    right = 1.1 * max(time for runs in groups.values() for time in times(runs, "train_seconds"))  # room beside a bar
    unit = "÷ progressive shrinking's of the same seed and processor" if base else "in minutes"
    axes.set(xlabel=f"training time {unit}\nmedian and span over the seeds", title=title, xlim=(0, right))
    axes.legend(fontsize="small", loc="best")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=150)


def dice_picture(spread: Mapping[str, Sequence[float]], path: Path, *, title: str) -> None:
    """Draw how the Dice of random subnets is distributed, for each method."""
    figure = Figure(figsize=(9, 1.4 + 0.5 * len(spread)), layout="constrained")
    axes = figure.subplots()
    rows = range(len(spread))
    parts = axes.violinplot(list(spread.values()), rows, orientation="horizontal", widths=0.85, showextrema=False)
    for number, body in enumerate(parts["bodies"]):
        body.set(facecolor=f"C{number % 10}", alpha=0.6)
    for row, values in enumerate(spread.values()):
        axes.plot([min(values), max(values)], [row, row], color="black", linewidth=1, marker="|")
        axes.plot(statistics.fmean(values), row, color="black", marker="o", markersize=4)
        text = f"{statistics.fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
        axes.annotate(text, (max(values), row), (8, 0), textcoords="offset points", va="center", fontsize="small")
    axes.set_yticks(rows, list(spread))
    axes.invert_yaxis()
    low, high = min(map(min, spread.values())), max(map(max, spread.values()))
    margin = 0.05 * (high - low) + 1e-3
    axes.set_xlim(low - margin, high + 8 * margin)
    axes.set(xlabel="mean foreground Dice of random subnets: mean, least and most, all seeds", title=title)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=150)


def ranking_picture(result: Mapping[str, Any], path: Path) -> None:
    """Draw the Dice of extracted against stand-alone subnets; bars span the supernets' and the trainings' seeds."""
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.subplots()
    sides = [[subnet[side] for subnet in result["subnets"]] for side in ("alone", "extracted")]
    x, y = ([statistics.fmean(values) for values in side] for side in sides)
    spread = [
        [
            [mean - min(v) for mean, v in zip(means, side, strict=True)],
            [max(v) - m for m, v in zip(means, side, strict=True)],
        ]
        for means, side in zip((x, y), sides, strict=True)
    ]
    axes.errorbar(x, y, xerr=spread[0], yerr=spread[1], fmt="none", ecolor="0.7", zorder=1)
    macs = [subnet["macs"] / 1e9 for subnet in result["subnets"]]
    points = axes.scatter(x, y, c=macs, norm="log", edgecolors="black", linewidths=0.6, zorder=2)
    figure.colorbar(points, label="multiply-adds of one patch (10$^9$)")
    low, high = min(*x, *y), max(*x, *y)
    axes.plot([low, high], [low, high], color="0.5", linestyle="--", linewidth=1, label="equal")
    tau, ceiling = result["tau"], result["ceiling"]
    axes.set_title(
        f"Kendall's tau {tau['mean']:.2f} ({tau['low']:.2f} to {tau['high']:.2f}); between two stand-alone seeds "
        f"{ceiling['mean']:.2f}",
        fontsize="medium",
    )
    axes.set(xlabel=f"Dice trained alone, {result['steps']} steps", ylabel="Dice extracted from the supernet")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
