"""The cases on which an exported network is calibrated and checked."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from prox_monai.data.json_file import read_json
from prox_monai.integrations.nnunet.scoring import CaseScorer, mean_dice
from prox_monai.integrations.nnunet.trained import TrainedModel
from prox_monai.integrations.nnunet.unseen import preprocessed_folder, unseen_cases
from prox_monai.integrations.nnunet.windows import patches_of

logger = logging.getLogger(__name__)

CALIBRATION_PATCHES = 300  # NNCF's own default
PARITY_PATCHES = 20


@dataclass(frozen=True)
class Cases:
    """Preprocessed cases of a model's fold.

    Args:
        model: the trained model.
        preprocessed: nnU-Net's folder of the preprocessed data set.
        training: cases that the fold was trained on.
        tuning: the half of the unseen cases on which choices are made.
        reporting: the other half, on which what was chosen is measured; may be empty.
        raw: nnU-Net's folder of the raw data set, where there is one.
    """

    model: TrainedModel
    preprocessed: Path
    training: tuple[str, ...]
    tuning: tuple[str, ...]
    reporting: tuple[str, ...]
    raw: Path | None = None

    @cached_property
    def _scorer(self) -> CaseScorer:
        return CaseScorer(self.model, self.preprocessed, (*self.tuning, *self.reporting))

    def scores(self, network: nn.Module, cases: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
        """Return the Dice of each label on whole unseen cases."""
        return self._scorer(network, cases)

    def dice(self, network: nn.Module, half: Literal["tuning", "reporting"] = "tuning") -> float:
        """Return the mean Dice over the labels on whole cases of a half, as ``evaluate`` does."""
        return mean_dice(self.scores(network, getattr(self, half)))

    def calibration_patches(self) -> CalibrationPatches:
        """Return windows of training cases, from which int8 takes the ranges of activations."""
        return CalibrationPatches(self, CALIBRATION_PATCHES)

    def parity_patches(self) -> Iterator[Tensor]:
        """Yield windows of unseen cases, each of another case while there are enough."""
        return patches_of(self.model.configuration, self.preprocessed, self.tuning, PARITY_PATCHES)


@dataclass(frozen=True)
class CalibrationPatches:
    """Windows of training cases, read anew each time: hundreds of large ones do not fit into memory.

    Args:
        cases: whose training cases.
        count: how many windows.
    """

    cases: Cases
    count: int

    def __iter__(self) -> Iterator[Tensor]:
        return patches_of(self.cases.model.configuration, self.cases.preprocessed, self.cases.training, self.count)

    def __len__(self) -> int:
        return self.count if self.cases.training else 0


def cases_of(model: TrainedModel, environment: Mapping[str, str]) -> Cases:
    """Find the cases of a model's fold.

    Raises:
        FileNotFoundError: When the preprocessed data or their split are not there.
        ValueError: When ``nnUNet_preprocessed`` is not set, or the fold has no unseen cases.
    """
    preprocessed = preprocessed_folder(model, environment)
    tuning, reporting = (tuple(unseen_cases(preprocessed, model.fold, half)) for half in ("tuning", "reporting"))
    splits = read_json(preprocessed / "splits_final.json")
    raw = Path(environment["nnUNet_raw"], model.plans["dataset_name"]) if environment.get("nnUNet_raw") else None
    training = tuple(splits[int(model.fold)]["train"])
    return Cases(model, preprocessed, training, tuning, reporting, raw if raw is not None and raw.is_dir() else None)


def cases_if_there(model: TrainedModel, environment: Mapping[str, str]) -> Cases | None:
    """Find the cases of a model's fold; where there are none, say why: exports are compared on random numbers then."""
    try:
        return cases_of(model, environment)
    except (FileNotFoundError, ValueError) as error:
        logger.warning("compared on random numbers, not on cases: %s", error)
        return None


def patches_to_compare(model: TrainedModel, cases: Cases | None) -> tuple[list[Tensor], str]:
    """Return the patches on which an exported network is compared with the plain one, and what they are of."""
    if cases is not None:
        return list(cases.parity_patches()), "unseen cases"
    noise = torch.randn(PARITY_PATCHES, *model.input_shape, generator=torch.Generator().manual_seed(0))
    return list(noise.split(1)), "random numbers"
