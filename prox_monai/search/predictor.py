"""Latency of any subnet from a table: the sum of its blocks, corrected by what whole networks take."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from prox_monai.elastic import Architecture
from prox_monai.evaluation.table import Row
from prox_monai.search.blocks import blocks_of
from prox_monai.search.latency import FIT, HELD_OUT, Conditions, identity, read_latencies
from prox_monai.space import SubnetConfig

_MIN_NETWORKS = 2
_RIDGE = 3e-2
_NOISE = 0.03
_LEAST = 0.1  # of the time of the blocks alone


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How well latencies are predicted, on networks that the predictor was not fitted to.

    Args:
        networks: how many.
        mean_error: mean of the absolute relative errors, 0.05 for 5 %.
        tau: Kendall's rank correlation of predicted and measured latency.
    """

    networks: int
    mean_error: float
    tau: float


@dataclass(frozen=True)
class LatencyPredictor:
    """Predicts the latency of subnets under the conditions of a table: what their blocks take, and a constant.

    Blocks are timed alone, so they lack what happens between them (concatenation, calls) and have too much of what
    happens at their ends (a runtime that keeps activations in an order of its own converts them there). So their times
    are corrected by what whole networks take, by least squared relative error: for each kind of block by a factor and
    a time per number that is read and written, then for each block by a factor of its own, which stays close to 1
    where few networks have the block.

    Args:
        conditions: runtime, version, device and threads that were measured.
        blocks: rows of blocks by key.
        networks: rows of whole networks.

    Raises:
        ValueError: When there are fewer than two networks to fit to.
    """

    conditions: Conditions
    blocks: Mapping[str, Row]
    networks: Sequence[Row]
    _times: dict[str, float] = field(init=False, repr=False, compare=False)
    _constant: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        fitted = [row for row in self.networks if row["role"] == FIT and self._known(row["blocks"])]
        if len(fitted) < _MIN_NETWORKS:
            raise ValueError(
                f"the latency table holds {len(fitted)} whole networks of {self.conditions} to fit to, at least "
                f"{_MIN_NETWORKS} are needed; measure them with prox-monai latency."
            )
        times, constant = _corrected(self.blocks, fitted)
        object.__setattr__(self, "_times", times)
        object.__setattr__(self, "_constant", constant)

    def __call__(self, blocks: Sequence[str]) -> float:
        """Return the latency of a network of these blocks, in milliseconds.

        Raises:
            ValueError: When the table has no time of a block.
        """
        for key in blocks:
            if key not in self.blocks:
                raise ValueError(
                    f"the latency table has no time of the block {key!r} for {self.conditions}; "
                    f"measure it with prox-monai latency."
                )
        alone = sum(self.blocks[key]["median_ms"] for key in blocks)
        return max(self._constant + sum(self._times[key] for key in blocks), _LEAST * alone)

    def accuracy(self) -> Accuracy | None:
        """Return how well networks that were held out are predicted; None where there are fewer than two.

        Raises:
            ImportError: When SciPy is not installed.
        """
        rows = [row for row in self.networks if row["role"] == HELD_OUT and self._known(row["blocks"])]
        if len(rows) < 2:
            return None
        try:
            from scipy.stats import kendalltau
        except ImportError as error:
            raise ImportError('checking a latency table needs SciPy: pip install "prox-monai[nnunet]"') from error
        pairs = [(self(row["blocks"]), row["median_ms"]) for row in rows]
        errors = [abs(predicted / measured - 1) for predicted, measured in pairs]
        tau = kendalltau(*zip(*pairs, strict=True)).statistic
        return Accuracy(len(rows), sum(errors) / len(errors), float(tau))

    def _known(self, blocks: Sequence[str]) -> bool:
        return all(key in self.blocks for key in blocks)


@dataclass(frozen=True, slots=True)
class SubnetLatency:
    """Latency of subnets, in milliseconds.

    Args:
        predictor: of blocks.
        architecture: what builds the subnets.
        input_shape: ``(C, *spatial)`` of one image.
    """

    predictor: LatencyPredictor
    architecture: Architecture
    input_shape: tuple[int, ...]

    def __call__(self, config: SubnetConfig) -> float:
        """Return the latency of a subnet."""
        return self.predictor([block.key for block in blocks_of(self.architecture, config, self.input_shape)])


