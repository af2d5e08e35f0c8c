"""What a run has done already, in a JSON file of its folder; a run is a demonstration or a benchmark."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

from prox_monai.data.complete import complete_file

logger = logging.getLogger(__name__)


class Record:
    """The data of a run, the steps that are done, and the time they took.

    Args:
        folder: output folder of the run; what is not in order is refused before anything is written.
        data: what the run works on, as text.
        kind: ``demo`` or ``bench``: the target of the Makefile, and the name of the file.

    Raises:
        ValueError: When the folder holds a run on other data.
        FileExistsError: When the folder holds files and is no run's.
    """

    def __init__(self, folder: Path, data: str, kind: str = "demo") -> None:
        self._path = folder / f"{kind}.json"
        self._content = {"data": data, "done": [], "seconds": {}}
        if self._path.exists():
            self._content = json.loads(self._path.read_text())
            if self._content["data"] != data:
                raise ValueError(
                    f"{folder} holds a {kind} on {self._content['data']}, this one is on {data}; "
                    f"give another --output (make {kind} OUTPUT=...), or remove the folder."
                )
        elif folder.exists() and (foreign := sorted({path.name for path in folder.iterdir()} - {"data"})):
            raise FileExistsError(
                f"{folder} holds {foreign[0]} and no {kind}.json; give an --output of its own (make {kind} OUTPUT=...)."
            )

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time per step, in seconds, attempts that were broken off included."""
        return dict(self._content["seconds"])

    def do(self, title: str, result: Path, run: Callable[[], object]) -> None:
        """Run a step, unless it is done and its result is there.

        Args:
            title: name of the step.
            result: file or folder that the step makes.
            run: the step.
        """
        if title in self._content["done"] and result.exists():
            logger.info("%s: is there (%.0f s)", title, self._content["seconds"][title])
            return
        logger.info("%s ...", title)
        start = time.perf_counter()
        done = False
        try:
            run()
            done = True
        finally:
            seconds = self._content["seconds"].get(title, 0) + time.perf_counter() - start
            if done or self._path.exists():
                self._write(title, seconds, done)
        logger.info("%s: %.0f s", title, seconds)

    def _write(self, title: str, seconds: float, done: bool) -> None:
        self._content["seconds"][title] = seconds
        if done and title not in self._content["done"]:
            self._content["done"].append(title)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with complete_file(self._path) as partial:
            partial.write_text(json.dumps(self._content, indent=1))


def set_aside(folder: Path, data: str) -> None:
    """Move a demonstration on other data, finished or begun, to the first free ``<folder>-<number>``.

    Raises:
        ValueError: When the data would be moved with it.
    """
    path = folder / "demo.json"
    if not path.exists() or (other := json.loads(path.read_text())["data"]) == data:
        return
    if Path(data).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"data must not lie in {folder}, which holds the demo on {other}, got {data}; give --output.")
    free = (folder.with_name(f"{folder.name}-{number}") for number in count(1))
    before, aside = folder.resolve(), folder.rename(next(path for path in free if not path.exists()))
    for link in filter(Path.is_symlink, aside.rglob("*.nii.gz")):
        if (target := link.readlink()).is_relative_to(before):  # data that the demonstration made itself
            link.unlink()
            link.symlink_to(aside.resolve() / target.relative_to(before))
    logger.info("The demo on %s that was in %s is now in %s.", other, folder, aside)
