"""Data in the layout of the Medical Segmentation Decathlon, or in a folder per class: read, check, split, make."""

from __future__ import annotations

from prox_monai.data.class_folders import (
    LabelledImage,
    check_class_folders,
    read_class_folders,
)
from prox_monai.data.decathlon import (
    DecathlonDataset,
    check_decathlon,
    download_decathlon,
    read_decathlon,
    to_nnunet_raw,
)
from prox_monai.data.patient_split import grouped_folds, halves
from prox_monai.data.synthetic import write_synthetic_decathlon
from prox_monai.data.synthetic_classes import write_synthetic_classes

__all__ = [
    "DecathlonDataset",
    "LabelledImage",
    "check_class_folders",
    "check_decathlon",
    "download_decathlon",
    "grouped_folds",
    "halves",
    "read_class_folders",
    "read_decathlon",
    "to_nnunet_raw",
    "write_synthetic_classes",
    "write_synthetic_decathlon",
]
