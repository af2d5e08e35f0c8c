"""What a network is worth on unseen cases: nnU-Net's prediction, grid and hard Dice, in this process."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from nnunetv2.evaluation.evaluate_predictions import region_or_label_to_mask
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from prox_monai.data.json_file import read_json
from prox_monai.evaluation.surface import surface_scores
from prox_monai.integrations.nnunet.ready import Ready

_KEPT_BYTES = 2 * 2**30

Label = int | tuple[int, ...]


class Planned(Protocol):
    """What says how cases are read, predicted and compared: a trained model, or a training."""

    @property
    def plans_manager(self) -> PlansManager: ...

    @property
    def configuration(self) -> ConfigurationManager: ...

    @property
    def labels(self) -> LabelManager: ...

    @property
    def dataset_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class _Case:
    """One case as it is predicted and compared."""

    data: torch.Tensor
    properties: dict[str, Any]
    reference: np.ndarray

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return self.data.nbytes + self.reference.nbytes


class CaseScorer:
    """Predicts whole preprocessed cases with a sliding window and compares them on their original grid.

    No mirroring: a score belongs to one pass of the network, as does its latency. Cases are read once, as far as they
    fit into two gigabytes.

    Args:
        planned: whose plans, labels and preprocessing hold.
        preprocessed: nnU-Net's folder of the preprocessed data set.
        cases: identifiers of the cases.
        device: where to predict.
        tolerance_mm: of the surface Dice, millimetres; without it surfaces are not compared.

    Raises:
        FileNotFoundError: When the preprocessed data are not there.
        ValueError: When there is no case, or the tolerance is negative.
    """

    def __init__(
        self,
        planned: Planned,
        preprocessed: str | Path,
        cases: Sequence[str],
        device: str | torch.device = "cpu",
        *,
        tolerance_mm: float | None = None,
    ) -> None:
        if not cases:
            raise ValueError("there is no case to score on.")
        if tolerance_mm is not None and tolerance_mm < 0:
            raise ValueError(f"tolerance_mm must not be negative, got {tolerance_mm:g}.")
        self._plans, self._dataset_json = planned.plans_manager, planned.dataset_json
        self._configuration, self._labels = planned.configuration, planned.labels
        folder = Path(preprocessed, self._configuration.data_identifier)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} does not exist; run nnUNetv2_preprocess for this configuration.")
        self.cases = list(cases)
        self._dataset = infer_dataset_class(str(folder))(str(folder), self.cases)
        self._truth = Path(preprocessed, "gt_segmentations")
        self._reader = self._plans.image_reader_writer_class()
        self._tolerance_mm = tolerance_mm
        self._kept: dict[str, _Case] = {}
        self._free = _KEPT_BYTES
        with redirect_stdout(io.StringIO()):  # on a CPU nnU-Net says that something was set which was not
            self._predictor = nnUNetPredictor(
                use_mirroring=False,
                perform_everything_on_device=torch.device(device).type == "cuda",
                device=torch.device(device),
                allow_tqdm=False,
            )

    def __call__(self, network: nn.Module, cases: Sequence[str] | None = None) -> Mapping[str, Mapping[str, float]]:
        """Return the Dice per case and label; NaN where truth and prediction both lack the label."""
        return self.measure(network, cases)["dice"]

    def measure(self, network: nn.Module, cases: Sequence[str] | None = None) -> dict[str, dict[str, dict[str, float]]]:
        """Return by measure the value per case and label.

        Measures are ``dice`` and, with a tolerance, those of
        :func:`~prox_monai.evaluation.surface.surface_scores`; NaN where truth and prediction both lack the label.

        Args:
            network: what predicts.
            cases: some of the cases; all if not given.
        """
        self._use(network)
        measures: dict[str, dict[str, dict[str, float]]] = {}
        for name in self.cases if cases is None else cases:
            case = self._case(name)
            for label, values in self._compare(self._predict(case), case).items():
                for measure, value in values.items():
                    measures.setdefault(measure, {}).setdefault(name, {})[label] = value
        return measures

    def segment(self, network: nn.Module, case: str) -> np.ndarray:
        """Return the label map of one case on its original grid, of shape ``(z, y, x)``."""
        self._use(network)
        return self._predict(self._case(case))

    def _use(self, network: nn.Module) -> None:
        self._predictor.manual_initialization(
            Ready(network, self._predictor.device),
            self._plans,
            self._configuration,
            None,
            self._dataset_json,
            "ProXTrainer",
            None,
        )

    def _predict(self, case: _Case) -> np.ndarray:
        logits = self._predictor.predict_sliding_window_return_logits(case.data)
        return convert_predicted_logits_to_segmentation_with_correct_shape(
            logits.cpu(),
            self._plans,
            self._configuration,
            self._labels,
            case.properties,
            num_threads_torch=torch.get_num_threads(),
        )

    def _case(self, name: str) -> _Case:
        if name in self._kept:
            return self._kept[name]
        data, _, _, properties = self._dataset.load_case(name)
        path = self._truth / f"{name}{self._dataset_json['file_ending']}"
        case = _Case(torch.from_numpy(np.array(data[:])), properties, self._reader.read_seg(str(path))[0][0])
        if case.size <= self._free:
            self._kept[name] = case
            self._free -= case.size
        return case

    def _compare(self, segmentation: np.ndarray, case: _Case) -> dict[str, dict[str, float]]:
        """The measures of each label or region."""
        labels = self._labels
        foreground: list[Label] = labels.foreground_regions if labels.has_regions else labels.foreground_labels
        counted = None if labels.ignore_label is None else case.reference != labels.ignore_label
        found = {}
        for label in foreground:
            masks = [region_or_label_to_mask(image, label) for image in (segmentation, case.reference)]
            predicted, reference = masks if counted is None else (mask & counted for mask in masks)
            found[str(label)] = {"dice": _dice(predicted, reference)}
            if self._tolerance_mm is not None:
                found[str(label)] |= _surface(predicted, reference, case.properties["spacing"], self._tolerance_mm)
        return found


def _dice(predicted: np.ndarray, reference: np.ndarray) -> float:
    """nnU-Net's: NaN where both are empty."""
    both = int(np.count_nonzero(predicted)) + int(np.count_nonzero(reference))
    return 2 * int(np.count_nonzero(predicted & reference)) / both if both else math.nan


