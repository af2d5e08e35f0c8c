"""Small synthetic volumes in the Decathlon layout, for demonstrations and tests without real data."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from prox_monai.data.complete import check_free

MIN_AXIS_VOXELS = 12


def write_synthetic_decathlon(
    folder: str | PathLike[str],
    cases: int = 40,
    seed: int = 0,
    size: tuple[int, int, int] = (36, 50, 36),
) -> Path:
    """Write a synthetic segmentation task: the thick head and the thin tail of a curved body among its likes.

    Args:
        folder: written in the Decathlon layout; made when absent, refused when it holds anything.
        cases: number of cases. Case ``k`` of a seed is the same whatever the number.
        seed: the arrays are a function of it.
        size: mean size in voxels of 1 mm; each axis of each case differs by up to 10 %.

    Returns:
        The folder.

    Raises:
        ValueError: When ``cases`` is below 1 or an axis of ``size`` is below 12 voxels.
        FileExistsError: When ``folder`` is not empty.

    Head and tail touch and differ little in grey, parts of their surroundings are of the same grey, and
    noise, a bias field and an intensity scale between 1e2 and 1e6 lie over all: no threshold finds the
    labels. The head is told by its thickness and its grey, not by its side, so that mirroring does no harm.
    """
    folder = Path(folder)
    if cases < 1:
        raise ValueError(f"cases must be at least 1, not {cases}.")
    if len(size) != 3 or min(size) < MIN_AXIS_VOXELS:
        raise ValueError(f"size must be three axes of at least {MIN_AXIS_VOXELS} voxels, not {size}.")
    check_free(folder)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    training = []
    for case in range(cases):
        file = f"synthetic_{case + 1:03d}.nii.gz"
        image, label = make_case(np.random.default_rng((seed, case)), size)
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / "imagesTr" / file)
        nib.save(nib.Nifti1Image(label, np.eye(4)), folder / "labelsTr" / file)
        training.append({"image": f"./imagesTr/{file}", "label": f"./labelsTr/{file}"})
    description = {
        "name": "Synthetic",
        "description": f"SYNTHETIC volumes made by prox_monai, seed {seed}; not from any patient",
        "tensorImageSize": "3D",
        "modality": {"0": "synthetic"},
        "labels": {"0": "background", "1": "head", "2": "tail"},
        "numTraining": cases,
        "numTest": 0,
        "training": training,
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
    return folder


def make_case(rng: np.random.Generator, size: tuple[int, int, int]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Draw one case.

    Args:
        rng: source of all that is random.
        size: mean size in voxels.

    Returns:
        Image and label of one shape ``(X, Y, Z)``.
    """
    shape = np.rint(np.array(size) * rng.uniform(0.9, 1.1, 3)).astype(int)
    points = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    depth, along = _body(rng, points + 0.04 * np.stack([_waves(rng, points, 1.0) for _ in range(3)]))
    head = along > rng.uniform(0.05, 0.2)
    label = np.where(depth > 0, np.where(head, 1, 2), 0).astype(np.uint8)

    white, grey, dark = 0.85, 0.5, 0.15
    body = grey + np.where(head, 0.08, -0.08)
    image = white + 0.06 * _waves(rng, points, 2.5)
    image += (grey - white) * _soft(8 * (_waves(rng, points, 1.5) - 1.0))
    image += (dark - image) * _soft(8 * (_waves(rng, points, 1.5) - 1.2))
    image += (white - image) * _soft(16 * (depth + 0.2))
    image += (body - image) * _soft(16 * depth)
    image = image * np.exp(0.15 * _waves(rng, points, 0.4)) + rng.normal(0, 0.05, tuple(shape))
    return (10 ** rng.uniform(2, 6) * image.clip(min=0)).astype(np.float32), label


def _body(rng: np.random.Generator, points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Depth below the surface (1 in the middle, 0 at it) and place on the axis (-1 tail, 1 head)."""
    across, along, up = points - rng.uniform(-0.1, 0.1, (3, 1, 1, 1))
    along = along / rng.uniform(0.6, 0.75)
    across = across + rng.uniform(-0.15, 0.15) * along
    up = up + rng.uniform(0.05, 0.3) * along + rng.uniform(0.1, 0.25) * (along**2 - 0.3)
    thickness = 1 + 0.25 * np.tanh(3 * along)
    radii = np.hypot(across / rng.uniform(0.3, 0.4), up / rng.uniform(0.26, 0.34)) / thickness
    return 1 - np.hypot(radii, along**2), along


def _waves(rng: np.random.Generator, points: NDArray[np.float64], cycles: float) -> NDArray[np.float64]:
    """A smooth random field of unit variance: eight plane waves of about ``cycles`` cycles per axis."""
    directions = rng.normal(0, np.pi * cycles, (8, 3))
    phases = rng.uniform(0, 2 * np.pi, (8, 1, 1, 1))
    return np.cos(np.tensordot(directions, points, 1) + phases).sum(0) / 2


def _soft(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logistic step from 0 to 1."""
    return (1 + np.tanh(x / 2)) / 2
