"""Synthetic retinal cross-sections in folders of classes, for demonstrations and tests without real data."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prox_monai.data.complete import check_free

MIN_SIDE_PIXELS = 32
FINDINGS = ("membrane", "cysts", "deposits", "none")  # what the first, second ... class shows


def write_synthetic_classes(
    folder: str | PathLike[str],
    classes: Sequence[str] = ("CNV", "DME", "DRUSEN", "NORMAL"),
    patients: int = 20,
    images_per_patient: int = 3,
    seed: int = 0,
    size: tuple[int, int] = (128, 128),
) -> Path:
    """Write layered bands as grey JPEG files, a folder per class, with a ``manifest.csv``.

    Args:
        folder: written as ``read_class_folders`` reads it; made when absent, refused when it holds anything.
        classes: names of the classes: a dome under the lowest band, dark cysts in the bands, many small deposits
            under the lowest band, and none of these, in this order.
        patients: number of patients per class. Patient ``k`` of a class is the same whatever the number.
        images_per_patient: images of one patient share the course of the bands.
        seed: the images are a function of it.
        size: mean height and width in pixels; each image differs by up to 10 %.

    Returns:
        The folder.

    Raises:
        ValueError: When ``classes`` are not two to four different names, ``patients`` or ``images_per_patient`` is
            below 1, or a side of ``size`` is below 32 pixels.
        FileExistsError: When ``folder`` is not empty.
        ImportError: When Pillow is not installed.

    Mean and contrast of an image are drawn apart from its class, so that brightness does not tell the classes.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('writing images needs Pillow: pip install "prox-monai[monai]"') from error
    folder = Path(folder)
    _refuse_bad_arguments(classes, patients, images_per_patient, size)
    check_free(folder)
    rows = []
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for patient in range(1, patients + 1):
            identifier = f"{label + 1}{patient:03d}"
            for number, pixels in enumerate(make_images((seed, label, patient), images_per_patient, size), 1):
                file = f"{name}/{name}-{identifier}-{number}.jpeg"
                Image.fromarray(pixels).save(folder / file, quality=95)
                rows.append((file, name, identifier))
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as manifest:
        csv.writer(manifest).writerows([("file", "class", "patient"), *rows])
    return folder


def make_images(seed: tuple[int, int, int], count: int, size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Draw the images of one patient.

    Args:
        seed: seed of the whole, label, patient; the label decides what the images show.
        count: number of images.
        size: mean height and width in pixels.

    Returns:
        Arrays of shape ``(H, W)``.
    """
    rng = np.random.default_rng(seed)
    course = rng.uniform((0.62, -0.06, -0.06, 0.24, 0.3), (0.7, 0.06, 0.06, 0.3, 0.5))
    images = []
    for _ in range(count):
        height, width = np.rint(np.array(size) * rng.uniform(0.9, 1.1, 2)).astype(int)
        depth, across = np.mgrid[0 : 1 : height * 1j, -1 : 1 : width * 1j]
        tissue = _bands(rng, FINDINGS[seed[1]], course, depth, across) * rng.gamma(12, 1 / 12, depth.shape)
        grey = (tissue - tissue.mean()) / tissue.std()
        images.append((rng.uniform(70, 110) + rng.uniform(30, 40) * grey).clip(0, 255).astype(np.uint8))
    return images


def _bands(
    rng: np.random.Generator,
    finding: str,
    course: NDArray[np.float64],
    depth: NDArray[np.float64],
    across: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Reflectance of a cross-section; ``depth`` is 0 at the top and 1 at the bottom, ``across`` is -1 to 1."""
    level, tilt, bend, thickness, pit = course
    bottom = level + tilt * across + bend * across**2
    lifted = bottom - _lift(rng, finding, across)
    top = bottom - thickness * (1 - pit * _bell(across - rng.uniform(-0.2, 0.2), 0.2)) - (bottom - lifted) / 2
    inside = (depth - top) / (lifted - top)  # 0 at the surface, 1 at the lowest band
    retina = 0.5 + 0.15 * np.cos(6 * np.pi * inside) + 0.3 * _bell(inside, 0.1)
    below = 0.45 * np.exp(-6 * (depth - lifted).clip(min=0))
    tissue = np.select([inside < 0, inside < 1, depth < bottom], [0.06, retina, 0.65], below)
    tissue = np.maximum(tissue, _bell(depth - lifted, 0.015))
    if finding == "cysts":
        for place in np.linspace(-0.5, 0.5, rng.integers(3, 6)) + rng.uniform(-0.1, 0.1):
            middle = rng.uniform(0.4, 0.7)
            radii = np.hypot((across - place) / rng.uniform(0.1, 0.14), (inside - middle) / rng.uniform(0.22, 0.3))
            tissue = np.where(radii < 1, 0.06, tissue)
    return tissue


def _lift(rng: np.random.Generator, finding: str, across: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far the lowest band is lifted, as a fraction of the height: one wide dome, or many small ones."""
    if finding == "membrane":
        return rng.uniform(0.14, 0.18) * _bell(across - rng.uniform(-0.4, 0.4), rng.uniform(0.2, 0.28))
    if finding == "deposits":
        places = np.linspace(-0.8, 0.8, rng.integers(6, 9)) + rng.uniform(-0.1, 0.1)
        return sum(rng.uniform(0.05, 0.075) * _bell(across - place, 0.06) for place in places)
    return np.zeros_like(across)


def _bell(x: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    return np.exp(-((x / width) ** 2) / 2)


def _refuse_bad_arguments(
    classes: Sequence[str], patients: int, images_per_patient: int, size: tuple[int, int]
) -> None:
    if not 2 <= len(set(classes)) == len(classes) <= len(FINDINGS):
        raise ValueError(f"classes must be two to four different names, not {', '.join(classes) or 'none'}.")
    if patients < 1:
        raise ValueError(f"patients must be at least 1, not {patients}.")
    if images_per_patient < 1:
        raise ValueError(f"images_per_patient must be at least 1, not {images_per_patient}.")
    if len(size) != 2 or min(size) < MIN_SIDE_PIXELS:
        raise ValueError(f"size must be height and width of at least {MIN_SIDE_PIXELS} pixels, not {size}.")
