"""Where label maps go, and the record of what made them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECORD = "prox_monai.json"
_KIND, _VERSION = "prox_monai/predictions", 1


class Output:
    """A folder of label maps with a record of the model and the finished cases, or a single file.

    Args:
        target: the folder, or of a single case also the label map itself.
        file_ending: of label maps, such as ``.nii.gz``; a target that ends so is a file.
        about: what identifies the model.
        overwrite: replace label maps that are there; whatever else is there stays.

    Raises:
        FileExistsError: When the target holds anything that is not a prediction of this model, and ``overwrite`` is
            not set.
    """

    def __init__(
        self, target: str | Path, file_ending: str, about: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        self.target, self._ending, self._about = Path(target), file_ending, dict(about)
        self.is_file = self.target.name.endswith(file_ending) and not self.target.is_dir()
        self._finished = {} if overwrite else self._found()

    def prepare(self) -> None:
        """Make the folder; nothing is written before that."""
        folder = self.target.parent if self.is_file else self.target
        folder.mkdir(parents=True, exist_ok=True)
        self._write()

    def path(self, case: str) -> Path:
        """Return where the label map of a case goes."""
        return self.target if self.is_file else self.target / f"{case}{self._ending}"

    def finished(self, case: str) -> dict[str, Any] | None:
        """Return what was recorded of a case that this model has predicted before, if it has."""
        return self._finished.get(case) if self.path(case).is_file() else None

    def add(self, case: str, figures: Mapping[str, Any]) -> None:
        """Record a case as finished."""
        self._finished[case] = dict(figures)
        self._write()

    def _found(self) -> dict[str, Any]:
        if self.is_file or (self.target.exists() and not self.target.is_dir()):
            if self.target.exists():
                raise FileExistsError(f"{self.target} exists; give another file, or --overwrite.")
            return {}
        if not self.target.exists() or not any(self.target.iterdir()):
            return {}
        path = self.target / RECORD
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            record = {}
        if record.get("kind") != _KIND:
            raise FileExistsError(f"{self.target} holds something else; give another folder, or --overwrite.")
        if record["model"] != self._about:
            theirs = {name: value for name, value in record["model"].items() if self._about.get(name) != value}
            differing = ", ".join(f"{name} {value}, not {self._about.get(name)}" for name, value in theirs.items())
            raise FileExistsError(
                f"{self.target} holds predictions of another model ({differing}); give another folder, or --overwrite."
            )
        return record["cases"]

    def _write(self) -> None:
        if self.is_file:
            return
        content = {"kind": _KIND, "version": _VERSION, "model": self._about, "cases": self._finished}
        partial = self.target / f".partial_{RECORD}"
        partial.write_text(json.dumps(content, indent=4), encoding="utf-8")
        os.replace(partial, self.target / RECORD)
