"""Tables of JSON lines that several processes and machines append to at once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from io import BufferedRandom
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout  # a dependency of torch

try:
    import fcntl
except ModuleNotFoundError:  # on Windows appending alone has to do
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

Row = dict[str, Any]


def read_lines(path: str | Path) -> list[Row]:
    """Return the rows of a table; a last line that was cut off is left out, and said so.

    Args:
        path: the table; there are no rows where there is none. It is not changed.

    Raises:
        ValueError: When another line is not a row.
    """
    path = Path(path)
    if not path.exists():
        return []
    rows, rest = _parse(path.read_bytes(), path)
    _check_beginning(rest[:1], path)
    if rest and (last := _row(rest)) is not None:
        rows.append(last)
    elif rest:
        logger.warning("%s: the last row was cut off and is evaluated again.", path)
    return rows


def append_row(row: Mapping[str, Any], path: str | Path) -> None:
    """Append a row to a table; it is on the disk when this returns.

    Rows that several processes append at once do not mix; what a process that died has left of a row is cut off.
    """
    with Path(path).open("a+b") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)  # ends with the file
        missing = _mend(file)
        file.write(missing + json.dumps(row).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def mend_lines(path: str | Path) -> None:
    """Cut off what is left of a last line of JSON that was not written to its end, in a file that nobody writes now.

    Raises:
        ValueError: When the file holds something else; it is not changed.
    """
    path = Path(path)
    if path.exists():
        with path.open("r+b") as file:
            missing = _mend(file)
            file.write(missing)


@contextmanager
def claim(table: str | Path, key: str) -> Iterator[bool]:
    """Claim a key for the time of the context; gives whether it is ours, not another process' or thread's.

    A claim is a locked file in a folder beside the table: that of a process that dies ends with it.

    Args:
        table: its path.
        key: of what is to be worked on.
    """
    name = hashlib.sha256(key.encode()).hexdigest()[:20]
    path = Path(f"{table}.claims", name)
    lock = _locked(path)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            with suppress(OSError):  # on Windows a locked file cannot be removed
                path.unlink()
            lock.release()
            with suppress(OSError):  # others have claims
                path.parent.rmdir()


class SharedRows:
    """The rows of a table by their ``key``, those that others append included; of equal keys the first row counts.

    Args:
        path: the table.
        rows: what is known of it already.
    """

    def __init__(self, path: str | Path, rows: Iterable[Row] = ()) -> None:
        self._path, self._read = Path(path), 0
        self._rows: dict[str, Row] = {}
        for row in rows:
            self._rows.setdefault(row["key"], row)

    def get(self, key: str) -> Row | None:
        """Return the row of a key, if there is one by now."""
        if key not in self._rows:
            self._refresh()
        return self._rows.get(key)

    def append(self, row: Row) -> None:
        """Append a row, on the disk as well."""
        append_row(row, self._path)
        self._rows.setdefault(row["key"], row)

    def claim(self, key: str) -> AbstractContextManager[bool]:
        """Claim a key of this table, see :func:`claim`."""
        return claim(self._path, key)

    def _refresh(self) -> None:
        """Read the rows that were appended since the last time; one that is being written is not there yet."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._read)
            content = file.read()
        rows, rest = _parse(content, self._path)
        self._read += len(content) - len(rest)
        for row in rows:
            self._rows.setdefault(row["key"], row)


def _parse(content: bytes, path: Path) -> tuple[list[Row], bytes]:
    """The rows of complete lines, and what follows the last of them."""
    *lines, rest = content.split(b"\n")
    rows = []
    for number, line in enumerate(lines, 1):
        row = _row(line)
        if row is None:
            raise ValueError(f"{path}, line {number} is not a row: {line[:80].decode(errors='replace')!r}.")
        rows.append(row)
    return rows, rest


def _row(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _check_beginning(first: bytes, path: Path) -> None:
    """A file of something else has no row that could have been cut off."""
    if first not in (b"", b"{"):
        raise ValueError(f"{path} is no table of rows: it begins with {first!r}, not with '{{'.")


def _mend(file: BufferedRandom) -> bytes:
    """Cut off what is left of a row that was not written to its end; returns what a complete one lacks."""
    file.seek(0)
    _check_beginning(file.read(1), Path(file.name))
    end = file.seek(0, os.SEEK_END)
    start = end
    while start > 0:
        start = max(0, start - 65536)
        file.seek(start)
        tail = file.read(end - start)
        newline = tail.rfind(b"\n")
        if newline >= 0 or start == 0:
            rest = tail[newline + 1 :]
            if rest and _row(rest) is not None:
                return b"\n"
            if rest:
                file.truncate(end - len(rest))
            break
    file.seek(0, os.SEEK_END)
    return b""


def _locked(path: Path) -> FileLock | None:
    """Lock a file, made with its folder; None where another process has it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(blocking=False)
            return lock
        except Timeout:
            return None
        except FileNotFoundError:  # the last claim beside it was just given up, and the folder with it
            continue
