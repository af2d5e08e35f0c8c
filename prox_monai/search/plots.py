"""The pictures of evaluated subnets and of trainings: the front, buckets of latency, losses and phases."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import cycle
from math import sqrt
from pathlib import Path
from statistics import fmean
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any, Literal

from prox_monai.evaluation.multiply_adds import ALIASES
from prox_monai.search.pareto import latency_buckets, pareto_front

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure

_MARKERS = "osD^v"
_LONG = 16  # characters of a name
_WIDE = 10  # costs that differ by more are shown on a logarithmic axis
_COSTS = {
    "latency_ms": "latency of one patch, batch 1 (ms)",
    "parameters": "parameters",
    "macs": "multiply-adds of one patch",
    "memory_bytes": "weights and activations alive at once, one patch (bytes)",
}


def pareto_picture(
    rows: Sequence[Mapping[str, Any]],
    path: str | Path,
    *,
    title: str,
    value: str = "dice",
    label: str = "mean foreground Dice",
    cost: str = "latency_ms",
    named: Collection[str] = ALIASES,
    buckets: int = 1,
    others: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Draw what subnets are worth against a cost, coloured by mean width, with the Pareto front and the named ones.

    Args:
        rows: as ``evaluate_subnets`` makes them; rows without a value are left out.
        path: the PNG to write.
        title: what the rows were measured on.
        value: the field that says what a subnet is worth.
        label: what that is.
        cost: ``latency_ms``, ``parameters``, ``macs`` or ``memory_bytes``.
        named: names of the rows that are pointed at.
        buckets: number of quantile buckets of the cost that are shown by lines (ProX, figure 4).
        others: networks to compare with, no part of the front: ``name``, the cost and the value, which may be None:
            then a line shows the cost.

    Raises:
        ImportError: When matplotlib is not installed.
        ValueError: When no row has a value.
    """
    rows = [row for row in rows if row[value] is not None]
    if not rows:
        raise ValueError(f"there is no row with a {value} to draw in {path}.")
    figure = new_figure(8, 5)
    axes = figure.add_subplot()
    costs = [row[cost] for row in rows]
    _draw_front(axes, costs, [row[value] for row in rows])
    points = _draw_subnets(axes, rows, cost, value)
    figure.colorbar(points, label="mean width")
    _draw_buckets(axes, costs, min(buckets, len(rows)))
    _draw_others(axes, others, cost, value)
    axes.set(xlabel=_COSTS[cost], ylabel=label, title=title)
    shown = [*costs, *(other[cost] for other in others)]
    wide = max(shown) > _WIDE * min(shown)
    if wide:
        _plain_log_axis(axes)
    middle = sqrt(min(shown) * max(shown)) if wide else fmean((min(shown), max(shown)))
    _name_points(axes, [row for row in rows if row["name"] in named], cost, value, middle)
    axes.margins(0.08, 0.16)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    figure.savefig(path, dpi=150)


def bucket_picture(
    scores: Mapping[str, Sequence[tuple[float, float]]],
    path: str | Path,
    *,
    title: str,
    buckets: int = 5,
    label: str = "mean foreground Dice",
) -> None:
    """Draw how scores are distributed in buckets of equal latency, a box per method (ProX, figure 4).

    Args:
        scores: latency in milliseconds and score of each subnet, by method.
        path: the PNG to write.
        title: what was measured.
        buckets: number of quantile buckets over the subnets of all methods.
        label: what the score is.

    Raises:
        ImportError: When matplotlib is not installed.
        ValueError: When there are fewer latencies than buckets.
    """
    distinct = sorted({latency for pairs in scores.values() for latency, _ in pairs})
    index = dict(zip(distinct, latency_buckets(distinct, buckets), strict=True))
    figure = new_figure(max(8.0, 0.28 * buckets * len(scores) + 2), 5)
    axes = figure.add_subplot()
    step = 0.8 / len(scores)
    for number, (method, pairs) in enumerate(scores.items()):
        boxes = axes.boxplot(
            [[score for latency, score in pairs if index[latency] == bucket] for bucket in range(buckets)],
            positions=[bucket + (number + 0.5) * step - 0.4 for bucket in range(buckets)],
            widths=0.85 * step,
            patch_artist=True,
            flierprops={"markersize": 2.5},
            medianprops={"color": "black"},
            manage_ticks=False,
        )
        for box in boxes["boxes"]:
            box.set(facecolor=f"C{number % 10}", alpha=0.8)
        axes.bar([0], [0], color=f"C{number % 10}", label=method)
    spans = [[x for x in distinct if index[x] == bucket] for bucket in range(buckets)]
    axes.set_xticks(range(buckets), [f"{span[0]:.3g} to {span[-1]:.3g}" for span in spans])
    for bucket in range(1, buckets):
        axes.axvline(bucket - 0.5, color="0.85", linewidth=1, zorder=0)
    worst, best = (choose(score for pairs in scores.values() for _, score in pairs) for choose in (min, max))
    margin = 0.05 * (best - worst) + 1e-3
    axes.set(xlim=(-0.5, buckets - 0.5), ylim=(worst - margin, best + margin), title=title)
    axes.set(xlabel="latency of one patch, batch 1 (ms): quantile buckets", ylabel=label)
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=min(len(scores), 4), fontsize="small", frameon=False)
    figure.savefig(path, dpi=150)


