"""Larger candidates for a family that is trained: the answer to a space that was chosen too small (ProX, section 1)."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from prox_monai.data.complete import complete_folder
from prox_monai.integrations.nnunet.checkpoint import plain, read_checkpoint, schedule_of
from prox_monai.integrations.nnunet.planning import plan_training
from prox_monai.integrations.nnunet.settings import ProXSettings
from prox_monai.integrations.nnunet.trained import TrainedModel, load_trained
from prox_monai.space import Dimension, PhaseSchedule, SearchSpace
from prox_monai.training.checkpoint import write_atomically

_MODEL_FILES = ("plans.json", "dataset.json", "dataset_fingerprint.json")


def extend(
    checkpoint: str | Path,
    candidates: Mapping[Dimension, Sequence[float]],
    epochs: int | Sequence[int],
    results: str | Path,
) -> tuple[Path, PhaseSchedule]:
    """Write a training that goes on from the end of another with new candidates.

    The old subnets are unchanged: they give the same outputs. The optimizer starts afresh, the logs go on.

    Args:
        checkpoint: ``checkpoint_final.pth`` in a fold's folder of ``ProXTrainer``.
        candidates: of each dimension, those to add, each larger than all that were trained.
        epochs: of the new phases, one per candidate and a last one that polishes, where the family had it: in total, or
            one value per phase.
        results: the value of ``nnUNet_results`` for the new training.

    Returns:
        The checkpoint, from which ``nnUNetv2_train ... --c`` goes on, and the schedule with the old phases and the new.

    Raises:
        FileNotFoundError: When there is no such checkpoint, or no plans beside its fold.
        FileExistsError: When the results hold this fold already, or another data set or plans under its name.
        ValueError: When the file is no end of a training that can be extended, or a candidate or number of epochs is
            not allowed.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; give checkpoint_final.pth of a fold that ProXTrainer has trained.")
    content = read_checkpoint(path)
    settings, schedule = ProXSettings(**content["prox"]["settings"]), schedule_of(content)
    _check_extensible(path, content, settings, schedule)
    trained = schedule.phases[-1].space
    space = _larger(trained, candidates)
    extended = schedule.extended(space, epochs)
    settings = dataclasses.replace(
        settings,
        **{dimension.value: space.candidates(dimension) for dimension in Dimension},
        max_width=None,
        epochs=extended.total_epochs,
    )
    model = load_trained(path.parent.parent, content["init_args"]["fold"], path.name)
    plan_training(settings, model.configuration)
    target = _target(model, content, Path(results))
    torch.manual_seed(settings.seed)
    model.supernet.growth = settings.growth
    supernet = model.supernet.only(trained).grow(space)  # a stop may have left out candidates that it has room for
    added = {"settings": settings.to_dict(), "schedule": extended.to_dict()}
    training = content["prox"]["training"] | {"teacher": None, "average": None}
    content |= {
        "network_weights": supernet.state_dict(),
        "optimizer_state": settings.make_optimizer(supernet).state_dict(),
        "prox": content["prox"] | added | {"training": training},
    }
    with complete_folder(target) as partial:
        partial.mkdir()
        for name in _MODEL_FILES:
            shutil.copyfile(model.folder / name, target.parent / name)
        write_atomically(plain(content), partial / "checkpoint_latest.pth")
    return target / "checkpoint_latest.pth", extended


def _check_extensible(path: Path, content: Mapping[str, Any], settings: ProXSettings, schedule: PhaseSchedule) -> None:
    done = content.get("current_epoch", 0)
    if done != schedule.total_epochs:
        raise ValueError(
            f"{path} is not the end of a training: {done} of {schedule.total_epochs} epochs are done. Extend "
            f"checkpoint_final.pth."
        )
    if settings.kernel_transforms or settings.coupled:
        field = "kernel_transforms" if settings.kernel_transforms else "coupled"
        raise ValueError(f"{path} was trained with {field}: true, which bounds the family by its largest network.")


def _larger(trained: SearchSpace, candidates: Mapping[Dimension, Sequence[float]]) -> SearchSpace:
    if not any(candidates.values()):
        raise ValueError(f"an extension needs at least one new candidate of {', '.join(Dimension)}.")
    wanted = {}
    for dimension, values in candidates.items():
        present = trained.candidates(dimension)
        for value in values:
            if value <= present[-1]:
                raise ValueError(
                    f"{dimension} must be larger than the largest that is trained, {present[-1]:g}, to extend "
                    f"{list(present)}; got {value:g}."
                )
        wanted[dimension.value] = (*present, *values)
    return dataclasses.replace(trained, **wanted)


def _target(model: TrainedModel, content: Mapping[str, Any], results: Path) -> Path:
    """The folder of the new fold, which does not exist."""
    plans = model.plans
    name = f"{content['trainer_name']}__{plans['plans_name']}__{model.configuration_name}"
    target = results.resolve() / plans["dataset_name"] / name / f"fold_{model.fold}"
    if target.exists():
        raise FileExistsError(f"{target} exists; choose another results folder or remove it.")
    for file in _MODEL_FILES:
        ours, theirs = model.folder / file, target.parent / file
        if theirs.exists() and json.loads(ours.read_text()) != json.loads(theirs.read_text()):
            raise FileExistsError(f"{theirs} is of another training; choose another results folder.")
    return target
