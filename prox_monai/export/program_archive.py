"""What an archive of ``torch.export`` may hold: torch unpickles whatever else an archive says it should."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import torch

_PLAIN = re.compile(  # below the archive's own folder; numbers as they are, descriptions of them, and the graph
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|models/model\.json"
    r"|data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
)
_INPUTS = "data/sample_inputs/model.pt"


def check_program_archive(path: str | Path) -> None:
    """Check that nothing in an exported program would be unpickled but tensors.

    Args:
        path: the archive that ``torch.export.save`` wrote.

    Raises:
        ValueError: When it is no such archive, or holds anything that a plain network has no need of.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) != len(set(names)):
                raise ValueError("it holds a name twice, of which torch may read the other.")
            for name in names:
                _check_member(archive, name)
    except (zipfile.BadZipFile, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a program of torch.export: {error!r}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not loaded: {error}") from error


def _check_member(archive: zipfile.ZipFile, name: str) -> None:
    inside = name.partition("/")[2]
    if inside == _INPUTS:
        with archive.open(name) as file:
            _check_tensors(name, file)
    elif not _PLAIN.fullmatch(inside):
        raise ValueError(f"a plain network has no use for {name}, which torch might unpickle.")
    elif inside.startswith("data/") and inside.endswith(".json"):
        described = json.loads(archive.read(name))["config"]
        if pickled := [key for key, about in described.items() if about["use_pickle"]]:
            raise ValueError(f"{name} wants {pickled[0]} unpickled.")


def _check_tensors(name: str, file: zipfile.ZipExtFile) -> None:
    try:
        torch.load(file, weights_only=True)
    except Exception as error:  # whatever the unpickler meets
        raise ValueError(f"{name} holds more than tensors.") from error
