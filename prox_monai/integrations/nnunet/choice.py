"""Which subnet of a family: by name, or the best within a budget of time."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prox_monai.evaluation.cost import device_name
from prox_monai.evaluation.subnets import read_rows
from prox_monai.integrations.nnunet.search import read_front
from prox_monai.integrations.nnunet.trained import TrainedModel
from prox_monai.space import SubnetConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A subnet, or how to find it; one of the first three, or none for the largest.

    Args:
        subnet: name or alias.
        max_latency_ms: the best evaluated subnet within this latency per patch, in milliseconds.
        budget_s: the best evaluated subnet whose passes over a whole case take no longer, in seconds.
        table: of ``prox-monai evaluate`` or ``search``, which a budget needs, see :func:`read_table`.

    Raises:
        ValueError: When several are given, a budget is not positive or has no table, or a table has no budget.
    """

    subnet: str | None = None
    max_latency_ms: float | None = None
    budget_s: float | None = None
    table: str | Path | None = None

    def __post_init__(self) -> None:
        given = self.given
        if len(given) > 1:
            raise ValueError(f"give one of {' and '.join(given)}.")
        for name in given:
            if name != "subnet" and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)!r}.")
            if name != "subnet" and self.table is None:
                raise ValueError(f"{name} needs a table: the subnets that prox-monai evaluate has measured.")
        if self.table is not None and given in ((), ("subnet",)):
            raise ValueError(
                f"--table {self.table} has no say without a budget; give --max-latency-ms (to predict: or --budget-s), "
                f"or leave it out."
            )

    @property
    def given(self) -> tuple[str, ...]:
        """Which of the ways to choose is asked for."""
        return tuple(name for name in ("subnet", "max_latency_ms", "budget_s") if getattr(self, name) is not None)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The subnet that was chosen.

    Args:
        config: its configuration.
        runtime: with which its latency was measured; None where latency played no part.
        latency_ms: per patch, by the table, in milliseconds.
        threads: with which it was measured.
    """

    config: SubnetConfig
    runtime: str | None = None
    latency_ms: float | None = None
    threads: int | None = None


def choose(model: TrainedModel, choice: Choice, *, windows: int = 1, passes: int = 1) -> Chosen:
    """Return the chosen subnet of a trained model.

    Args:
        model: the trained model.
        choice: how to choose.
        windows: of the largest case, for ``budget_s``.
        passes: of the network per window, for ``budget_s``.

    Raises:
        FileNotFoundError: When there is no table.
        ValueError: When there is no such subnet, none within the budget, or the table is of another model.
    """
    if choice.max_latency_ms is None and choice.budget_s is None:
        return Chosen(model.multiply_adds().find(choice.subnet or "largest"))
    rows = read_table(choice.table, model)
    limit, reason = choice.max_latency_ms, ""
    if limit is None:
        limit = choice.budget_s * 1e3 / (windows * passes)
        reason = f" ({choice.budget_s:g} s for {windows} windows of the largest case, passes per window: {passes})"
    row = best_within(rows, limit, reason)
    config, runtime = SubnetConfig.from_dict(row["config"]), row["latency"].get("runtime", "torch")
    measured, here = row["latency"]["device"], device_name("cpu")  # images are predicted on the CPU
    if not measured.startswith(here):
        logger.warning("%s was measured elsewhere, on %s: on %s it may take longer.", config, measured, here)
    logger.info("%s: Dice %.3f, %.3g ms per patch (%s)", config, row["dice"], row["latency_ms"], _conditions(row))
    return Chosen(config, runtime, row["latency_ms"], row["latency"]["threads"])


def read_table(path: str | Path, model: TrainedModel) -> list[Mapping[str, Any]]:
    """Return the subnets that ``prox-monai evaluate`` or ``search`` has measured.

    Args:
        path: table of ``evaluate`` (JSON lines), or ``front.json`` of ``search``.
        model: the model that they must be of, as far as the table says it.

    Raises:
        FileNotFoundError: When there is no such table, or it is empty.
        ValueError: When it is neither, or of another model.
    """
    path = Path(path)
    if path.suffix != ".json":
        rows = read_rows(path, model.digest)
    else:
        front = read_front(path)
        if front.get("latency") is None or "subnets" not in front:
            raise ValueError(f"{path} is no front.json of prox-monai search with a latency table.")
        if (theirs := front.get("model", model.digest)) != model.digest:
            raise ValueError(f"{path} is the front of another model ({theirs}, not {model.digest}); give another file.")
        rows = [subnet | {"dice": subnet["dice_tuning"], "latency": front["latency"]} for subnet in front["subnets"]]
    if not rows:
        raise FileNotFoundError(f"{path} holds no evaluated subnet; write it with prox-monai evaluate.")
    return rows


def best_within(rows: Sequence[Mapping[str, Any]], max_latency_ms: float, reason: str = "") -> Mapping[str, Any]:
    """Return the row of the best mean Dice among those within a latency budget, the faster of two equals.

    Args:
        rows: of evaluated subnets, see :func:`read_table`.
        max_latency_ms: the budget per patch, in milliseconds.
        reason: how the budget came about, for the error.

    Raises:
        ValueError: When no row has both Dice and latency, or none is fast enough; the message says what the fastest
            takes.
    """
    known = [row for row in rows if row["dice"] is not None and row["latency_ms"] is not None]
    if not known:
        raise ValueError("no evaluated subnet has both Dice and latency; run prox-monai evaluate with both.")
    within = [row for row in known if row["latency_ms"] <= max_latency_ms]
    if not within:
        fastest = min(known, key=lambda row: row["latency_ms"])
        config, latency = SubnetConfig.from_dict(fastest["config"]), fastest["latency_ms"]
        raise ValueError(
            f"no evaluated subnet has a latency <= {max_latency_ms:.3g} ms{reason}; the fastest, {config}, takes "
            f"{latency:.3g} ms ({_conditions(fastest)})."
        )
    return max(within, key=lambda row: (row["dice"], -row["latency_ms"]))


def _conditions(row: Mapping[str, Any]) -> str:
    about = row["latency"]
    return f"{about.get('runtime', 'torch')} on {about['device']}, threads: {about['threads']}"
