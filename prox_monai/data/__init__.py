"""Data in the layout of the Medical Segmentation Decathlon: read, check, convert, download, make."""

from __future__ import annotations

from prox_monai.data.decathlon import (
    DecathlonDataset,
    check_decathlon,
    download_decathlon,
    read_decathlon,
    to_nnunet_raw,
)
from prox_monai.data.synthetic import write_synthetic_decathlon

__all__ = [
    "DecathlonDataset",
    "check_decathlon",
    "download_decathlon",
    "read_decathlon",
    "to_nnunet_raw",
    "write_synthetic_decathlon",
]
