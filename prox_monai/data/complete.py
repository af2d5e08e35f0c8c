"""Files and folders that appear when they are complete."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def is_free(folder: Path) -> bool:
    """Whether something new may be written there: it does not exist, or is an empty folder."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def check_free(folder: Path, instead: str = "choose another folder or remove it") -> None:
    """Check that a folder does not exist, or is empty.

    Args:
        folder: which.
        instead: what to do where it is not.

    Raises:
        FileExistsError: When it holds anything, or is a file.
    """
    if not is_free(folder):
        raise FileExistsError(f"{folder} exists and is not empty; {instead}.")


@contextmanager
def complete_file(target: Path) -> Iterator[Path]:
    """Yield a path beside the target, at which to write a file; it becomes the target at the end of the block.

    An error in the block leaves the target as it was. Several processes may write the same target: the last one stays.
    """
    partial = target.with_name(f".partial_{secrets.token_hex(4)}_{target.name}")  # containers may share process numbers
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def complete_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a path beside the target, at which to make a folder; it becomes the target at the end of the block.

    An error in the block leaves the target as it was.

    Args:
        target: does not exist, or is an empty folder; its parents are made.
        replace: put it in the place of a folder with content, which is removed then.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial_", dir=target.parent) as temporary:
        partial = Path(temporary) / target.name
        yield partial
        replaced = Path(temporary, f"{target.name}.replaced")
        if replace and target.exists():
            target.rename(replaced)
        try:
            partial.rename(target)
        except OSError:
            if replaced.exists():
                replaced.rename(target)
            raise
