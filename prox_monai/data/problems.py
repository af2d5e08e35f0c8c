"""Errors that name all that is wrong with a folder, not only the first thing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

MAX_LISTED_PROBLEMS = 10


def raise_for_problems(folder: Path, problems: Sequence[str]) -> None:
    """Raise for the problems of a folder.

    Raises:
        ValueError: When there is one; they are counted, and the first ten are listed.
    """
    if problems:
        lines = [f"{folder} cannot be used, problems: {len(problems)}", *problems[:MAX_LISTED_PROBLEMS]]
        if len(problems) > MAX_LISTED_PROBLEMS:
            lines.append(f"and {len(problems) - MAX_LISTED_PROBLEMS} more.")
        raise ValueError("\n  ".join(lines))


def listed(values: Sequence[Any]) -> str:
    """Return values as a message lists them: the first ten, and how many more there are."""
    first = ", ".join(map(str, values[:MAX_LISTED_PROBLEMS]))
    return f"{first} and {len(values) - MAX_LISTED_PROBLEMS} more" if len(values) > MAX_LISTED_PROBLEMS else first
