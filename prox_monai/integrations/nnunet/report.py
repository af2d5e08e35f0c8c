"""The report on a trained model: what training found, its subnets, some of them drawn, cases predicted by one."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prox_monai.data.json_file import read_json
from prox_monai.evaluation.multiply_adds import ALIASES
from prox_monai.evaluation.subnets import read_rows
from prox_monai.integrations.nnunet.device_report import (
    Compared,
    compared_section,
    exported_subnets,
    exports_section,
    front_section,
)
from prox_monai.integrations.nnunet.planned import planned_network
from prox_monai.integrations.nnunet.scoring import CaseScorer
from prox_monai.integrations.nnunet.shown import RawCases, draw_prediction
from prox_monai.integrations.nnunet.trained import TrainedModel
from prox_monai.integrations.nnunet.unseen import preprocessed_folder
from prox_monai.report.network import network_picture
from prox_monai.report.page import Picture, Section, Table, write_page
from prox_monai.search.pareto import pareto_front
from prox_monai.search.plots import pareto_picture
from prox_monai.search.table import bucket_cells, row_cells
from prox_monai.space import SubnetConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a report shows.

    Args:
        rows: tables of evaluated subnets: of ``prox-monai evaluate``, or ``reporting.jsonl`` of ``search``.
        subnets: names of the subnets that are drawn; the first of them predicts the cases. If not given: those that
            were exported, the best of the tables, the fastest, and those with an alias.
        front: ``front.json`` of a search.
        exported: folders of exported subnets.
        stock: folder of a fold that nnU-Net's own trainer trained on the same data, to compare with.
        buckets: number of latency buckets.
        compared: what a device gets, beside what it could have had.
    """

    rows: tuple[Path, ...]
    subnets: tuple[str, ...] = ()
    front: Path | None = None
    exported: tuple[Path, ...] = ()
    stock: Path | None = None
    buckets: int = 5
    compared: Compared | None = None


def write_report(model: TrainedModel, wanted: Wanted, path: str | Path, environment: Mapping[str, str]) -> None:
    """Write the report on a trained model as one HTML file.

    Args:
        model: the trained model.
        wanted: what it shows.
        path: the file to write.
        environment: variables that name nnU-Net's folders; without the images no case is shown, which the page says.

    Raises:
        ValueError: When a table holds no row, or rows of another model, or there is no such subnet.
        FileNotFoundError: When a table or the folder to compare with is not there.
    """
    rows = _rows(model, wanted.rows)
    find = model.multiply_adds().find
    subnets: dict[str, SubnetConfig] = {}
    for name in wanted.subnets or (*exported_subnets(wanted.exported), *_worth_seeing(rows)):
        if (config := find(name)) not in subnets.values():
            subnets[name] = config
    first = [compared_section(wanted.compared)] if wanted.compared else []
    device = [front_section(model, wanted.front)] if wanted.front else []
    device += [exports_section(model, wanted.exported)] if wanted.exported else []
    planned = planned_network(model, rows, wanted.stock)
    with tempfile.TemporaryDirectory() as folder:
        sections = [
            *first,
            training_section(model),
            subnets_section(rows, planned, tuple(subnets), wanted.buckets, Path(folder)),
            *device,
            networks_section(model, subnets, Path(folder)),
            cases_section(model, _predicting(model, subnets, rows), rows, environment, Path(folder)),
        ]
        name = model.plans["dataset_name"]
        write_page(path, f"{name}, {model.configuration_name}, fold {model.fold}", sections)


def training_section(model: TrainedModel) -> Section:
    """Return what the training found: its phases, what each expansion gained, how the loss went."""
    folder = model.folder / f"fold_{model.fold}"
    parts: list[str | Table | Picture] = [
        f"{model.space.size():,} subnets of one network: {', '.join(_candidates(model))}. Patch "
        f"{'x'.join(map(str, model.configuration.patch_size))} voxels of "
        f"{'x'.join(f'{step:g}' for step in model.configuration.spacing)} mm. Checkpoint {model.digest}.",
    ]
    if (phases := folder / "phases.json").is_file():
        parts.append(_phases_table(read_json(phases)))
    if (progress := folder / "progress.png").is_file():
        parts.append(Picture(progress, "Losses, Dice of random patches, learning rate and cost over the epochs."))
    return Section("Training", tuple(parts))


