"""Where label maps go, and the record of what made them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prox_monai.data.complete import complete_file

logger = logging.getLogger(__name__)

RECORD = "prox_monai.json"
_KIND, _VERSION = "prox_monai/predictions", 1
_NAMED = 10


class Output:
    """A folder of label maps with a record of the model and the finished cases, or a single file.

    Args:
        target: the folder, or of a single case also the label map itself.
        file_ending: of label maps, such as ``.nii.gz``; a target that ends so is a file.
        about: what identifies the model.
        images: what identifies the image files of each case, by its name.
        overwrite: replace the label maps of these cases; whatever else is there stays.

    Raises:
        FileExistsError: When the target holds anything that is not a prediction of this model, or one of other images
            under the name of a case, and ``overwrite`` is not set; in any case where it is an exported model.
    """

    def __init__(
        self,
        target: str | Path,
        file_ending: str,
        about: Mapping[str, Any],
        images: Mapping[str, str],
        *,
        overwrite: bool = False,
    ) -> None:
        self.target, self._ending = Path(target), file_ending
        self._about, self._images = dict(about), dict(images)
        self.is_file = self.target.name.endswith(file_ending) and not self.target.is_dir()
        self._finished = self._others() if overwrite else self._found()

    def prepare(self) -> None:
        """Make the folder; nothing is written before that."""
        folder = self.target.parent if self.is_file else self.target
        folder.mkdir(parents=True, exist_ok=True)
        if not self.is_file and (left := self._left()):
            logger.warning("%s also holds images that this model has not predicted: %s", folder, _named(left))
        self._write()

    def path(self, case: str) -> Path:
        """Return where the label map of a case goes."""
        return self.target if self.is_file else self.target / f"{case}{self._ending}"

    def finished(self, case: str) -> dict[str, Any] | None:
        """Return what was recorded of a case that this model has predicted before, if it has."""
        return self._finished.get(case) if self.path(case).is_file() else None

    def add(self, case: str, figures: Mapping[str, Any]) -> None:
        """Record a case as finished."""
        self._finished[case] = {**figures, "images": self._images[case]}
        self._write()

    def _found(self) -> dict[str, Any]:
        """Return the record of what this model has predicted before; refuse what else is there."""
        if self.is_file or (self.target.exists() and not self.target.is_dir()):
            if self.target.exists():
                raise FileExistsError(f"{self.target} exists; give another file, or --overwrite.")
            return {}
        if not self.target.exists() or not any(self.target.iterdir()):
            return {}
        record = self._record()
        if record.get("kind") != _KIND:
            raise FileExistsError(f"{self.target} holds something else; give another folder, or --overwrite.")
        if record["model"] != self._about:
            theirs = {name: value for name, value in record["model"].items() if self._about.get(name) != value}
            differing = ", ".join(f"{name} {value}, not {self._about.get(name)}" for name, value in theirs.items())
            raise FileExistsError(
                f"{self.target} holds predictions of another model ({differing}); give another folder, or --overwrite."
            )
        there = {case: known.get("images") for case, known in record["cases"].items() if self.path(case).is_file()}
        if others := [case for case, images in self._images.items() if there.get(case, images) != images]:
            raise FileExistsError(
                f"{self.target} holds label maps of other images under the same names ({_named(others)}); give another "
                f"folder, or --overwrite."
            )
        return record["cases"]

    def _others(self) -> dict[str, Any]:
        """Return the record of what this model has predicted before of other cases; all else is done again."""
        record = {} if self.is_file else self._record()
        if record.get("kind", _KIND) != _KIND:
            raise FileExistsError(
                f"{self.target} is an exported model, whose description in {RECORD} predictions would replace; give "
                f"another folder."
            )
        known = record["cases"] if record.get("kind") == _KIND and record["model"] == self._about else {}
        return {case: figures for case, figures in known.items() if case not in self._images}

    def _left(self) -> list[str]:
        """Return the names of images that no record will explain."""
        ours = {self.path(case).name for case in (*self._images, *self._finished)}
        names = sorted(path.name for path in self.target.iterdir() if path.name.endswith(self._ending))
        return [name for name in names if name not in ours and not name.startswith(".")]

    def _record(self) -> dict[str, Any]:
        """Return what the folder says of itself; nothing if it says nothing that can be read."""
        try:
            record = json.loads((self.target / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def _write(self) -> None:
        if self.is_file:
            return
        content = {"kind": _KIND, "version": _VERSION, "model": self._about, "cases": self._finished}
        with complete_file(self.target / RECORD) as partial:
            partial.write_text(json.dumps(content, indent=4), encoding="utf-8")


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
