"""nnU-Net's checkpoint with ours beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from prox_monai.elastic.extra_state import describe_state, encode_state
from prox_monai.integrations.nnunet.settings import CONFIG_VARIABLE, ProXSettings, differing_fields
from prox_monai.space import SubnetConfig
from prox_monai.training.checkpoint import read_safely, write_atomically

if TYPE_CHECKING:
    from prox_monai.integrations.nnunet.trainer import ProXTrainer

_PREDICTION_KEYS = ("network_weights", "init_args", "trainer_name", "inference_allowed_mirroring_axes")


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
        "prox": {"settings": trainer.settings.to_dict(), "training": trainer.training.state_dict()},
    }
    return plain(content)


def plain(value: Any) -> Any:
    """Return a structure with numpy's scalars and arrays as Python's, so that it loads without unpickling."""
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value)
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value


def compatible_settings(content: Any, path: str | Path, ours: ProXSettings, given: set[str]) -> ProXSettings:
    """Return the settings in a checkpoint, which hold when its training goes on.

    Args:
        content: the checkpoint.
        path: where it was read.
        ours: the settings of this process.
        given: the fields that ``PROX_CONFIG`` sets.

    Raises:
        ValueError: When it is no checkpoint of ``ProXTrainer``, or differs in a field that was given.
    """
    if not isinstance(content, dict) or "prox" not in content:
        raise ValueError(f"{path} is not a checkpoint of ProXTrainer.")
    theirs = ProXSettings(**content["prox"]["settings"])
    if differing := differing_fields(ours, theirs, given):
        raise ValueError(
            f"{path} was trained with other settings than {CONFIG_VARIABLE} gives: {', '.join(differing)}. "
            f"Unset {CONFIG_VARIABLE} to continue as it was begun."
        )
    return theirs


def subnet_checkpoint(source: str | Path, config: SubnetConfig, name: str) -> Path:
    """Write ``checkpoint_<name>.pth`` beside a checkpoint; ``nnUNetv2_predict -chk`` runs that subnet with it.

    Args:
        source: a checkpoint of ``ProXTrainer``.
        config: the subnet.
        name: what to call it.

    Raises:
        ValueError: When the subnet is not in the checkpoint's search space.
    """
    content = read_safely(source)
    content = {key: content[key] for key in _PREDICTION_KEYS}
    space = describe_state(content["network_weights"]["_extra_state"])[0]
    space.check(config)
    content["network_weights"]["_extra_state"] = encode_state(space, config)
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