def _surface(
    predicted: np.ndarray, reference: np.ndarray, spacing: Sequence[float], tolerance_mm: float
) -> dict[str, float]:
    """Surface measures; an image of a single slice is taken as 2-D."""
    flat = predicted.shape[0] == 1
    masks = (torch.from_numpy(mask[0] if flat else mask) for mask in (predicted, reference))
    return surface_scores(*masks, [float(step) for step in spacing][int(flat) :], tolerance_mm)


def mean_dice(scores: Mapping[str, Mapping[str, float]]) -> float:
    """Return the mean over labels of the mean over cases, without those that are NaN; NaN if nothing is left."""
    values = torch.tensor([list(labels.values()) for labels in scores.values()], dtype=torch.float64)
    return float(values.nanmean(0).nanmean())


def fold_cases(preprocessed: str | Path, fold: int | str) -> list[str]:
    """Return the validation cases of a fold, sorted by name.

    Raises:
        FileNotFoundError: When there is no split yet (nnU-Net makes it when training begins).
        ValueError: When there is no such fold, or the fold has no unseen case.
    """
    path = Path(preprocessed, "splits_final.json")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; nnU-Net writes it when a training begins.")
    splits = read_json(path)
    if fold == "all" or not 0 <= int(fold) < len(splits):
        raise ValueError(f"fold must be in 0 ... {len(splits) - 1} to have unseen cases, got {fold}.")
    return sorted(splits[int(fold)]["val"])
