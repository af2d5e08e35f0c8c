"""A case as a reader of a report sees it: image, truth and prediction, in one orientation."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
from torch import nn

from prox_monai.integrations.nnunet.scoring import CaseScorer
from prox_monai.integrations.nnunet.trained import TrainedModel
from prox_monai.report.prediction import prediction_picture


@dataclass(frozen=True, slots=True)
class RawCases:
    """Where the images of a data set are.

    Args:
        images: the first channel's file, per case.
        truths: the labels' file, per case.
    """

    images: Mapping[str, Path]
    truths: Mapping[str, Path]

    @classmethod
    def of(cls, model: TrainedModel, environment: Mapping[str, str]) -> RawCases:
        """Find the training cases of the data set that a model was trained on.

        Raises:
            ValueError: When ``nnUNet_raw`` is not set, or the images are no NIfTI volumes.
            FileNotFoundError: When the data set is not in it.
        """
        root = environment.get("nnUNet_raw")
        if not root:
            raise ValueError("nnUNet_raw is not set; pictures of cases need the images.")
        folder = Path(root, maybe_convert_to_dataset_name(model.plans["dataset_name"]))
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} does not exist; nnUNet_raw should hold the training's data set.")
        ending = model.dataset_json["file_ending"]
        if ending not in (".nii.gz", ".nii"):
            raise ValueError(f"pictures of cases need NIfTI volumes (.nii.gz, .nii), the data set has {ending}.")
        files = get_filenames_of_train_images_and_targets(str(folder), dict(model.dataset_json))
        return cls(
            {case: Path(found["images"][0]) for case, found in files.items()},
            {case: Path(found["label"]) for case, found in files.items()},
        )


def draw_prediction(
    model: TrainedModel, scorer: CaseScorer, network: nn.Module, case: str, raw: RawCases, path: Path, *, title: str
) -> None:
    """Predict a case and draw it beside its truth.

    Args:
        model: whose labels and reader hold.
        scorer: predicts.
        network: plain network.
        case: identifier.
        raw: where its image is.
        path: the PNG to write.
        title: of the picture.
    """
    with tempfile.TemporaryDirectory() as folder:
        predicted = Path(folder, raw.truths[case].name)
        reader = model.plans_manager.image_reader_writer_class()
        _, properties = reader.read_images([str(raw.images[case])])
        reader.write_seg(scorer.segment(network, case), str(predicted), properties)
        volumes = [_canonical(file) for file in (raw.images[case], raw.truths[case], predicted)]
    image, truth, prediction = (np.asarray(volume.dataobj) for volume in volumes)
    said = model.dataset_json
    prediction_picture(
        image,
        truth,
        prediction,
        path,
        title=title,
        source=", ".join(str(said[key]) for key in ("name", "reference", "licence") if said.get(key)),
        labels=_label_names(model),
        spacing=volumes[0].header.get_zooms()[:3],
    )


def _canonical(path: Path) -> nib.Nifti1Image:
    """The volume of a file with axes pointing right, anterior and superior, in memory."""
    volume = nib.as_closest_canonical(nib.load(path))
    return nib.Nifti1Image(np.asarray(volume.dataobj), volume.affine, volume.header)


def _label_names(model: TrainedModel) -> list[str]:
    """Names of the labels 1, 2, ...; of regions, which share voxels, the numbers they are written as."""
    labels = {value: name for name, value in model.dataset_json["labels"].items() if isinstance(value, int)}
    highest = max(model.labels.all_labels)
    return [labels.get(value, f"label {value}") for value in range(1, highest + 1)]
