"""The cases of a datalist, checked before they are used, and the transforms of images and labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.apps.auto3dseg.transforms import EnsureSameShaped
from monai.auto3dseg.utils import datafold_read
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImage,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    RandAdjustContrastd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandGaussianNoised,
    RandScaleIntensityd,
    ScaleIntensityRanged,
    Spacingd,
    SpatialPadd,
)

from prox_monai.data.problems import raise_for_problems
from prox_monai.integrations.auto3dseg.parameters import Parameters
from prox_monai.integrations.monai import CheckChannelsd, CheckLabelsd

Items = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Split:
    """The cases of a fold: ``image`` (a path, or one per channel) and ``label`` of each.

    Args:
        training: the cases that train.
        validation: the cases that are scored.
    """

    training: Items
    validation: Items


def read_split(data_list_file_path: str, data_file_base_dir: str, fold: int) -> Split:
    """Read a fold of a datalist.

    Raises:
        ValueError: When there are too few cases to train and to validate, a case has no image or label, or files are
            missing; all that are missing are counted.
    """
    training, validation = datafold_read(data_list_file_path, data_file_base_dir, fold)
    if not training or not validation:
        raise ValueError(
            f"fold {fold} of {data_list_file_path} has {len(training)} training and {len(validation)} validation "
            f"cases; at least one of each is needed."
        )
    raise_for_problems(Path(data_list_file_path), list(missing([*training, *validation])))
    return Split(
        *([{key: item[key] for key in ("image", "label")} for item in side] for side in (training, validation))
    )


def missing(items: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what cases lack: an image, a label in one file, a file."""
    for number, item in enumerate(items, 1):
        for key in ("image", "label"):
            if not item.get(key):
                yield f"case {number} ({item.get('image') or item.get('label')}) names no {key}."
                continue
            if key == "label" and not isinstance(item[key], str):
                yield f"label of case {number} ({item['image']}) must be one file, got {item[key]}."
                continue
            for file in files_of(item[key]):
                if not Path(file).exists():
                    yield f"{key} {file} does not exist."


def files_of(entry: str | Sequence[str]) -> list[str]:
    """Return the files of an image: one, or one per channel."""
    return [entry] if isinstance(entry, str) else list(entry)


def check_classes(training: Items, classes: int, fold: int) -> None:
    """Check that every class occurs in some training case; reads label maps until all were seen.

    Args:
        training: the training cases.
        classes: number of labels, the background included.
        fold: for the message.

    Raises:
        ValueError: When one does not: nothing could be learnt of it.
    """
    absent, load = set(range(1, classes)), LoadImage(image_only=True)
    for case in training:
        absent -= {int(value) for value in torch.unique(torch.as_tensor(load(case["label"])))}
        if not absent:
            return
    raise ValueError(
        f"every class must occur in the training cases of fold {fold}; no label map of them has "
        f"{', '.join(map(str, sorted(absent)))}."
    )


def deterministic_transforms(parameters: Parameters, keys: Sequence[str]) -> list[Any]:
    """Return what is done to images, and to labels where ``keys`` names them: load, check, orient, resample, normalise.

    Args:
        parameters: of the algorithm.
        keys: ``["image", "label"]``, or ``["image"]`` alone.
    """
    keys = list(keys)
    labelled = "label" in keys
    mode = ["bilinear", "nearest"][: len(keys)]
    checks = [
        EnsureSameShaped("label", source_key="image"),
        CheckChannelsd("label", 1),
        CheckLabelsd("label", parameters.output_classes),
    ]
    return [
        LoadImaged(keys, image_only=True),
        EnsureChannelFirstd(keys),
        CheckChannelsd("image", parameters.input_channels),
        *(checks if labelled else []),
        EnsureTyped(keys, dtype=torch.float32),
        Orientationd(keys, axcodes="RAS", labels=None),
        Spacingd(keys, pixdim=parameters.resample_resolution, mode=mode),
        *normalisation(parameters),
    ]


def normalisation(parameters: Parameters) -> list[Any]:
    """Return the transforms of grey values."""
    if parameters.normalize_mode == "ct":
        low, high, mean, deviation = parameters.intensity
        deviation = max(deviation, 1e-8)
        bounds = ((low - mean) / deviation, (high - mean) / deviation)
        return [ScaleIntensityRanged("image", low, high, *bounds, clip=True)]
    return [NormalizeIntensityd("image", nonzero=parameters.normalize_mode == "nonzero", channel_wise=True)]


def random_transforms(parameters: Parameters) -> list[Any]:
    """Return what makes a patch for training of a case: every third lies around a labelled voxel."""
    keys = ["image", "label"]
    patch = parameters.topology.patch
    return [
        SpatialPadd(keys, patch),
        RandCropByPosNegLabeld(keys, label_key="label", spatial_size=patch, pos=1, neg=2, num_samples=1),
        RandAffined(
            keys,
            prob=0.3,
            rotate_range=rotations(parameters.topology.kernels[0]),
            scale_range=[0.2] * 3,
            mode=["bilinear", "nearest"],
            padding_mode="border",
        ),
        RandGaussianNoised("image", prob=0.1),
        RandScaleIntensityd("image", factors=0.25, prob=0.2),
        RandAdjustContrastd("image", prob=0.2, gamma=(0.7, 1.5)),
    ]


def rotations(kernel: Sequence[int]) -> list[float]:
    """Return the largest rotation about each axis, in radians: only fine axes are turned into each other.

    Args:
        kernel: of the first level, 1 along coarse axes.
    """
    coarse = [axis for axis, size in enumerate(kernel) if size == 1]
    return [0.3 if set(coarse) <= {axis} else 0.0 for axis in range(len(kernel))]


def training_transforms(parameters: Parameters) -> Compose:
    """Return the transforms of training cases."""
    return Compose([*deterministic_transforms(parameters, ["image", "label"]), *random_transforms(parameters)])


def validation_transforms(parameters: Parameters) -> Compose:
    """Return the transforms of cases that are scored."""
    return Compose(deterministic_transforms(parameters, ["image", "label"]))
