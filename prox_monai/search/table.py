"""Evaluated subnets as plain text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_HEAD = ("subnet", "parameters", "GMAC", "latency (ms)", "Dice")


def rows_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Lay rows out in columns: multiply-adds in 10^9 per patch, latency of batch 1 in milliseconds.

    Args:
        rows: as ``evaluate_subnets`` makes them.
    """
    lines = [_HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    return "\n".join(
        "  ".join(
            [
                line[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
            ]
        )
        for line in lines
    )


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    dice = "-" if row["dice"] is None else f"{row['dice']:.3f}"
    return row["name"], f"{row['parameters']:,}", f"{row['macs'] / 1e9:.2f}", f"{row['latency_ms']:.1f}", dice