def rows_by_conditions(
    path: str | Path, runtime: str | None = None, threads: int | None = None
) -> dict[Conditions, list[Row]]:
    """Return the rows of a latency table by the conditions under which they were measured.

    Args:
        path: the table; a last line that was cut off is left out, and said so.
        runtime: only of this one, if given.
        threads: only of so many, if given.

    Raises:
        FileNotFoundError: When there is no such table.
        ValueError: When the file is no latency table.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; prox-monai latency writes a latency table.")
    parts: dict[Conditions, list[Row]] = {}
    for row in read_latencies(path):
        conditions = Conditions.of(row)
        if runtime in (None, conditions.runtime) and threads in (None, conditions.threads):
            parts.setdefault(conditions, []).append(row)
    return parts


def read_table(
    path: str | Path, here: Conditions | None, runtime: str | None = None, threads: int | None = None
) -> LatencyPredictor:
    """Return the predictor of a latency table.

    Args:
        path: the table.
        here: conditions that it must have been measured under; None to take whatever it holds.
        runtime: which, where it holds several.
        threads: how many, where it holds several.

    Raises:
        FileNotFoundError: When there is no such table.
        ValueError: When the file is no latency table, was measured elsewhere, does not say which of several is meant,
            or holds too few networks.
    """
    found = rows_by_conditions(path, runtime, threads)
    if found and here is not None and here not in found:
        raise ValueError(
            f"{path} was measured with {next(iter(found))}, here is {here}; measure it here with prox-monai latency, "
            f"or use it as it is with --force."
        )
    asked = [conditions for conditions in found if here in (None, conditions)]
    if len(asked) != 1:
        names = "; ".join(map(str, asked)) or "none"
        raise ValueError(
            f"{path} must hold one table of what is asked for, say which by --runtime and --threads, or give a file of "
            f"one device and version: it holds {names}."
        )
    return _predictor(asked[0], found[asked[0]])


def _predictor(conditions: Conditions, rows: Sequence[Row]) -> LatencyPredictor:
    once = {identity(row): row for row in reversed(rows)}  # of several the first
    networks = [row for row in once.values() if row["kind"] == "network"]
    return LatencyPredictor(
        conditions, {row["key"]: row for row in once.values() if row["kind"] == "block"}, networks[::-1]
    )


def _corrected(blocks: Mapping[str, Row], networks: Sequence[Row]) -> tuple[dict[str, float], float]:
    """The time of each block in a network, and a constant, in milliseconds."""
    keys = list(blocks)
    kinds = sorted({_kind(key) for key in keys})
    of_kind = torch.tensor([[_kind(key) == kind for kind in kinds] for key in keys], dtype=torch.double)
    alone, elements = (
        torch.tensor([blocks[key][name] for key in keys], dtype=torch.double)[:, None]
        for name in ("median_ms", "elements")
    )
    features = torch.cat([of_kind * alone, of_kind * elements], 1)
    plain = torch.tensor([1.0] * len(kinds) + [0.0] * (len(kinds) + 1), dtype=torch.double)
    measured = torch.tensor([row["median_ms"] for row in networks], dtype=torch.double)
    counts = torch.zeros(len(networks), len(keys), dtype=torch.double)
    place = {key: index for index, key in enumerate(keys)}
    for row, count in zip(networks, counts, strict=True):
        for key in row["blocks"]:
            count[place[key]] += 1

    sums = torch.cat([counts @ features, torch.ones(len(networks), 1, dtype=torch.double)], 1)
    by_kind = plain + _ridge(sums / measured[:, None], 1 - sums @ plain / measured)
    roughly = sums @ by_kind
    shares = counts * alone[:, 0] / roughly[:, None]
    gram = shares @ shares.T + _NOISE * torch.eye(len(networks), dtype=torch.double)
    own = shares.T @ torch.linalg.solve(gram, measured / roughly - 1)
    times = features @ by_kind[:-1] + alone[:, 0] * own
    return dict(zip(keys, times.tolist(), strict=True)), float(by_kind[-1])


def _ridge(features: Tensor, targets: Tensor) -> Tensor:
    """Coefficients of least squares, drawn a little to 0, whatever the features' scales."""
    scale = features.abs().mean(0).clamp_min(1e-30)
    scaled = features / scale
    gram = scaled.T @ scaled
    gram += _RIDGE**2 * gram.trace() * torch.eye(len(gram), dtype=torch.double)
    return torch.linalg.solve(gram, scaled.T @ targets) / scale


def _kind(key: str) -> str:
    """The class of a block's module."""
    return re.split(r"[(:]", key, maxsplit=1)[0]