def loss_picture(
    curves: Mapping[str, Mapping[str, Sequence[Any]]],
    path: str | Path,
    *,
    title: str,
    over: Literal["epochs", "minutes"] = "epochs",
) -> None:
    """Draw the loss of trainings, with a mark where a phase begins (ProX, figures 5 and 6).

    Args:
        curves: for each training one value per epoch of ``loss``, ``seconds``, ``phase`` and ``stage``.
        path: the PNG to write.
        title: what the losses are of.
        over: what the horizontal axis is, the same for all trainings.

    Raises:
        ImportError: When matplotlib is not installed.
    """
    upright = {"rotation": 90, "va": "top", "in_layout": False}  # phases may be short
    y, written = (1.02, {}) if over == "epochs" else (0.97, upright)
    figure = new_figure(9, 0.8 + 2.0 * len(curves))
    rows = figure.subplots(len(curves), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for number, (axes, (name, curve)) in enumerate(zip(rows, curves.items(), strict=True)):
        ends = [sum(curve["seconds"][: epoch + 1]) / 60 for epoch in range(len(curve["loss"]))]
        starts, x = [0.0, *ends[:-1]], ends
        if over == "epochs":
            starts, x = [epoch + 0.5 for epoch in range(len(ends))], list(range(1, len(ends) + 1))
        axes.plot(x, curve["loss"], color=f"C{number % 10}", marker=".", markersize=4)
        axes.set_title(f"{name}, {ends[-1]:.1f} minutes", loc="left", fontsize="medium", pad=14)
        axes.set_ylabel("loss")
        axes.grid(alpha=0.3)
        for epoch, (start, stage) in enumerate(zip(starts, curve["stage"], strict=True)):
            if epoch == 0 or curve["phase"][epoch] != curve["phase"][epoch - 1]:
                axes.axvline(start, color="grey", linestyle=":", linewidth=1)
                axes.text(start, y, stage, transform=axes.get_xaxis_transform(), fontsize="x-small", **written)
    rows[-1].set_xlabel("epoch" if over == "epochs" else "minutes of training")
    figure.suptitle(title)
    figure.savefig(path, dpi=130)


def new_figure(width: float, height: float) -> Figure:
    """Make a figure of a size in inches, saved by Agg; it has no state outside itself.

    Raises:
        ImportError: When matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "prox-monai[search]"') from error
    return Figure(figsize=(width, height), layout="constrained")


def _plain_log_axis(axes: Axes) -> None:
    """Costs on a logarithmic axis, as numbers without exponents."""
    from matplotlib.ticker import LogFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))


def _draw_front(axes: Axes, costs: Sequence[float], worth: Sequence[float]) -> None:
    front = pareto_front(costs, worth)
    axes.step(
        [costs[i] for i in front],
        [worth[i] for i in front],
        where="post",
        color="0.55",
        zorder=1,
        label="Pareto front",
    )


def _draw_subnets(axes: Axes, rows: Sequence[Mapping[str, Any]], cost: str, value: str) -> PathCollection:
    """A point a subnet, a marker a resolution; returns points, which have the colours of all."""
    from matplotlib.colors import Normalize

    widths = [fmean(row["config"]["width"]) for row in rows]
    norm = Normalize(min(widths), max(widths))
    resolutions = sorted({row["config"]["resolution"] for row in rows})
    for marker, resolution in zip(cycle(_MARKERS), resolutions, strict=False):
        chosen = [i for i, row in enumerate(rows) if row["config"]["resolution"] == resolution]
        points = axes.scatter(
            [rows[i][cost] for i in chosen],
            [rows[i][value] for i in chosen],
            c=[widths[i] for i in chosen],
            norm=norm,
            marker=marker,
            s=48,
            edgecolors="black",
            linewidths=0.6,
        )
        axes.scatter([], [], c="0.8", marker=marker, edgecolors="black", label=f"resolution {resolution:g}")
    return points


def _draw_buckets(axes: Axes, costs: Sequence[float], buckets: int) -> None:
    index = latency_buckets(costs, buckets)
    for bucket in range(1, buckets):
        inside = [x for x, number in zip(costs, index, strict=True) if number == bucket]
        if inside:
            axes.axvline(min(inside), color="0.8", linestyle=":", linewidth=1, zorder=0)


def _draw_others(axes: Axes, others: Sequence[Mapping[str, Any]], cost: str, value: str) -> None:
    for number, other in enumerate(others, 1):
        if other[value] is None:
            axes.axvline(other[cost], color=f"C{number}", linestyle="--", label=other["name"])
        else:
            axes.plot(
                other[cost],
                other[value],
                color=f"C{number}",
                marker="*",
                markersize=14,
                markeredgecolor="black",
                linestyle="",
                label=f"{other['name']} {other[value]:.3f}",
            )


def _name_points(axes: Axes, rows: Sequence[Mapping[str, Any]], cost: str, value: str, middle: float) -> None:
    """Point at rows, from the left where they cost more than ``middle``; long names stand below, by a letter."""
    letters = dict(zip((row["name"] for row in rows if len(row["name"]) > _LONG), ascii_uppercase, strict=False))
    for row in rows:
        right = row[cost] > middle
        axes.annotate(
            f"{letters.get(row['name'], row['name'])} {row[value]:.3f}",
            (row[cost], row[value]),
            xytext=(-16 if right else 16, 22),
            textcoords="offset points",
            ha="right" if right else "left",
            arrowprops={"arrowstyle": "-", "shrinkB": 4},
            bbox={"boxstyle": "round,pad=0.2", "fc": "white", "ec": "0.6", "alpha": 0.85},
        )
    if letters:
        below = "\n".join(f"{letter}: {name}" for name, letter in letters.items())
        axes.figure.supxlabel(below, fontsize="small", x=0.02, ha="left")