def subnets_section(
    rows: Sequence[Mapping[str, Any]], planned: Mapping[str, Any], named: Sequence[str], buckets: int, folder: Path
) -> Section:
    """Return the evaluated subnets: the picture of the front, the buckets, the front and the named ones as a table."""
    scored = [row for row in rows if row["dice"] is not None]
    front = {id(scored[i]) for i in pareto_front([r["latency_ms"] for r in scored], [r["dice"] for r in scored])}
    shown = sorted(
        (row for row in scored if id(row) in front or row["name"] in (*ALIASES, *named)),
        key=lambda row: row["latency_ms"],
    )
    buckets = min(buckets, len(scored))
    picture, about = folder / "pareto.png", scored[0]["latency"]
    cases = len(scored[0]["dice_per_case"])
    pareto_picture(
        scored,
        picture,
        title=f"{len(scored)} subnets on {cases} unseen cases",
        named=(*ALIASES, *named),
        buckets=buckets,
        others=[planned],
    )
    head, *lines = row_cells([*shown, planned])
    marked = frozenset(i for i, row in enumerate(shown) if id(row) in front)
    where = f"{about['device']}, threads: {about['threads']}, torch {about['torch']}"
    table = Table(head, tuple(lines), marked, f"The front, marked, and the named subnets; latency on {where}.")
    head, *body = bucket_cells(scored, buckets)
    parts = (
        Picture(picture, f"Dice against latency; dotted lines part {buckets} buckets. {_about_planned(planned)}"),
        table,
        Table(head, tuple(body), caption="Mean foreground Dice of all evaluated subnets by latency."),
    )
    return Section("Subnets", parts)


def networks_section(model: TrainedModel, subnets: Mapping[str, SubnetConfig], folder: Path) -> Section:
    """Return the subnets drawn."""
    parts = []
    for number, (name, config) in enumerate(subnets.items()):
        path = folder / f"network_{number}.png"
        title = name if name == config.name else f"{name}: {config.name}"
        network_picture(model.supernet.architecture, config, model.input_shape, path, title=title)
        parts.append(Picture(path, f"{title}. A box is a block; below it, the voxels that it sees."))
    return Section("Networks", tuple(parts))


def _predicting(
    model: TrainedModel, subnets: Mapping[str, SubnetConfig], rows: Sequence[Mapping[str, Any]]
) -> tuple[str, SubnetConfig]:
    """Return the subnet that predicts the cases: the first that was scored on them."""
    keys, canonical = {row["key"] for row in rows}, model.supernet.architecture.canonical
    scored = ((name, config) for name, config in subnets.items() if canonical(config).name in keys)
    return next(scored, next(iter(subnets.items())))


