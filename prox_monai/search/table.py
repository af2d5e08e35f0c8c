"""Evaluated subnets as plain text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from prox_monai.search.pareto import latency_buckets

_HEAD = ("subnet", "parameters", "GMAC", "latency (ms)")


def rows_table(rows: Iterable[Mapping[str, Any]], *, value: str = "dice", head: str = "Dice") -> str:
    """Lay rows out in columns: multiply-adds in 10^9 per patch, latency of batch 1 in milliseconds.

    Args:
        rows: as ``evaluate_subnets`` makes them.
        value: the field that says what a subnet is worth.
        head: what its column is called.
    """
    lines = [(*_HEAD, head), *(_cells(row, value) for row in rows)]
    return _columns(lines)


def buckets_table(rows: Sequence[Mapping[str, Any]], buckets: int, *, value: str = "dice") -> str:
    """Lay out what subnets are worth in quantile buckets of latency (ProX, figure 4): mean, least and most.

    Args:
        rows: as ``evaluate_subnets`` makes them, at least as many as buckets; rows without a value are left out.
        buckets: number of buckets.
        value: the field that says what a subnet is worth.
    """
    rows = [row for row in rows if row[value] is not None]
    index = latency_buckets([row["latency_ms"] for row in rows], buckets)
    lines = [("latency (ms)", "subnets", "mean", "least", "most")]
    for bucket in sorted(set(index)):
        inside = [row for row, number in zip(rows, index, strict=True) if number == bucket]
        times, worth = [row["latency_ms"] for row in inside], [row[value] for row in inside]
        figures = (f"{figure:.3f}" for figure in (fmean(worth), min(worth), max(worth)))
        lines.append((f"{min(times):.1f} to {max(times):.1f}", str(len(inside)), *figures))
    return _columns(lines)


def _columns(lines: Sequence[Sequence[str]]) -> str:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)


def _cells(row: Mapping[str, Any], value: str) -> tuple[str, ...]:
    worth = "-" if row[value] is None else f"{row[value]:.3f}"
    return row["name"], f"{row['parameters']:,}", f"{row['macs'] / 1e9:.2f}", f"{row['latency_ms']:.1f}", worth
