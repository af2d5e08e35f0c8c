"""One file format for supernets: tensors and JSON-like primitives, versioned, written atomically.

Files are read with ``weights_only=True``: nothing in them is executed. Architectures are rebuilt from a registered
short name and their fields.
"""

from __future__ import annotations

import dataclasses
import errno
import importlib
import os
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prox_monai.elastic import Architecture, Supernet
from prox_monai.space import PhaseSchedule, SearchSpace
from prox_monai.training.progressive import ProgressiveTraining

FORMAT = "prox_monai/supernet"
VERSION = 2
"""2: a phase says what its steps train; a phase of version 1 trains one random subnet, which is the default."""

_ARCHITECTURES = {
    "inverted_unet": "prox_monai.networks.inverted_unet:InvertedUNetArchitecture",
    "mobilenet": "prox_monai.networks.mobilenet:MobileNetArchitecture",
    "unet": "prox_monai.networks.unet:UNetArchitecture",
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a file holds.

    Args:
        supernet: rebuilt, with its weights.
        schedule: the phases it was trained with, if it was being trained.
        training: state for :meth:`ProgressiveTraining.load_state_dict`, likewise.
    """

    supernet: Supernet
    schedule: PhaseSchedule | None
    training: dict[str, Any] | None


def register_architecture(name: str, path: str) -> None:
    """Make an architecture of another package known to checkpoints.

    Args:
        name: short name that is written into files.
        path: ``"package.module:Class"``.

    Raises:
        ValueError: When the name stands for another class already.
    """
    if _ARCHITECTURES.setdefault(name, path) != path:
        raise ValueError(f"architecture {name!r} is {_ARCHITECTURES[name]} already, not {path}.")


def save_checkpoint(path: str | Path, supernet: Supernet, training: ProgressiveTraining | None = None) -> None:
    """Write a supernet, and the state of its training if given.

    Raises:
        OSError: When the file cannot be written whole; a file that was there before is kept.
        ValueError: When the architecture is not registered.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": architecture_to_dict(supernet.architecture),
        "growth": supernet.growth,
        "space": supernet.space.to_dict(),
        "schedule": None if training is None else training.schedule.to_dict(),
        "supernet": supernet.state_dict(),
        "training": None if training is None else training.state_dict(),
    }
    write_atomically(content, path)


def load_checkpoint(path: str | Path, *, expected: Architecture | None = None) -> Checkpoint:
    """Read a file written by :func:`save_checkpoint`; the supernet is on the CPU.

    Args:
        path: the file.
        expected: refuse a checkpoint of another architecture than this one.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When the file is truncated, holds pickled objects, is no supernet's checkpoint, is of a newer
            version, of another architecture, or of one that is not registered (:func:`register_architecture`).
    """
    content = read_safely(path)
    _check_header(content, path)
    architecture = architecture_from_dict(content["architecture"])
    if expected is not None and architecture != expected:
        raise ValueError(f"{path} holds a checkpoint of {architecture}, expected {expected}.")
    supernet = Supernet(architecture, SearchSpace.from_dict(content["space"]), growth=content["growth"])
    supernet.load_state_dict(content["supernet"])
    schedule = content["schedule"]
    return Checkpoint(supernet, None if schedule is None else PhaseSchedule.from_dict(schedule), content["training"])


def write_atomically(content: Any, path: str | Path) -> None:
    """Save tensors and primitives to a file that is either whole or, on failure, what it was before.

    Raises:
        OSError: When it cannot be written, for example because the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        kept = f" {path} is as it was before." if path.exists() else ""
        code = getattr(error, "errno", None) or errno.EIO
        raise OSError(code, f"checkpoint {path} could not be written: {error}.{kept}") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_safely(path: str | Path, map_location: str | torch.device = "cpu") -> Any:
    """Load tensors and primitives, never code.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When the file is truncated, or holds pickled objects.
    """
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError(f"{path} is truncated or not a checkpoint.")
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds pickled objects, which could run code and are not loaded; only tensors and primitives "
            f"are allowed."
        ) from error
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is truncated or not a checkpoint.") from error


def architecture_to_dict(architecture: Architecture) -> dict[str, Any]:
    """Return registered name and fields of an architecture.

    Raises:
        ValueError: When its class is not registered.
    """
    cls = type(architecture)
    path = f"{cls.__module__}:{cls.__qualname__}"
    for name, registered in _ARCHITECTURES.items():
        if registered == path:
            fields = {field.name: getattr(architecture, field.name) for field in dataclasses.fields(architecture)}
            return {"name": name, "fields": fields}
    raise ValueError(f"architecture {path} is not registered; call register_architecture(name, {path!r}) first.")


def architecture_from_dict(data: Mapping[str, Any]) -> Architecture:
    """Rebuild an architecture.

    Raises:
        ValueError: When its name is not registered.
    """
    if data["name"] not in _ARCHITECTURES:
        raise ValueError(
            f"architecture must be one of {sorted(_ARCHITECTURES)}, got {data['name']!r}; "
            f"import the package that registers it first."
        )
    module, _, name = _ARCHITECTURES[data["name"]].partition(":")
    return getattr(importlib.import_module(module), name)(**data["fields"])


def _check_header(content: Any, path: str | Path) -> None:
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("version"), int):
        raise ValueError(f"{path} is not a supernet's checkpoint ({FORMAT}).")
    if content["version"] > VERSION:
        raise ValueError(
            f"{path} has format version {content['version']}, this package reads up to {VERSION}; update prox_monai."
        )
