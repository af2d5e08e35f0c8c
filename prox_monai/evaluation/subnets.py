"""Evaluate subnets into rows, one JSON line each; what is there already is not done again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from prox_monai.evaluation.cost import latency, parameters, peak_memory_bytes
from prox_monai.evaluation.interval import jackknife_interval, mean_interval
from prox_monai.evaluation.memory import tensor_bytes
from prox_monai.evaluation.multiply_adds import MultiplyAdds
from prox_monai.evaluation.table import SharedRows, append_row, read_lines
from prox_monai.space import SubnetConfig

__all__ = ["append_row", "describe_subnet", "evaluate_subnets", "read_rows", "split_cases"]

_POLL_SECONDS = 0.5

Scores = Mapping[str, Mapping[str, float]]


def evaluate_subnets(
    costs: MultiplyAdds,
    named: Iterable[tuple[str, SubnetConfig]],
    score: Callable[[nn.Module], Mapping[str, Scores]],
    path: str | Path,
    *,
    model: str,
    input_shape: Sequence[int],
    device: str = "cpu",
    repeats: int = 5,
    peak_memory: bool = False,
    about: Mapping[str, Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Evaluate subnets and append a row each to a JSON-lines file; yields the rows, old ones under the name asked for.

    A row holds ``name``, ``key`` (canonical name), ``model``, ``config``, ``parameters``, ``macs`` (multiply-adds per
    patch), ``memory_bytes`` (weights and activations alive at once), ``latency_ms`` (median of batch 1, with quartiles,
    device, runtime, threads and version), and for each measure, such as Dice, ``dice`` (mean over labels of the mean
    over cases, nnU-Net's foreground mean), ``dice_interval`` (its 95 % confidence interval over cases; None where
    there are fewer than two), ``dice_per_label`` and ``dice_per_case``.

    Several processes and machines may work on one table: a subnet that another one is evaluating comes last, and is
    evaluated here if the other one dies.

    Args:
        costs: counter of multiply-adds; its supernet gives the subnets.
        named: name and configuration of each subnet; a row is found by its configuration, whatever its name.
        score: of a plain network, by measure, ``dice`` at least: value per case and label.
        path: the table; rows of subnets that it holds already are reused.
        model: what the weights are, for example a digest; written into the rows.
        input_shape: ``(C, *spatial)`` of one patch.
        device: where latency is measured.
        repeats: timed passes per subnet; with 0 latency is not measured and ``latency_ms`` is None.
        peak_memory: whether ``peak_memory_bytes`` is measured, which takes seconds.
        about: what else is written into every row.

    Raises:
        ValueError: When the table holds rows of another model.
    """
    table, supernet = SharedRows(path, read_rows(path, model)), costs.supernet
    waiting = iter(named)
    while True:
        claimed_elsewhere, moved = [], False
        for name, config in waiting:
            key = supernet.architecture.canonical(config).name
            with table.claim(key) if table.get(key) is None else _nothing() as ours:
                if (row := table.get(key)) is None and ours:  # it may have come just before the claim
                    network = supernet.extract(config).eval()
                    row = describe_subnet(
                        costs,
                        name,
                        config,
                        network,
                        model=model,
                        input_shape=input_shape,
                        device=device,
                        repeats=repeats,
                        peak_memory=peak_memory,
                    )
                    row |= _summary(score(network)) | dict(about or {})
                    table.append(row)
            if row is None:
                claimed_elsewhere.append((name, config))
            else:
                moved = True
                yield row | {"name": name}
        if not claimed_elsewhere:
            return
        waiting = iter(claimed_elsewhere)
        if not moved:
            time.sleep(_POLL_SECONDS)


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
    peak_memory: bool = False,
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
        repeats: timed passes; none with 0.
        peak_memory: whether to measure it, see :func:`~prox_monai.evaluation.cost.peak_memory_bytes`.
    """
    timed = latency(network, input_shape, device=device, repeats=repeats, warmup=2) if repeats else None
    row = {
        "name": name,
        "key": costs.supernet.architecture.canonical(config).name,
        "model": model,
        "config": config.to_dict(),
        "parameters": parameters(network),
        "macs": costs(config),
        "memory_bytes": tensor_bytes(network, input_shape),
        "latency_ms": timed and timed.median_ms,
        "latency": timed
        and {
            "q1_ms": timed.q1_ms,
            "q3_ms": timed.q3_ms,
            "device": timed.device,
            "runtime": "torch",
            "threads": timed.threads,
            "torch": timed.torch_version,
        },
    }
    if peak_memory:
        row["peak_memory_bytes"] = peak_memory_bytes(network, input_shape, device=device)
    return row


def read_rows(path: str | Path, model: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of a table; a last line that was cut off is left out, and said so.

    Args:
        path: the table; there are no rows where there is none.
        model: what the rows must be of, if given.

    Raises:
        ValueError: When another line is not a row, or the table holds something else, or rows of another model.
    """
    rows = read_lines(path)
    if model is not None and any("model" not in row for row in rows):
        raise ValueError(f"{path} is no table of evaluated subnets: a row does not say of which model it is.")
    if model is not None and (others := {row["model"] for row in rows} - {model}):
        raise ValueError(f"{path} holds rows of another model ({min(others)}, not {model}); give another file.")
    return rows


def split_cases(cases: Iterable[str]) -> tuple[list[str], list[str]]:
    """Split the unseen cases by name into a tuning half and a reporting half, the same always.

    What is chosen is chosen on the first, what is reported is measured on the second.
    """
    ordered = sorted(cases)
    return ordered[0::2], ordered[1::2]


def _summary(measures: Mapping[str, Scores]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for measure, scores in measures.items():
        per_label = _per_label(list(scores.values()))
        per_case = {case: _mean(values.values()) for case, values in scores.items()}
        interval = _interval([scores[case] for case, value in per_case.items() if value is not None])
        row |= {
            measure: _mean(per_label.values()),
            f"{measure}_interval": interval and list(interval),
            f"{measure}_per_label": per_label,
            f"{measure}_per_case": per_case,
        }
    return row


def _per_label(cases: Sequence[Mapping[Any, float | None]]) -> dict[Any, float | None]:
    """The mean over cases of each label that any of them names."""
    labels = sorted({label for values in cases for label in values})
    return {label: _mean(values[label] for values in cases) for label in labels}


def _interval(cases: Sequence[Mapping[Any, float | None]]) -> tuple[float, float] | None:
    """How sure the mean over labels of the mean over cases is; where no case lacks a label, that over cases."""
    if all(_present(value) for values in cases for value in values.values()):
        return mean_interval([_mean(values.values()) for values in cases])
    return jackknife_interval(cases, lambda some: _mean(_per_label(some).values()))


def _present(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if _present(value)]
    return sum(present) / len(present) if present else None


@contextmanager
def _nothing() -> Iterator[bool]:
    """No claim: the row is there."""
    yield False
