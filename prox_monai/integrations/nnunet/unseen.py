"""A trained model on the cases of its fold that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from prox_monai.evaluation.cost import device_name, multiply_adds, parameters
from prox_monai.evaluation.subnets import Scores, evaluate_subnets, read_rows, split_cases
from prox_monai.integrations.nnunet.scoring import CaseScorer, fold_cases, mean_dice
from prox_monai.integrations.nnunet.trained import TrainedModel
from prox_monai.space import SubnetConfig

Half = Literal["tuning", "reporting", "both"]
Evaluator = Callable[[Iterable[tuple[str, SubnetConfig]]], Iterator[dict[str, Any]]]


def preprocessed_folder(model: TrainedModel, environment: Mapping[str, str]) -> Path:
    """Return nnU-Net's folder of the preprocessed data set that a model was trained on.

    Raises:
        ValueError: When ``nnUNet_preprocessed`` is not set.
        FileNotFoundError: When the data set is not in it.
    """
    root = environment.get("nnUNet_preprocessed")
    if not root:
        raise ValueError(
            "nnUNet_preprocessed is not set; scoring needs the preprocessed cases: "
            "export nnUNet_preprocessed=<the folder that the training used>."
        )
    folder = Path(root, model.plans["dataset_name"])
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist; nnUNet_preprocessed should hold the training's data set.")
    return folder


def unseen_cases(preprocessed: Path, fold: int | str, half: Half) -> list[str]:
    """Return the validation cases of a fold: the half for tuning, the half for reporting, or both.

    Raises:
        FileNotFoundError: When there is no split yet.
        ValueError: When the fold has no unseen case.
    """
    cases = fold_cases(preprocessed, fold)
    tuning, reporting = split_cases(cases)
    return {"tuning": tuning, "reporting": reporting, "both": cases}[half]


def evaluate_trained(
    model: TrainedModel,
    named: Iterable[tuple[str, SubnetConfig]],
    preprocessed: Path,
    path: str | Path,
    **options: Any,
) -> Iterator[dict[str, Any]]:
    """Evaluate subnets of a trained model on unseen cases; see :func:`trained_evaluator` and ``evaluate_subnets``.

    Args:
        model: the trained model.
        named: name and configuration of each subnet.
        preprocessed: nnU-Net's folder of the preprocessed data set.
        path: the table of rows; what it holds is reused.
        options: those of :func:`trained_evaluator`.

    Raises:
        FileNotFoundError: When the preprocessed data or their split are not there.
        ValueError: When there is no unseen case, or the table holds rows of another model, of other cases or without
            what is to be measured.
    """
    return trained_evaluator(model, preprocessed, path, **options)(named)


def trained_evaluator(
    model: TrainedModel,
    preprocessed: Path,
    path: str | Path,
    *,
    half: Half = "reporting",
    device: str = "cpu",
    tolerance_mm: float | None = None,
    repeats: int = 5,
    peak_memory: bool = False,
) -> Evaluator:
    """Return what evaluates subnets, given by name and configuration, into rows; it reads the cases once.

    Args:
        model: the trained model.
        preprocessed: nnU-Net's folder of the preprocessed data set.
        path: the table of rows; what it holds is reused.
        half: which of the fold's unseen cases.
        device: where to predict and to measure latency.
        tolerance_mm: of the surface Dice, millimetres; without it surfaces are not compared.
        repeats: timed passes per subnet; with 0 latency is not measured.
        peak_memory: whether it is measured, which takes seconds per subnet.

    Raises:
        FileNotFoundError: When the preprocessed data or their split are not there.
        ValueError: When there is no unseen case, or the table holds rows of another model, of other cases or without
            what is to be measured.
    """
    cases = unseen_cases(preprocessed, model.fold, half)
    wanted = {"latency_ms": repeats > 0, "peak_memory_bytes": peak_memory, "tolerance_mm": tolerance_mm is not None}
    _check_rows(path, model, cases, f"fold {model.fold} leaves for half={half}", wanted, tolerance_mm)
    if repeats:
        check_conditions(path, model, device)
    scorer = CaseScorer(model, preprocessed, cases, device, tolerance_mm=tolerance_mm)

    def score(network: nn.Module) -> Mapping[str, Scores]:
        if repeats:  # another machine may have begun at the same moment
            check_conditions(path, model, device)
        return scorer.measure(network)

    return partial(
        evaluate_subnets,
        model.multiply_adds(),
        score=score,
        path=path,
        model=model.digest,
        input_shape=model.input_shape,
        device=device,
        repeats=repeats,
        peak_memory=peak_memory,
        about={} if tolerance_mm is None else {"tolerance_mm": tolerance_mm},
    )


def describe(model: TrainedModel, config: SubnetConfig) -> dict[str, int]:
    """Return ``parameters`` and ``macs`` (multiply-adds per patch) of a subnet as stock nnU-Net runs it."""
    network = model.extract_at_full_resolution(config)
    return {"parameters": parameters(network), "macs": multiply_adds(network, model.input_shape)}


def dice_at_full_resolution(model: TrainedModel, config: SubnetConfig, environment: Mapping[str, str]) -> float:
    """Return the mean foreground Dice of a subnet's weights at resolution 1, on the reporting half.

    Raises:
        FileNotFoundError: When the preprocessed data or their split are not there.
        ValueError: When ``nnUNet_preprocessed`` is not set, or there is no unseen case.
    """
    preprocessed = preprocessed_folder(model, environment)
    scorer = CaseScorer(model, preprocessed, unseen_cases(preprocessed, model.fold, "reporting"))
    return mean_dice(scorer(model.extract_at_full_resolution(config)))


def choose_device(name: str) -> str:
    """Return ``cpu`` or ``cuda``; ``auto`` is ``cuda`` where torch has it.

    Raises:
        ValueError: When ``cuda`` is asked for and torch has none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("device cuda is not available: torch sees no GPU; allowed here are cpu and auto.")
    return name if name != "auto" else "cuda" if available else "cpu"


def check_conditions(path: str | Path, model: TrainedModel, device: str) -> None:
    """Check that the latencies of a table are of this device, with these threads.

    Raises:
        ValueError: When they are not.
    """
    here = {"device": device_name(device), "threads": torch.get_num_threads(), "torch": torch.__version__}
    for row in read_rows(path, model.digest):
        if row["latency_ms"] is None:
            continue
        there = {name: row["latency"][name] for name in here}
        if there != here:
            raise ValueError(
                f"{path} holds latencies of {_told(there)}, here is {_told(here)}, and they do not compare; give "
                f"another file, or leave latency out."
            )


def _told(conditions: Mapping[str, Any]) -> str:
    return f"{conditions['device']}, threads: {conditions['threads']}, torch {conditions['torch']}"


def _check_rows(
    path: str | Path,
    model: TrainedModel,
    cases: list[str],
    whose: str,
    wanted: Mapping[str, bool],
    tolerance_mm: float | None,
) -> None:
    """Check that the rows of a table are of these cases and hold what is wanted."""
    for row in read_rows(path, model.digest):
        if set(row["dice_per_case"]) != set(cases):
            raise ValueError(
                f"{path} holds rows of {len(row['dice_per_case'])} cases, not of the {len(cases)} that {whose}; "
                f"give another file."
            )
        for field, asked in wanted.items():
            if asked and row.get(field) is None:
                raise ValueError(f"{path} holds rows without {field}; give another file.")
        if tolerance_mm is not None and row["tolerance_mm"] != tolerance_mm:
            raise ValueError(
                f"{path} holds rows of tolerance_mm {row['tolerance_mm']:g}, not {tolerance_mm:g}; give another file."
            )
