"""What an archive of ``torch.export`` may hold: torch unpickles what an archive says it should, and runs its text.

Of a graph torch executes guards, evaluates expressions, and writes names into Python code that it executes. A plain
network at a fixed size has neither guards nor expressions, and its names are words.
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

_PLAIN = re.compile(  # below the archive's own folder; numbers as they are, descriptions of them, and the graph
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|models/model\.json"
    r"|data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
)
_INPUTS = "data/sample_inputs/model.pt"
_GRAPH = "models/model.json"
_WORDS = re.compile(r"[\w.+-]*")
_OPERATOR = re.compile(r"torch\.ops\.aten\.\w+\.\w+")
_EMPTY = re.compile(r"guards_code|range_constraints|treespec_namedtuple_fields|custom_obj_values|sym_\w+_values")
_EVALUATED = re.compile(r"as_expr|expr_str|as_sym_\w+|as_custom_obj|as_graph|as_operator")
_STRUCTURES = (None, "builtins.tuple", "builtins.list", "builtins.dict")


def check_program_archive(path: str | Path) -> None:
    """Check that nothing in an exported program would be unpickled but tensors, and nothing be run but operators.

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
        raise ValueError(
            f"{path} is not loaded: {error} What an earlier version of this package wrote is to be exported again."
        ) from error


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
    elif inside == _GRAPH:
        _check_graph(name, json.loads(archive.read(name)))


def _check_graph(where: str, value: Any) -> None:
    """Raise ValueError where a part of a graph is more than numbers, words and torch's own operators."""
    if isinstance(value, list):
        for item in value:
            _check_graph(where, item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not _WORDS.fullmatch(key) or _EVALUATED.fullmatch(key) or (item and _EMPTY.fullmatch(key)):
                raise ValueError(f"a plain network has no use for {key!r} in {where}, which torch might run.")
            if key == "target":
                _check_operator(where, item)
            elif key in ("in_spec", "out_spec"):
                _check_structure(where, json.loads(item) if item else None)
            else:
                _check_graph(where, item)
    elif isinstance(value, str) and not _WORDS.fullmatch(value):
        raise ValueError(f"a plain network has no use for {value[:80]!r} in {where}, which torch might run.")


def _check_operator(where: str, target: Any) -> None:
    """Raise ValueError where a node calls something else than one of torch's operators."""
    if not _OPERATOR.fullmatch(target):
        raise ValueError(f"{where} calls {target[:80]!r}, which is none of torch's operators.")


def _check_structure(where: str, spec: Any) -> None:
    """Raise ValueError where arguments or results are put into more than tuples, lists and dictionaries."""
    if isinstance(spec, list):
        for item in spec:
            _check_structure(where, item)
    elif isinstance(spec, dict):
        if spec["type"] not in _STRUCTURES:
            raise ValueError(f"{where} puts values into {spec['type']!r}, which is no plain structure.")
        _check_structure(where, spec["children_spec"])


def _check_tensors(name: str, file: zipfile.ZipExtFile) -> None:
    try:
        torch.load(file, weights_only=True)
    except Exception as error:  # whatever the unpickler meets
        raise ValueError(f"{name} holds more than tensors.") from error
