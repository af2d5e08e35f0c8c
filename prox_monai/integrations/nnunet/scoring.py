"""Hard Dice of a network on unseen cases: nnU-Net's prediction, grid and definition, in this process."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_tp_fp_fn_tn, region_or_label_to_mask
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

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


class CaseScorer:
    """Predicts whole preprocessed cases with a sliding window and compares them on their original grid.

    No mirroring: a score belongs to one pass of the network, as does its latency.

    Args:
        planned: whose plans, labels and preprocessing hold.
        preprocessed: nnU-Net's folder of the preprocessed data set.
        cases: identifiers of the cases.
        device: where to predict.

    Raises:
        FileNotFoundError: When the preprocessed data are not there.
        ValueError: When there is no case.
    """

    def __init__(
        self,
        planned: Planned,
        preprocessed: str | Path,
        cases: Sequence[str],
        device: str | torch.device = "cpu",
    ) -> None:
        if not cases:
            raise ValueError("there is no case to score on.")
        self._plans, self._dataset_json = planned.plans_manager, planned.dataset_json
        self._configuration, self._labels = planned.configuration, planned.labels
        folder = Path(preprocessed, self._configuration.data_identifier)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} does not exist; run nnUNetv2_preprocess for this configuration.")
        self.cases = list(cases)
        self._dataset = infer_dataset_class(str(folder))(str(folder), self.cases)
        self._truth = Path(preprocessed, "gt_segmentations")
        self._reader = self._plans.image_reader_writer_class()
        with redirect_stdout(io.StringIO()):  # on a CPU nnU-Net says that something was set which was not
            self._predictor = nnUNetPredictor(
                use_mirroring=False,
                perform_everything_on_device=torch.device(device).type == "cuda",
                device=torch.device(device),
                allow_tqdm=False,
            )

    def __call__(self, network: nn.Module) -> dict[str, dict[str, float]]:
        """Return the Dice per case and label; NaN where truth and prediction both lack the label."""
        return {case: self._dice(self.segment(network, case), self._reference(case)) for case in self.cases}

    def segment(self, network: nn.Module, case: str) -> np.ndarray:
        """Return the label map of one case on its original grid, of shape ``(z, y, x)``."""
        data, _, _, properties = self._dataset.load_case(case)
        self._predictor.manual_initialization(
            network, self._plans, self._configuration, None, self._dataset_json, "ProXTrainer", None
        )
        logits = self._predictor.predict_sliding_window_return_logits(torch.from_numpy(np.array(data[:])))
        return convert_predicted_logits_to_segmentation_with_correct_shape(
            logits.cpu(),
            self._plans,
            self._configuration,
            self._labels,
            properties,
            num_threads_torch=torch.get_num_threads(),
        )

    def _reference(self, case: str) -> np.ndarray:
        reference, _ = self._reader.read_seg(str(self._truth / f"{case}{self._dataset_json['file_ending']}"))
        return reference[0]

    def _dice(self, predicted: np.ndarray, reference: np.ndarray) -> dict[str, float]:
        labels = self._labels
        foreground: list[Label] = labels.foreground_regions if labels.has_regions else labels.foreground_labels
        ignored = reference == labels.ignore_label if labels.ignore_label is not None else None
        scores = {}
        for label in foreground:
            tp, fp, fn, _ = compute_tp_fp_fn_tn(
                region_or_label_to_mask(reference, label), region_or_label_to_mask(predicted, label), ignored
            )
            scores[str(label)] = float(2 * tp / (2 * tp + fp + fn)) if tp + fp + fn else float("nan")
        return scores


def fold_cases(preprocessed: str | Path, fold: int | str) -> list[str]:
    """Return the validation cases of a fold, sorted by name.

    Raises:
        FileNotFoundError: When there is no split yet (nnU-Net makes it when training begins).
        ValueError: When there is no such fold, or the fold has no unseen case.
    """
    path = Path(preprocessed, "splits_final.json")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; nnU-Net writes it when a training begins.")
    splits = json.loads(path.read_text())
    if fold == "all" or not 0 <= int(fold) < len(splits):
        raise ValueError(f"fold must be in 0 ... {len(splits) - 1} to have unseen cases, got {fold}.")
    return sorted(splits[int(fold)]["val"])
