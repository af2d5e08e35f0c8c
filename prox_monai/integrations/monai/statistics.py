"""Normalisation statistics of subnets in a file: those of a supernet with BatchNorm mix all subnets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock  # a dependency of torch
from torch import Tensor

from prox_monai.data.complete import complete_file
from prox_monai.elastic import Supernet
from prox_monai.space import SubnetConfig

Statistics = Mapping[SubnetConfig, Mapping[str, Tensor]]


def read_statistics(path: str | Path, model: str) -> dict[SubnetConfig, Mapping[str, Tensor]]:
    """Return the statistics of subnets by configuration; none where there is no file, or one of other weights.

    Args:
        path: the file.
        model: digest of the weights that they must be of.
    """
    path = Path(path)
    if not path.exists():
        return {}
    version = _version(path)
    if version not in _last:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        entries = stored["subnets"]
        _remember(version, stored["model"], {SubnetConfig.from_dict(e["config"]): e["buffers"] for e in entries})
    written_for, statistics = _last[version]
    return dict(statistics) if written_for == model else {}


_last: dict[tuple[Any, ...], tuple[str, Statistics]] = {}
"""The file that was read or written last, by what tells its versions apart: it is asked for at every subnet."""


def _remember(version: tuple[Any, ...], model: str, statistics: Statistics) -> None:
    _last.clear()
    _last[version] = model, statistics


def _version(path: Path) -> tuple[Any, ...]:
    stat = path.stat()
    return path.absolute(), stat.st_mtime_ns, stat.st_size, stat.st_ino


def write_statistics(statistics: Statistics, path: str | Path, model: str) -> None:
    """Write statistics of subnets beside those of the same weights that are there; no other process' are lost.

    Args:
        statistics: buffers by name, by configuration.
        path: the file; its folder is made. It appears, or is replaced, when it is complete.
        model: digest of the weights that they are of.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        known = read_statistics(path, model) | dict(statistics)
        subnets = [{"config": config.to_dict(), "buffers": dict(buffers)} for config, buffers in known.items()]
        with complete_file(path) as partial:
            torch.save({"model": model, "subnets": subnets}, partial)
        _remember(_version(path), model, known)


def digest(supernet: Supernet) -> str:
    """Return what identifies the weights of a supernet: its space, parameters and buffers."""
    code = hashlib.sha256(json.dumps(supernet.space.to_dict(), sort_keys=True).encode())
    for name, tensor in (*supernet.named_parameters(), *supernet.named_buffers()):
        code.update(name.encode())
        code.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return code.hexdigest()
