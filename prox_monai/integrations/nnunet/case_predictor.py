"""The label map of an image: nnU-Net's preprocessing, window and way back, around any network."""

from __future__ import annotations

import io
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from prox_monai.data.complete import complete_file
from prox_monai.integrations.nnunet.deployed import Deployed
from prox_monai.integrations.nnunet.images import Case, read_case
from prox_monai.integrations.nnunet.ready import Ready
from prox_monai.integrations.nnunet.windows import STEP


@dataclass(frozen=True, slots=True)
class Predicted:
    """A label map that was written, now or before.

    Args:
        case: name of the case.
        path: of the label map.
        seconds: from reading the image to the label map on disk.
        voxels: of each label, by name.
    """

    case: str
    path: Path
    seconds: float
    voxels: dict[str, int]


class CasePredictor:
    """Segments images with nnU-Net's own predictor, in this process.

    The label maps are those of ``nnUNetv2_predict`` with the same network, but for rounding (:class:`Ready`).

    Args:
        deployed: the network, and how images get to it.
        mirror: average over mirrored images along the axes that the model was trained with, as nnU-Net does.
    """

    def __init__(self, deployed: Deployed, *, mirror: bool = True) -> None:
        self._deployed = deployed
        self._plans, self._configuration = deployed.plans_manager, deployed.configuration
        self._reader = self._plans.image_reader_writer_class()
        with redirect_stdout(io.StringIO()):  # on a CPU nnU-Net says that something was set which was not
            self._predictor = nnUNetPredictor(
                tile_step_size=STEP,
                use_mirroring=mirror,
                perform_everything_on_device=False,
                device=torch.device("cpu"),
                allow_tqdm=False,
            )
        self._predictor.manual_initialization(
            Ready(deployed.network, self._predictor.device),
            self._plans,
            self._configuration,
            None,
            deployed.dataset_json,
            "nnUNetTrainer",
            deployed.mirroring_axes,
        )

    def segment(self, case: Case) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the label map of a case on the image's own grid, ``(z, y, x)``, and the reader's properties.

        Raises:
            ValueError: When the image cannot be predicted, see ``read_case``.
        """
        image, properties = read_case(case, self._deployed)
        preprocessor = self._configuration.preprocessor_class(verbose=False)
        data, _, properties = preprocessor.run_case_npy(
            image, None, properties, self._plans, self._configuration, self._deployed.dataset_json
        )
        inputs = torch.from_numpy(data).to(torch.float32, memory_format=torch.contiguous_format)
        logits = self._predictor.predict_sliding_window_return_logits(inputs)
        segmentation = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits,
            self._plans,
            self._configuration,
            self._deployed.labels,
            properties,
            num_threads_torch=torch.get_num_threads(),
        )
        return segmentation, properties

    def write(self, case: Case, path: Path) -> Predicted:
        """Segment a case and write its label map, which appears when it is complete."""
        start = time.perf_counter()
        segmentation, properties = self.segment(case)
        with complete_file(path) as partial:
            self._reader.write_seg(segmentation, str(partial), properties)
        return Predicted(case.name, path, time.perf_counter() - start, self._voxels(segmentation))

    def _voxels(self, segmentation: np.ndarray) -> dict[str, int]:
        """Count the voxels of each label; of regions, those of the numbers that are written for them."""
        numbers, counts = np.unique(segmentation, return_counts=True)
        found = {int(number): int(count) for number, count in zip(numbers, counts, strict=True)}
        labels = self._deployed.labels
        names = [name for name in labels.label_dict if name not in ("background", "ignore")]
        written = labels.regions_class_order if labels.has_regions else [labels.label_dict[name] for name in names]
        return {name: found.get(number, 0) for name, number in zip(names, written, strict=True)}
