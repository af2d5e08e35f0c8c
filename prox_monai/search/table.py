"""Evaluated subnets as plain text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from prox_monai.search.pareto import latency_buckets

_HEAD = ("subnet", "parameters", "GMAC", "latency (ms)")
MORE = {  # what its column is called, its unit, how it is written
    "nsd": ("NSD", 1.0, ".3f"),
    "hd95_mm": ("HD95 (mm)", 1.0, ".2f"),
    "accuracy": ("accuracy", 1.0, ".3f"),
    "macro_auc": ("AUC", 1.0, ".3f"),
    "macro_f1": ("F1", 1.0, ".3f"),
    "peak_memory_bytes": ("peak memory (MB)", 1e-6, ".0f"),
}
"""Fields of a row that have a column of their own where some row has them."""


def rows_table(
    rows: Iterable[Mapping[str, Any]], *, value: str = "dice", head: str = "Dice", interval: bool = False
) -> str:
    """Lay rows out in columns: multiply-adds in 10^9 per patch, latency of batch 1 in milliseconds.

    Args:
        rows: as ``evaluate_subnets`` makes them.
        value: the field that says what a subnet is worth.
        head: what its column is called.
        interval: whether the 95 % interval of the mean over cases has a column.
    """
    rows = list(rows)
    lines = row_cells(rows, value=value, head=head)
    if interval:
        ends = ["95 % interval", *(interval_cell(row.get(f"{value}_interval")) for row in rows)]
        at = len(_HEAD) + 1  # behind the value
        lines = [(*line[:at], end, *line[at:]) for line, end in zip(lines, ends, strict=True)]
    return columns(lines)


def row_cells(rows: Iterable[Mapping[str, Any]], *, value: str = "dice", head: str = "Dice") -> list[tuple[str, ...]]:
    """Return the lines of :func:`rows_table` as cells, the head first.

    What :data:`MORE` names has a column where some row has it.
    """
    rows = list(rows)
    more = [field for field in MORE if any(row.get(field) is not None for row in rows)]
    return [(*_HEAD, head, *(MORE[field][0] for field in more)), *(_cells(row, value, more) for row in rows)]


def buckets_table(rows: Sequence[Mapping[str, Any]], buckets: int, *, value: str = "dice") -> str:
    """Lay out what subnets are worth in quantile buckets of latency (ProX, figure 4): mean, least and most.

    Args:
        rows: as ``evaluate_subnets`` makes them, at least as many as buckets; rows without a value are left out.
        buckets: number of buckets.
        value: the field that says what a subnet is worth.
    """
    return columns(bucket_cells(rows, buckets, value=value))


def bucket_cells(rows: Sequence[Mapping[str, Any]], buckets: int, *, value: str = "dice") -> list[tuple[str, ...]]:
    """Return the lines of :func:`buckets_table` as cells, the head first."""
    rows = [row for row in rows if row[value] is not None]
    index = latency_buckets([row["latency_ms"] for row in rows], buckets)
    lines = [("latency (ms)", "subnets", "mean", "least", "most")]
    for bucket in sorted(set(index)):
        inside = [row for row, number in zip(rows, index, strict=True) if number == bucket]
        times, worth = [row["latency_ms"] for row in inside], [row[value] for row in inside]
        figures = (f"{figure:.3f}" for figure in (fmean(worth), min(worth), max(worth)))
        lines.append((f"{min(times):.1f} to {max(times):.1f}", str(len(inside)), *figures))
    return lines


def columns(lines: Sequence[Sequence[str]]) -> str:
    """Lay lines of cells out in columns, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)


def _cells(row: Mapping[str, Any], value: str, more: Iterable[str]) -> tuple[str, ...]:
    known = _cell(row["latency_ms"], ".1f"), _cell(row[value], ".3f")
    others = (_cell(row.get(field), form, unit) for field in more for _, unit, form in [MORE[field]])
    return row["name"], f"{row['parameters']:,}", f"{row['macs'] / 1e9:.2f}", *known, *others


def _cell(value: float | None, form: str, unit: float = 1.0) -> str:
    return "-" if value is None else f"{value * unit:{form}}"


def interval_cell(ends: Sequence[float] | None) -> str:
    """Write the ends of an interval, or a dash where there is none."""
    return "-" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"
