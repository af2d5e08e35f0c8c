"""nnU-Net's own commands, run as a user would, their output in a log and its gist on the terminal."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

logger = logging.getLogger(__name__)

_STAMP = re.compile(r"^\d{4}-\d\d-\d\d [\d:.]+: ")
_LAST_LINES = 20


def run_stock(
    command: str,
    arguments: Sequence[str],
    log: Path,
    variables: Mapping[str, str],
    show: Callable[[str], None] = lambda line: None,
) -> None:
    """Run one of nnU-Net's commands; it ends where its caller is interrupted.

    Args:
        command: a console script of this environment.
        arguments: what follows it.
        log: file that the output is appended to.
        variables: the environment's variables for nnU-Net; those of the caller are not passed on.
        show: is given every line of the output.

    Raises:
        FileNotFoundError: When this environment has no such command.
        RuntimeError: When the command fails; the last lines of its output are logged.
    """
    script = shutil.which(command, path=str(Path(sys.executable).parent))
    if script is None:
        raise FileNotFoundError(
            f'{command} is not beside {sys.executable}; nnU-Net is missing: pip install "prox-monai[nnunet]"'
        )
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("nnUNet_", "PROX_"))}
    log.parent.mkdir(parents=True, exist_ok=True)
    last: deque[str] = deque(maxlen=_LAST_LINES)
    with (
        log.open("a") as file,
        subprocess.Popen(
            [script, *arguments],
            env={**ours, **variables, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        try:
            for line in process.stdout:
                file.write(line)
                file.flush()
                last.append(line)
                show(line.rstrip())
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        logger.error("%s", "".join(last).rstrip())
        raise RuntimeError(f"{command} ended with exit code {process.returncode}; all of its output is in {log}.")


class TrainingProgress:
    """Turns the output of a training with ``ProXTrainer`` into a line per phase, epoch and validated subnet.

    Args:
        epochs: in the whole training.
    """

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._epoch = 0
        self._dice = ""

    def __call__(self, line: str) -> None:
        """Take in a line of the output."""
        text = _STAMP.sub("", line).strip()
        if match := re.fullmatch(r"Epoch (\d+)", text):
            self._epoch = int(match[1]) + 1
        elif text.startswith("Pseudo dice"):
            self._dice = " ".join(re.findall(r"nan|[\d.]+(?:e-?\d+)?", re.sub(r"np\.float\d+", "", text)))
        elif match := re.fullmatch(r"Epoch time: ([\d.]+) s", text):
            logger.info("  epoch %d of %d: pseudo Dice %s, %s s", self._epoch, self._epochs, self._dice, match[1])
        elif text.startswith(("Phase ", "Validating ")):
            logger.info("  %s", text)
