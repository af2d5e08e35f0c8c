"""The pictures: the front of evaluated subnets, a prediction beside its truth, trainings beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from prox_monai.evaluation.multiply_adds import ALIASES
from prox_monai.search.pareto import latency_buckets, pareto_front

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Volume = np.ndarray[tuple[int, int, int], np.dtype[Any]]

_MARKERS = "osD^v"
_OVERLAYS = ("#e6550d", "#2c7fb8", "#31a354", "#756bb1", "#e7ba52", "#d6616b")
_PLANES = (  # name, axis that is cut, letters at the left, right, bottom and top of the slice
    ("axial", 2, "LRPA"),
    ("coronal", 1, "LRIS"),
    ("sagittal", 0, "PAIS"),
)


def pareto_picture(
    rows: Sequence[Mapping[str, Any]],
    path: str | Path,
    *,
    title: str,
    value: str = "dice",
    label: str = "mean foreground Dice",
) -> None:
    """Draw what subnets are worth against latency, coloured by mean width, with the Pareto front and the named ones.

    Args:
        rows: as ``evaluate_subnets`` makes them; rows without a value are left out.
        path: the PNG to write.
        title: what the rows were measured on.
        value: the field that says what a subnet is worth.
        label: what that is.

    Raises:
        ImportError: When matplotlib is not installed.
        ValueError: When no row has a value.
    """
    rows = [row for row in rows if row[value] is not None]
    if not rows:
        raise ValueError(f"there is no row with a {value} to draw in {path}.")
    figure = _figure(8, 5)
    from matplotlib.colors import Normalize

    axes = figure.add_subplot()
    latency, worth = [row["latency_ms"] for row in rows], [row[value] for row in rows]
    front = pareto_front(latency, worth)
    axes.step(
        [latency[i] for i in front],
        [worth[i] for i in front],
        where="post",
        color="0.55",
        zorder=1,
        label="Pareto front",
    )
    widths = [fmean(row["config"]["width"]) for row in rows]
    norm = Normalize(min(widths), max(widths))
    resolutions = sorted({row["config"]["resolution"] for row in rows})
    for marker, resolution in zip(cycle(_MARKERS), resolutions, strict=False):
        chosen = [i for i, row in enumerate(rows) if row["config"]["resolution"] == resolution]
        points = axes.scatter(
            [latency[i] for i in chosen],
            [worth[i] for i in chosen],
            c=[widths[i] for i in chosen],
            norm=norm,
            marker=marker,
            s=48,
            edgecolors="black",
            linewidths=0.6,
        )
        axes.scatter([], [], c="0.8", marker=marker, edgecolors="black", label=f"resolution {resolution:g}")
    figure.colorbar(points, label="mean width")
    _name_points(axes, rows, value)
    axes.set(xlabel="latency of one patch, batch 1 (ms)", ylabel=label, title=title)
    axes.margins(0.08, 0.16)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    figure.savefig(path, dpi=150)


def prediction_picture(
    image: Volume,
    truth: Volume,
    prediction: Volume,
    path: str | Path,
    *,
    title: str,
    source: str,
    labels: Sequence[str],
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
) -> None:
    """Draw image, truth and prediction: three slices through the middle of the structure.

    Args:
        image: one channel, its axes pointing right, anterior and superior (RAS+), as ``(X, Y, Z)``.
        truth: labels of the same shape.
        prediction: labels of the same shape.
        path: the PNG to write.
        title: the case and how good the prediction is.
        source: where the image comes from, and its licence.
        labels: names of the labels 1, 2, ...
        spacing: voxel size per axis, millimetres.

    Raises:
        ImportError: When matplotlib is not installed.
        ValueError: When the shapes differ.
    """
    if not image.shape == truth.shape == prediction.shape:
        raise ValueError(
            f"image, truth and prediction must have one shape, got {image.shape}, {truth.shape} and {prediction.shape}."
        )
    size = [voxels * step for voxels, step in zip(image.shape, spacing, strict=True)]
    heights = [size[up] / size[across] for across, up in ((0, 1), (0, 2), (1, 2))]
    figure = _figure(7.5, 2.4 * sum(heights) + 1.4)
    grid = figure.subplots(3, 3, height_ratios=heights)
    centre = _centre(truth if truth.any() else prediction)
    for row, (plane, axis, letters) in zip(grid, _PLANES, strict=True):
        shown, *overlays = (volume.take(centre[axis], axis).T for volume in (image, truth, prediction))
        across, up = (spacing[i] for i in range(3) if i != axis)
        for axes, overlay in zip(row, (None, *overlays), strict=True):
            axes.imshow(shown, cmap="gray", origin="lower", aspect=up / across)
            if overlay is not None:
                _overlay(axes, overlay, len(labels))
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"{plane}, slice {centre[axis] + 1} of {image.shape[axis]}")
        _orient(row[0], letters)
    for axes, name in zip(grid[0], ("image", "truth", "prediction"), strict=True):
        axes.set_title(name)
    _legend(figure, labels)
    figure.suptitle(title)
    grid[-1][1].set_xlabel(source, fontsize="small", color="0.35")
    figure.savefig(path, dpi=130)


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
    figure = _figure(max(8.0, 0.28 * buckets * len(scores) + 2), 5)
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


def loss_picture(curves: Mapping[str, Mapping[str, Sequence[Any]]], path: str | Path, *, title: str) -> None:
    """Draw the loss of trainings epoch by epoch, with a mark where a phase begins (ProX, figures 5 and 6).

    Args:
        curves: for each training one value per epoch of ``loss``, ``seconds``, ``phase`` and ``stage``.
        path: the PNG to write.
        title: what the losses are of.

    Raises:
        ImportError: When matplotlib is not installed.
    """
    figure = _figure(9, 0.8 + 2.0 * len(curves))
    rows = figure.subplots(len(curves), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for number, (axes, (name, curve)) in enumerate(zip(rows, curves.items(), strict=True)):
        axes.plot(range(1, len(curve["loss"]) + 1), curve["loss"], color=f"C{number % 10}", marker=".", markersize=4)
        axes.set_title(f"{name}, {sum(curve['seconds']) / 60:.1f} minutes", loc="left", fontsize="medium", pad=14)
        axes.set_ylabel("loss")
        axes.grid(alpha=0.3)
        for epoch, stage in enumerate(curve["stage"]):
            if epoch == 0 or curve["phase"][epoch] != curve["phase"][epoch - 1]:
                axes.axvline(epoch + 0.5, color="grey", linestyle=":", linewidth=1)
                axes.text(epoch + 0.5, 1.02, stage, transform=axes.get_xaxis_transform(), fontsize="x-small")
    rows[-1].set_xlabel("epoch")
    figure.suptitle(title)
    figure.savefig(path, dpi=130)


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "prox-monai[search]"') from error
    return Figure(figsize=(width, height), layout="constrained")  # saved by Agg; no state outside it


def _name_points(axes: Axes, rows: Sequence[Mapping[str, Any]], value: str) -> None:
    middle = fmean((min(row["latency_ms"] for row in rows), max(row["latency_ms"] for row in rows)))
    for row in rows:
        if row["name"] in ALIASES:
            right = row["latency_ms"] > middle
            axes.annotate(
                f"{row['name']} {row[value]:.3f}",
                (row["latency_ms"], row[value]),
                xytext=(-16 if right else 16, 22),
                textcoords="offset points",
                ha="right" if right else "left",
                arrowprops={"arrowstyle": "-", "shrinkB": 4},
                bbox={"boxstyle": "round,pad=0.2", "fc": "white", "ec": "0.6", "alpha": 0.85},
            )


def _centre(volume: Volume) -> tuple[int, ...]:
    """The middle of what is not background, in voxels; of the volume if nothing is."""
    inside = volume.nonzero()
    if not inside[0].size:
        return tuple(size // 2 for size in volume.shape)
    return tuple(round(float(positions.mean())) for positions in inside)


def _overlay(axes: Axes, labels: np.ndarray, count: int) -> None:
    for value in range(1, count + 1):
        mask = labels == value
        if mask.any():
            colour = _OVERLAYS[(value - 1) % len(_OVERLAYS)]
            axes.contourf(mask, levels=[0.5, 1.5], colors=[colour], alpha=0.35)
            axes.contour(mask, levels=[0.5], colors=[colour], linewidths=1.5)


def _orient(axes: Axes, letters: str) -> None:
    places = (((0, 0.5), (8, 0)), ((1, 0.5), (-8, 0)), ((0.5, 0), (0, 8)), ((0.5, 1), (0, -8)))
    for letter, (edge, inwards) in zip(letters, places, strict=True):
        axes.annotate(
            letter,
            edge,
            xycoords="axes fraction",
            xytext=inwards,
            textcoords="offset points",
            color="yellow",
            ha="center",
            va="center",
        )


def _legend(figure: Figure, labels: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=_OVERLAYS[i % len(_OVERLAYS)], label=label) for i, label in enumerate(labels)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(labels), 4), frameon=False)
