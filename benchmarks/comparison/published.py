"""Units that are published beside the results: what was to be done and what was measured, without the models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from prox_monai.data.complete import complete_file

UNITS = "units"  # in benchmarks/results
RESULT = "result.json"
_FILES = ("unit.json", "settings.yaml", RESULT)


def publish_units(folders: Iterable[Path], output: Path, published: Path) -> None:
    """Copy what finished units say into the published folder.

    Args:
        folders: of the units, in ``output``.
        output: folder of all units.
        published: where they go, at the same place below it.
    """
    for folder in folders:
        _copy(folder, published / folder.relative_to(output))


def includes_published(results: Iterable[Mapping[str, Any]], summary: Path) -> bool:
    """Return whether all units of a published summary are among these: then it may give way to theirs.

    Args:
        results: of the units that are done.
        summary: the published JSON file; it need not exist.
    """
    if not summary.exists():
        return True
    published = json.loads(summary.read_text(encoding="utf-8"))["units"]
    return {_identity(unit) for unit in published} <= {_identity(result) for result in results}


def holds_published(output: Path, published: Path) -> bool:
    """Return whether all published units are done in an output folder: then they may be followed by more of it.

    Args:
        output: folder of all units.
        published: folder of published units; it need not exist.
    """
    return all((output / path.relative_to(published)).exists() for path in published.rglob(RESULT))


def take_published(published: Path, output: Path) -> int:
    """Copy published units into an output folder that lacks them: there they are done. Returns how many.

    Args:
        published: folder of published units; it need not exist.
        output: folder of all units; what is done or begun there stays as it is.
    """
    missing = [
        path.parent
        for path in sorted(published.rglob(RESULT))
        if not (output / path.parent.relative_to(published)).exists()
    ]
    for folder in missing:
        _copy(folder, output / folder.relative_to(published))
    return len(missing)


def _identity(unit: Mapping[str, Any]) -> tuple[Any, ...]:
    return unit["method"], unit.get("seed"), unit["fold"]


def _copy(folder: Path, destination: Path) -> None:
    """Copy the files that there are; the result last, because it says that the unit is done."""
    destination.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        if (folder / name).exists():
            with complete_file(destination / name) as partial:
                shutil.copyfile(folder / name, partial)
