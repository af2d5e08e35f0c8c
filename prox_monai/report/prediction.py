"""The picture of a prediction beside its truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prox_monai.search.plots import new_figure

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Volume = np.ndarray[tuple[int, int, int], np.dtype[Any]]

_OVERLAYS = ("#e6550d", "#2c7fb8", "#31a354", "#756bb1", "#e7ba52", "#d6616b")
_PLANES = (  # name, axis that is cut, letters at the left, right, bottom and top of the slice
    ("axial", 2, "LRPA"),
    ("coronal", 1, "LRIS"),
    ("sagittal", 0, "PAIS"),
)


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
    figure = new_figure(7.5, 2.4 * sum(heights) + 1.4)
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
