"""What a report says of a device: the front that was found for it, and what was exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prox_monai.export.description import Description, read_description
from prox_monai.integrations.nnunet.search import PICTURE, read_front
from prox_monai.integrations.nnunet.trained import TrainedModel
from prox_monai.report.page import Picture, Section, Table
from prox_monai.search.table import interval_cell, row_cells

_COSTS = {
    "latency_ms": ("latency (ms)", 1.0, ".2f"),
    "parameters": ("parameters", 1.0, ",.0f"),
    "macs": ("GMAC", 1e-9, ".2f"),
    "memory_bytes": ("memory (MB)", 1e-6, ".0f"),
    "memory_mb": ("memory (MB)", 1.0, ".0f"),  # as a search is asked for it
}


@dataclass(frozen=True, slots=True)
class Compared:
    """What a device gets, beside what it could have had.

    Args:
        rows: the exported subnet, the largest, and the network that nnU-Net plans, timed in turn.
        where: runtime, device and threads.
    """

    rows: tuple[Mapping[str, Any], ...]
    where: str


def compared_section(compared: Compared) -> Section:
    """Return what the exported subnet gives up, and how much faster it is."""
    exported, largest, planned = compared.rows
    text = (
        f"{largest['dice'] - exported['dice']:.4f} of the largest subnet's Dice is given up; one patch takes "
        f"{largest['latency_ms'] / exported['latency_ms']:.1f} times less time than by the largest, "
        f"{planned['latency_ms'] / exported['latency_ms']:.1f} times less than by the network that nnU-Net plans."
    )
    head, *lines = row_cells(compared.rows, head="Dice, reporting")
    return Section("Device", (text, Table(head, tuple(lines), frozenset({0}), f"Latency in {compared.where}.")))


def front_section(model: TrainedModel, path: Path) -> Section:
    """Return the front of a search, with the picture that lies beside it.

    Args:
        model: the trained model.
        path: ``front.json`` of the search.

    Raises:
        FileNotFoundError: When it is not there.
        ValueError: When it is none, or of another model.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; prox-monai search writes front.json.")
    found = read_front(path)
    if "subnets" not in found or "at_most" not in found:
        raise ValueError(f"{path} is no front.json of prox-monai search.")
    if found.get("model", model.digest) != model.digest:
        raise ValueError(f"{path} is of another model ({found['model']}, not {model.digest}).")
    costs = [name for name in _COSTS if all(subnet.get(name) is not None for subnet in found["subnets"])]
    head = ("subnet", *(_COSTS[name][0] for name in costs), "Dice, tuning", "Dice, reporting", "95 % interval")
    lines = [
        (
            subnet["subnet"],
            *(f"{subnet[name] * _COSTS[name][1]:{_COSTS[name][2]}}" for name in costs),
            *(_dice(subnet[half]) for half in ("dice_tuning", "dice_reporting")),
            interval_cell(subnet["dice_reporting_interval"]),
        )
        for subnet in found["subnets"]
    ]
    parts: list[str | Table | Picture] = [_asked(found), Table(head, tuple(lines), caption=_measured(found))]
    if (picture := path.with_name(path.stem.replace("front", Path(PICTURE).stem, 1) + Path(PICTURE).suffix)).is_file():
        parts.append(
            Picture(picture, f"The subnets that were scored, on the tuning half, by {_COSTS[found['cost']][0]}.")
        )
    return Section("Search", tuple(parts))


def exported_subnets(folders: Sequence[Path]) -> list[str]:
    """Return the names of the subnets that folders of ``prox-monai export`` hold."""
    return [read_description(folder).subnet for folder in folders]


def exports_section(model: TrainedModel, folders: Sequence[Path]) -> Section:
    """Return what was exported, as each folder's description says.

    Args:
        model: the trained model.
        folders: of ``prox-monai export``.

    Raises:
        FileNotFoundError: When a folder holds no exported network.
        ValueError: When one is not what its description says, or of another model.
    """
    described = [(folder, read_description(folder)) for folder in folders]
    for folder, description in described:
        if (theirs := description.source.get("checkpoint", model.digest)) != model.digest:
            raise ValueError(f"{folder} is of another model ({theirs}, not {model.digest}).")
    head = ("folder", "subnet", "format", "MB", "latency (ms)", "difference", "Dice lost")
    return Section(
        "Exports",
        (
            Table(
                head,
                tuple(_export_cells(folder, description) for folder, description in described),
                caption="Latency of one patch when it was exported, and that of the plain subnet in PyTorch beside it; "
                "the largest difference of a logit; by how much the mean Dice on the reporting half is below the plain "
                "subnet's, where arithmetic is other than 32 bits; of a bundle by how much that of label maps on the "
                "tuning half is below that of nnU-Net's own preprocessing.",
            ),
        ),
    )


def _export_cells(folder: Path, description: Description) -> tuple[str, ...]:
    checks = description.checks
    kinds = ("dice_reporting", "dice", "label_maps")
    dice, time = next(filter(None, map(checks.get, kinds)), None), checks["latency_ms"]
    return (
        folder.name,
        description.subnet,
        f"{description.format} {description.precision}, {checks['device']}, threads: {checks['threads']}",
        f"{checks['megabytes']['exported']:.2f} (plain {checks['megabytes']['plain']:.2f})",
        f"{time['exported']:.2f} (plain {time['plain']:.2f})",
        f"{checks['parity']['max_difference']:.2g}",
        "-" if dice is None else f"{dice['plain'] - dice['exported']:+.4f}",
    )


def _dice(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _asked(found: Mapping[str, Any]) -> str:
    at_most = ((*_COSTS[name][:2], limit) for name, limit in found["at_most"].items())
    limits = [f"{called} at most {limit * unit:,.10g}" for called, unit, limit in at_most]
    limits += [f"Dice at least {found['min_dice']:g}"] if found["min_dice"] else []
    return (
        f"The Pareto set of Dice and {_COSTS[found['cost']][0]} among {found['space_size']:,} subnets"
        f"{', ' + ', '.join(limits) if limits else ''}; {found['scored']} were scored."
    )


def _measured(found: Mapping[str, Any]) -> str:
    about = found["latency"]
    halves = "Chosen on the tuning half of the unseen cases; the reporting half played no part."
    if about is None:
        return halves
    told = ", ".join(f"{name} {value}" for name, value in about.items())
    return f"{halves} Latency predicted from a table: {told}."
