"""What lies beside an exported network: what it is, what it expects, and how it was checked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prox_monai.export.formats import FORMATS, PRECISIONS

FILE = "prox_monai.json"
_KIND, _VERSION = "prox_monai/exported", 1
_FILLED = ("files", "input_shape")
_KINDS = {"files": dict, "input_shape": list, "preprocessing": dict, "labels": dict, "source": dict}


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """An exported network.

    Args:
        format: ``onnx``, ``openvino``, ``torch`` or ``bundle``.
        precision: ``fp32``, ``fp16`` or ``int8``.
        files: SHA-256 of every other file in the folder, by name; the first is the one to open.
        subnet: name of the subnet.
        input_shape: ``(C, *spatial)`` of one patch; the network takes one at a time.
        outputs: channels of the logits.
        parameters: number of parameters of the subnet.
        multiply_adds: of one patch.
        preprocessing: what is done to an image before the network sees it: channels, spacing in millimetres,
            normalisation and its constants, resampling.
        labels: number of each label, by name.
        source: where the weights come from.
        checks: how the exported network compares with the plain one.
        versions: of the packages that wrote it.
    """

    format: str
    precision: str
    files: Mapping[str, str]
    subnet: str
    input_shape: tuple[int, ...]
    outputs: int
    parameters: int
    multiply_adds: int
    preprocessing: Mapping[str, Any]
    labels: Mapping[str, Any]
    source: Mapping[str, Any]
    checks: Mapping[str, Any]
    versions: Mapping[str, str]

    @property
    def model(self) -> str:
        """The name of the file to open."""
        return next(iter(self.files))

    @property
    def digest(self) -> str:
        """Of all that the folder holds, the first digits."""
        return hashlib.sha256("".join(self.files.values()).encode()).hexdigest()[:12]

    def write(self, folder: str | Path) -> Path:
        """Write ``prox_monai.json`` into the folder and return its path."""
        path = Path(folder, FILE)
        content = {"kind": _KIND, "version": _VERSION, **dataclasses.asdict(self)}
        path.write_text(json.dumps(content, indent=4), encoding="utf-8")
        return path


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_description(folder: str | Path) -> Description:
    """Read the description of an exported network, and check that the folder's files are those that it describes.

    Raises:
        FileNotFoundError: When there is no description, or a file is missing.
        ValueError: When the description is damaged or of a newer version, or a file is another one.
    """
    folder = Path(folder)
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; {folder} should be a folder of prox-monai export.")
    description = _parsed(path)
    for name, digest in description.files.items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} does not exist, but {path} describes it.")
        if file_digest(folder / name) != digest:
            raise ValueError(f"{folder / name} is not the file that {path} describes; export it again.")
    return description


def _parsed(path: Path) -> Description:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    if not isinstance(content, dict) or content.get("kind") != _KIND:
        raise ValueError(f"{path} is not the description of an exported network.")
    fields = {field.name for field in dataclasses.fields(Description)}
    if isinstance(version := content.get("version"), int) and version > _VERSION:
        raise ValueError(f"{path} has version {version}, this package reads up to {_VERSION}; update it.")
    if wrong := (fields | {"kind", "version"}) ^ set(content):
        raise ValueError(f"{path} has missing or unknown fields: {', '.join(sorted(wrong))}.")
    for field, allowed in (("format", FORMATS), ("precision", PRECISIONS)):
        if content[field] not in allowed:
            raise ValueError(f"{field} in {path} must be one of {', '.join(allowed)}, got {content[field]!r}.")
    for field, kind in _KINDS.items():
        if not isinstance(content[field], kind) or (field in _FILLED and not content[field]):
            raise ValueError(f"{field} in {path} must be a filled {kind.__name__}, got {content[field]!r}.")
    values = {name: content[name] for name in fields}
    return Description(**values | {"input_shape": tuple(content["input_shape"])})
