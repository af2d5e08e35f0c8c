"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown(header: Sequence[str], align: str, rows: Iterable[Iterable[str]]) -> list[str]:
    """Return the lines of a table; ``align`` has an ``l`` or an ``r`` for each column."""
    rule = ["---" if side == "l" else "---:" for side in align]
    return [f"| {' | '.join(header)} |", f"|{'|'.join(rule)}|", *(f"| {' | '.join(cells)} |" for cells in rows)]
