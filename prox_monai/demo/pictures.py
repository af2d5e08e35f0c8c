"""The predicted case of a demonstration as a picture."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np

from prox_monai.data import DecathlonDataset
from prox_monai.report.prediction import prediction_picture


def draw_case(dataset: DecathlonDataset, case: str, raw: Path, prediction: Path, path: Path) -> None:
    """Draw the first channel of a case, its labels and their prediction.

    Args:
        dataset: where the case comes from.
        case: its identifier.
        raw: nnU-Net's raw folder of the data set.
        prediction: the predicted labels.
        path: the PNG to write.
    """
    paths = (raw / "imagesTr" / f"{case}_0000.nii.gz", raw / "labelsTr" / f"{case}.nii.gz", prediction)
    volumes = [nib.as_closest_canonical(nib.load(path)) for path in paths]
    image, truth, predicted = (np.asarray(volume.dataobj) for volume in volumes)
    labels = dataset.labels[1:]
    dice = mean_dice(truth, predicted, len(labels))
    prediction_picture(
        image,
        truth,
        predicted,
        path,
        title=f"{case}, unseen in training: mean foreground Dice {dice:.3f}",
        source=credit(dataset),
        labels=labels,
        spacing=volumes[0].header.get_zooms()[:3],
    )


def credit(dataset: DecathlonDataset) -> str:
    """Return where the images come from and their licence, as ``dataset.json`` says."""
    said = json.loads((dataset.folder / "dataset.json").read_text(encoding="utf-8"))
    task = re.match(r"Task\d\d(?=_)", dataset.folder.name)
    licence = str(said.get("licence", "")).replace("CC-BY", "CC BY")
    if "SYNTHETIC" in str(said.get("description")):
        return "Image: synthetic, made by prox_monai; not from any patient"
    return ", ".join(filter(None, (f"Image: MSD {task[0]}" if task else f"Image: {dataset.name}", licence)))


def mean_dice(truth: np.ndarray, predicted: np.ndarray, labels: int) -> float:
    """Return the mean Dice over the labels 1 to ``labels`` that there are; NaN where there is none."""
    masks = [(truth == label, predicted == label) for label in range(1, labels + 1)]
    scores = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in masks if a.any() or b.any()]
    return float(np.mean(scores)) if scores else float("nan")
