"""JSON files that people and other programs write: what is wrong with one is said with its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_json(path: str | Path, *fields: str) -> Any:
    """Return the content of a JSON file.

    Args:
        path: the file.
        fields: that it must have; then it must hold an object.

    Raises:
        FileNotFoundError: When there is none.
        ValueError: When it is no JSON, or lacks a field.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    if fields and not isinstance(content, dict):
        raise ValueError(f"{path} must hold an object with {', '.join(fields)}, got {type(content).__name__}.")
    if lacking := [field for field in fields if field not in content]:
        raise ValueError(f"{path} lacks {', '.join(lacking)}.")
    return content