def cases_section(
    model: TrainedModel,
    subnet: tuple[str, SubnetConfig],
    rows: Sequence[Mapping[str, Any]],
    environment: Mapping[str, str],
    folder: Path,
) -> Section:
    """Return the cases on which a subnet is best, median and worst, predicted by it."""
    name, config = subnet
    key = model.supernet.architecture.canonical(config).name
    row = next((row for row in rows if row["key"] == key), None)
    if row is None:
        return Section("Cases", (f"No table holds {name}: evaluate it to see its cases here.",))
    ranked = sorted((dice, case) for case, dice in row["dice_per_case"].items() if dice is not None)
    places = {"worst": ranked[0], "median": ranked[len(ranked) // 2], "best": ranked[-1]}
    try:
        raw = RawCases.of(model, environment)
        scorer = CaseScorer(model, preprocessed_folder(model, environment), [case for _, case in ranked])
    except (ValueError, FileNotFoundError) as error:
        logger.warning("no case is shown: %s", error)
        return Section("Cases", (f"No case is shown: {error}",))
    network, parts = model.supernet.extract(config).eval(), []
    for place, (dice, case) in places.items():
        path = folder / f"case_{place}.png"
        title = f"{place} of {len(ranked)} unseen cases: {case}, mean foreground Dice {dice:.3f}"
        draw_prediction(model, scorer, network, case, raw, path, title=title)
        parts.append(Picture(path, f"{name}, {title}."))
    return Section("Cases", tuple(parts))


def _rows(model: TrainedModel, paths: Sequence[Path]) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; prox-monai evaluate writes such a table.")
        rows |= {row["key"]: row for row in read_rows(path, model.digest)}
    if not any(row["dice"] is not None for row in rows.values()):
        raise ValueError(f"{', '.join(map(str, paths))} hold no subnet with a Dice.")
    if len({frozenset(row["dice_per_case"]) for row in rows.values()}) > 1:
        raise ValueError(f"{', '.join(map(str, paths))} hold subnets that were scored on different cases.")
    if untimed := [row["name"] for row in rows.values() if row["latency_ms"] is None]:
        raise ValueError(
            f"{', '.join(map(str, paths))} hold {len(untimed)} subnets without latency, such as {untimed[0]}; evaluate "
            f"them into another table, without --no-latency and on one device."
        )
    conditions = {(row["latency"]["device"], row["latency"]["threads"]) for row in rows.values()}
    if len(conditions) > 1:
        told = " and ".join(sorted(f"{device}, threads: {threads}" for device, threads in conditions))
        raise ValueError(f"{', '.join(map(str, paths))} hold latencies that do not compare, of {told}.")
    return list(rows.values())


def _worth_seeing(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The best, the fastest, and those with an alias."""
    scored = [row for row in rows if row["dice"] is not None]
    best, fastest = max(scored, key=lambda row: row["dice"]), min(scored, key=lambda row: row["latency_ms"])
    key = {row["key"]: _found_as(row) for row in (best, fastest, *(row for row in scored if row["name"] in ALIASES))}
    return list(key.values())


def _found_as(row: Mapping[str, Any]) -> str:
    """An alias, or the name of the row's configuration: tables may call rows as they like."""
    return row["name"] if row["name"] in ALIASES else SubnetConfig.from_dict(row["config"]).name


def _candidates(model: TrainedModel) -> list[str]:
    space = model.space
    return [f"{name} {list(getattr(space, name))}" for name in ("depth", "width", "kernel", "resolution")]


def _phases_table(phases: Sequence[Mapping[str, Any]]) -> Table:
    lines = []
    for phase in phases:
        gain = phase.get("gain")
        losses = [f"{phase[key]:.3f}" if key in phase else "" for key in ("loss_before", "loss_after")]
        gained = ["", ""]
        if gain and gain["mean"] is not None:
            interval = "" if gain["low"] is None else f" ({gain['low']:+.4f} to {gain['high']:+.4f})"
            gained = [f"{gain['mean']:+.4f}{interval}", gain["decision"]]
        opened = f"{phase['phase'] + 1}: {phase['stage']}"
        lines.append((opened, str(phase["epochs"]), f"{phase['train_seconds'] / 60:.1f}", *losses, *gained))
    head = (
        "phase",
        "epochs",
        "minutes",
        "loss before",
        "after opening",
        "gain in Dice (95 % interval)",
        "the dimension",
    )
    return Table(
        head,
        tuple(lines),
        caption="Loss of the largest subnet just before and just after its phase opened it; the gain is that of the "
        "new largest over the old one at the end of the phase, on unseen cases that are not those below.",
    )


def _about_planned(planned: Mapping[str, Any]) -> str:
    measured = f"measured for this page on {planned['device']}"
    if planned["dice"] is None:
        return f"The dashed line is the latency of nnU-Net's planned network, {measured}."
    return (
        f"The star is nnU-Net's planned network: the latency of one pass, {measured}; its Dice is from nnU-Net's own "
        f"validation, which mirrors."
    )
