"""Label maps of a folder of images, by whatever can predict."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from prox_monai.integrations.nnunet.case_predictor import CasePredictor, Predicted
from prox_monai.integrations.nnunet.choice import Choice, choose
from prox_monai.integrations.nnunet.deployed import (
    Deployed,
    from_exported,
    from_stock,
    from_trained,
    kind_of,
    stock_folds,
)
from prox_monai.integrations.nnunet.images import Case, check_cases, find_cases
from prox_monai.integrations.nnunet.predictions import Output
from prox_monai.integrations.nnunet.trained import TrainedModel, load_trained

logger = logging.getLogger(__name__)

_LARGEST = Choice()


@dataclass(frozen=True, slots=True)
class Prediction:
    """A prediction that is ready to run: everything was opened and checked, nothing was written.

    Args:
        deployed: what predicts.
        cases: what is predicted.
        output: where label maps go.
        mirror: whether to average over mirrored images.
    """

    deployed: Deployed
    cases: tuple[Case, ...]
    output: Output
    mirror: bool

    def todo(self) -> list[Case]:
        """Return the cases that this model has not predicted before."""
        return [case for case in self.cases if not self.output.finished(case.name)]

    def run(self) -> Iterator[Predicted]:
        """Predict one case after the other; those that were finished before are reported as they are."""
        self.output.prepare()
        predictor = CasePredictor(self.deployed, mirror=self.mirror)
        for case in self.cases:
            path = self.output.path(case.name)
            if known := self.output.finished(case.name):
                yield Predicted(case.name, path, known["seconds"], known["voxels"])
                continue
            predicted = predictor.write(case, path)
            self.output.add(case.name, {"seconds": predicted.seconds, "voxels": predicted.voxels})
            yield predicted


def prepare_prediction(
    folder: str | Path,
    source: str | Path,
    target: str | Path,
    *,
    choice: Choice = _LARGEST,
    fold: int | str = 0,
    runtime: str | None = None,
    mirror: bool = True,
    threads: int | None = None,
    overwrite: bool = False,
) -> Prediction:
    """Open a model, find and check the images, and see that the output is free.

    Args:
        folder: an exported model, a model folder of ``ProXTrainer``, or a stock one of nnU-Net.
        source: a folder of images, or one image, see ``find_cases``.
        target: a folder for the label maps, or of one image also a file, see ``Output``.
        choice: which subnet, of a folder of ``ProXTrainer``.
        fold: of a model folder.
        runtime: of a folder of ``ProXTrainer``: ``torch``, ``onnxruntime`` or ``openvino``; if not given, the one whose
            latencies decided, else ``torch``.
        mirror: average over mirrored images, as nnU-Net does, where the model was trained with that.
        threads: CPU threads; if not given, as many as the latencies that decided are of, else as torch or the runtime
            has them.
        overwrite: replace label maps that are there.

    Raises:
        FileExistsError: When the target holds something else, or predictions of another model or other images.
        FileNotFoundError: When model or images are not there.
        ImportError: When the runtime is not installed.
        ValueError: When a case cannot be predicted, no subnet can be chosen, or the target would overwrite the images.
    """
    if threads:
        torch.set_num_threads(threads)
    checked = False
    if kind_of(folder, fold) == "family":
        deployed, cases, checked = _of_family(load_trained(folder, fold), source, choice, runtime, mirror, threads)
    else:
        deployed, cases = _of_one(folder, source, choice, runtime, fold, threads)
    mirror = mirror and deployed.mirroring_axes is not None
    about, images = deployed.about | {"mirroring": mirror}, {case.name: case.digest for case in cases}
    output = Output(target, deployed.file_ending, about, images, overwrite=overwrite)
    _check_targets(output, cases)
    prediction = Prediction(deployed, tuple(cases), output, mirror)
    if not checked:
        check_cases(prediction.todo(), deployed)
    return prediction


def _of_family(
    model: TrainedModel, source: str | Path, choice: Choice, runtime: str | None, mirror: bool, threads: int | None
) -> tuple[Deployed, list[Case], bool]:
    """Return what predicts, what is predicted, and whether the images were checked already."""
    largest = from_trained(model, model.space.largest())
    cases = find_cases(source, largest.file_ending, largest.channels)
    windows = check_cases(cases, largest, count_windows=True) if choice.budget_s else 1
    passes = 2 ** len(model.mirroring_axes) if mirror and model.mirroring_axes else 1
    chosen = choose(model, choice, windows=windows, passes=passes)
    if threads := threads or chosen.threads:
        torch.set_num_threads(threads)
    if choice.max_latency_ms is not None and passes > 1:
        logger.info("the limit is of one pass; mirroring makes %d of each window, --no-mirroring one", passes)
    if chosen.runtime and runtime and runtime != chosen.runtime:
        logger.warning("latencies in the table are of %s, not of %s", chosen.runtime, runtime)
    deployed = from_trained(model, chosen.config, runtime or chosen.runtime or "torch", threads)
    return deployed, cases, choice.budget_s is not None


def _of_one(
    folder: str | Path, source: str | Path, choice: Choice, runtime: str | None, fold: int | str, threads: int | None
) -> tuple[Deployed, list[Case]]:
    """Return what predicts, of a folder that leaves no choice, and what is predicted."""
    if choice.given or runtime:
        option = f"--{choice.given[0].replace('_', '-')}" if choice.given else "--runtime"
        raise ValueError(f"{folder} holds one subnet in one form, {option} has no say; give a folder of ProXTrainer.")
    if kind_of(folder, fold) == "exported":
        if str(fold) != "0":
            raise ValueError(f"{folder} holds one subnet in one form, --fold has no say; leave it out.")
        deployed = from_exported(folder, threads)
    else:
        deployed = from_stock(folder, fold)
        if len(folds := stock_folds(folder)) > 1:
            logger.warning("%s holds %s; fold_%s alone predicts, without the others", folder, ", ".join(folds), fold)
    return deployed, find_cases(source, deployed.file_ending, deployed.channels)


def _check_targets(output: Output, cases: Sequence[Case]) -> None:
    if output.is_file and len(cases) > 1:
        raise ValueError(f"{output.target} is one file, but there are {len(cases)} cases; give a folder.")
    for case in cases:
        if output.path(case.name).resolve() in {path.resolve() for path in case.files}:
            raise ValueError(f"{output.path(case.name)} would overwrite the image; give another folder.")
