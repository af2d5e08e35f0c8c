"""nnU-Net's checkpoint with ours beside it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from prox_monai.elastic import Architecture
from prox_monai.elastic.extra_state import ExtraState
from prox_monai.integrations.nnunet.settings import CONFIG_VARIABLE, ProXSettings, differing_fields
from prox_monai.space import PhaseSchedule, SearchSpace, SubnetConfig
from prox_monai.training.checkpoint import architecture_to_dict, read_safely, write_atomically

if TYPE_CHECKING:
    from prox_monai.integrations.nnunet.trainer import ProXTrainer

VERSION = 2
_PREDICTION_KEYS = ("network_weights", "init_args", "trainer_name", "inference_allowed_mirroring_axes", "prox")


def checkpoint_of(trainer: ProXTrainer, epochs: int) -> dict[str, Any]:
    """Return what a checkpoint of a trainer holds: nnU-Net's keys, and ours under ``prox``.

    Args:
        trainer: a trainer that is initialised.
        epochs: number of epochs that are done.
    """
    content = {
        "network_weights": trainer.supernet.state_dict(),
        "optimizer_state": trainer.optimizer.state_dict(),
        "grad_scaler_state": trainer.grad_scaler.state_dict() if trainer.grad_scaler is not None else None,
        "logging": trainer.logger.get_checkpoint(),
        "_best_ema": trainer._best_ema,
        "current_epoch": epochs,
        "init_args": trainer.my_init_kwargs,
        "trainer_name": type(trainer).__name__,
        "inference_allowed_mirroring_axes": trainer.inference_allowed_mirroring_axes,
        "prox": {
            "version": VERSION,
            "architecture": architecture_to_dict(_without_supervision(trainer.supernet.architecture)),
            "settings": trainer.settings.to_dict(),
            "trained": trainer.training.phase.space.to_dict(),
            "schedule": trainer.schedule.to_dict(),
            "training": trainer.training.state_dict(),
            "expansions": trainer.logger.local_logger.expansions,
        },
    }
    return plain(content)


def plain(value: Any) -> Any:
    """Return a structure with numpy's scalars and arrays as Python's, so that it loads without unpickling."""
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value)
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value


def compatible_settings(content: dict[str, Any], path: str | Path, ours: ProXSettings, given: set[str]) -> ProXSettings:
    """Return the settings in a checkpoint, which hold when its training goes on.

    Args:
        content: of :func:`read_checkpoint`.
        path: where it was read.
        ours: the settings of this process.
        given: the fields that ``PROX_CONFIG`` sets.

    Raises:
        ValueError: When it differs in a field that was given.
    """
    theirs = ProXSettings(**content["prox"]["settings"])
    if differing := differing_fields(ours, theirs, given):
        raise ValueError(
            f"{path} was trained with other settings than {CONFIG_VARIABLE} gives: {', '.join(differing)}. "
            f"Unset {CONFIG_VARIABLE} to continue as it was begun."
        )
    return theirs


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of ``ProXTrainer``, also one of an older version, as this version writes it.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When it is damaged, holds pickled objects, is no checkpoint of ``ProXTrainer``, or of a newer
            version.
    """
    content = read_safely(path)
    ours = content.get("prox") if isinstance(content, dict) else None
    if not isinstance(ours, dict) or "_extra_state" not in content.get("network_weights", {}):
        raise ValueError(f"{path} is not a checkpoint of ProXTrainer.")
    if ours["version"] > VERSION:
        raise ValueError(
            f"{path} has format version {ours['version']}, this package reads up to {VERSION}; update prox_monai."
        )
    settings = ours["settings"]
    settings.setdefault("ring_rate", "core_share" if settings["growth"] == "preserving" else "full")  # no option once
    return _with_schedule(content) if ours["version"] == 1 else content


def schedule_of(content: dict[str, Any]) -> PhaseSchedule:
    """Return the phases of the training that wrote a checkpoint."""
    return PhaseSchedule.from_dict(content["prox"]["schedule"])


def _with_schedule(content: dict[str, Any]) -> dict[str, Any]:
    """Version 2 of version 1, whose schedule was that of its settings, and which knew no polishing phase."""
    ours = content["prox"]
    settings = ours["settings"] | {"polish": False}
    space = ExtraState.decode(content["network_weights"]["_extra_state"]).space
    schedule = ProXSettings(**settings).phase_schedule(space, settings["epochs"])
    added = {"version": 2, "settings": settings, "schedule": schedule.to_dict(), "expansions": {}}
    return content | {"prox": ours | added}


def check_network(content: dict[str, Any], path: str | Path, architecture: Architecture) -> None:
    """Check that a checkpoint is of the network that the plans describe.

    Raises:
        ValueError: When it is of another one; the message names what differs.
    """
    theirs, ours = (
        {"family": described["name"], **described["fields"]}
        for described in (content["prox"]["architecture"], architecture_to_dict(_without_supervision(architecture)))
    )
    shared = [name for name in ours if name in theirs]
    if differing := [f"{name} {theirs[name]} instead of {ours[name]}" for name in shared if theirs[name] != ours[name]]:
        raise ValueError(f"{path} is of another network than the plans describe: {'; '.join(differing)}.")


def trained_space(content: dict[str, Any]) -> SearchSpace:
    """Return the subnets that were trained when a checkpoint was written, which may be fewer than there will be."""
    return SearchSpace.from_dict(content["prox"]["trained"])


def _without_supervision(architecture: Architecture) -> Architecture:
    return dataclasses.replace(architecture, deep_supervision=False)


def subnet_checkpoint(source: str | Path, config: SubnetConfig, name: str) -> Path:
    """Write ``checkpoint_<name>.pth`` beside a checkpoint; ``nnUNetv2_predict -chk`` runs that subnet with it.

    Args:
        source: a checkpoint of ``ProXTrainer``.
        config: the subnet.
        name: what to call it.

    Raises:
        ValueError: When the subnet is not among those that were trained when the checkpoint was written.
    """
    content = read_checkpoint(source)
    content = {key: content[key] for key in _PREDICTION_KEYS}
    content["prox"] = content["prox"] | {"training": None}  # which may hold a teacher
    trained_space(content).check(config)
    weights = content["network_weights"]
    described = ExtraState.decode(weights["_extra_state"])
    weights["_extra_state"] = dataclasses.replace(described, active=config).encode()
    target = Path(source).with_name(f"checkpoint_{name}.pth")
    write_atomically(content, target)
    return target


def read_stock(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of any of nnU-Net's trainers; beside tensors and primitives, numpy's scalars are allowed.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When it is truncated, or holds other pickled objects.
    """
    scalars = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)]
    scalar = np.float64(0).__reduce__()[0]
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]  # of numpy 1 and 2
    with torch.serialization.safe_globals([np.dtype, *names, *scalars]):
        return read_safely(path)
