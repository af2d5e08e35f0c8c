"""Evaluate subnets into rows, one JSON line each; what is there already is not done again."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from prox_monai.evaluation.cost import latency, parameters
from prox_monai.evaluation.multiply_adds import MultiplyAdds
from prox_monai.space import SubnetConfig

logger = logging.getLogger(__name__)

Scores = Mapping[str, Mapping[str, float]]


def evaluate_subnets(
    costs: MultiplyAdds,
    named: Iterable[tuple[str, SubnetConfig]],
    score: Callable[[nn.Module], Scores],
    path: str | Path,
    *,
    model: str,
    input_shape: Sequence[int],
    device: str = "cpu",
    repeats: int = 5,
) -> Iterator[dict[str, Any]]:
    """Evaluate subnets and append a row each to a JSON-lines file; yields the rows, old ones under the name asked for.

    A row holds ``name``, ``key`` (canonical name), ``model``, ``config``, ``parameters``, ``macs`` (multiply-adds per
    patch), ``latency_ms`` (median of batch 1, with quartiles, device, threads and version of torch), ``dice`` (mean
    over labels of the mean over cases, nnU-Net's foreground mean), ``dice_per_label`` and ``dice_per_case``.

    Args:
        costs: counter of multiply-adds; its supernet gives the subnets.
        named: name and configuration of each subnet; a row is found by its configuration, whatever its name.
        score: hard Dice per case and label of a plain network.
        path: the table; rows of subnets that it holds already are reused.
        model: what the weights are, for example a digest; written into the rows.
        input_shape: ``(C, *spatial)`` of one patch.
        device: where latency is measured.
        repeats: timed passes per subnet.

    Raises:
        ValueError: When the table holds rows of another model.
    """
    done = {row["key"]: row for row in read_rows(path, model)}
    supernet = costs.supernet
    for name, config in named:
        key = supernet.architecture.canonical(config).name
        if key in done:
            yield done[key] | {"name": name}
            continue
        network = supernet.extract(config).eval()
        row = describe_subnet(
            costs, name, config, network, model=model, input_shape=input_shape, device=device, repeats=repeats
        ) | _summary(score(network))
        append_row(row, path)
        done[key] = row
        yield row


def describe_subnet(
    costs: MultiplyAdds,
    name: str,
    config: SubnetConfig,
    network: nn.Module,
    *,
    model: str,
    input_shape: Sequence[int],
    device: str = "cpu",
    repeats: int = 5,
) -> dict[str, Any]:
    """Return what a row says of a subnet beside its scores, see :func:`evaluate_subnets`.

    Args:
        costs: counter of multiply-adds.
        name: name under which the subnet was asked for.
        config: its configuration.
        network: the extracted network.
        model: what the weights are, for example a digest.
        input_shape: ``(C, *spatial)`` of one image or patch.
        device: where latency is measured.
        repeats: timed passes.
    """
    time = latency(network, input_shape, device=device, repeats=repeats, warmup=2)
    return {
        "name": name,
        "key": costs.supernet.architecture.canonical(config).name,
        "model": model,
        "config": config.to_dict(),
        "parameters": parameters(network),
        "macs": costs(config),
        "latency_ms": time.median_ms,
        "latency": {
            "q1_ms": time.q1_ms,
            "q3_ms": time.q3_ms,
            "device": time.device,
            "threads": time.threads,
            "torch": time.torch_version,
        },
    }


def read_rows(path: str | Path, model: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of a table; a last line that was cut off is left out, and said so.

    Args:
        path: the table; there are no rows where there is none.
        model: what the rows must be of, if given.

    Raises:
        ValueError: When another line is not a row, or the table holds rows of another model.
    """
    path = Path(path)
    if not path.exists():
        return []
    rows = []
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise ValueError(f"{path}, line {number} is not a row: {line[:80]!r}.") from None
            logger.warning("%s: the last row was cut off and is evaluated again.", path)
            path.write_text("".join(f"{good}\n" for good in lines[:-1]))
    if model is not None and (others := {row["model"] for row in rows} - {model}):
        raise ValueError(f"{path} holds rows of another model ({min(others)}, not {model}); give another file.")
    return rows


def split_cases(cases: Iterable[str]) -> tuple[list[str], list[str]]:
    """Split the unseen cases by name into a tuning half and a reporting half, the same always.

    What is chosen is chosen on the first, what is reported is measured on the second.
    """
    ordered = sorted(cases)
    return ordered[0::2], ordered[1::2]


def _summary(scores: Scores) -> dict[str, Any]:
    labels = sorted({label for values in scores.values() for label in values})
    per_label = {label: _mean(values[label] for values in scores.values()) for label in labels}
    return {
        "dice": _mean(per_label.values()),
        "dice_per_label": per_label,
        "dice_per_case": {case: _mean(values.values()) for case, values in scores.items()},
    }


def _mean(values: Iterable[float]) -> float | None:
    present = [value for value in values if value is not None and not math.isnan(value)]
    return sum(present) / len(present) if present else None


def append_row(row: Mapping[str, Any], path: str | Path) -> None:
    """Append a row to a table; it is on the disk when this returns."""
    with Path(path).open("a") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())
