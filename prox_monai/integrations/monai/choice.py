"""Which subnets are run: by name, sampled, or the best known within a latency budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prox_monai.evaluation.multiply_adds import MultiplyAdds
from prox_monai.search.sampling import random_subnets
from prox_monai.space import SubnetConfig
from prox_monai.training import ProgressiveTraining

Rows = Sequence[Mapping[str, Any]]
Named = tuple[str, SubnetConfig]


@dataclass(frozen=True, slots=True)
class SubnetChoice:
    """What a :class:`~prox_monai.integrations.monai.SubnetSamplingHandler` is to run; JSON values only.

    Args:
        subnets: names or aliases (``smallest``, ``middle``, ``largest``), one or several.
        per_bucket: random subnets per latency bucket, beside ``subnets``: ``per_bucket * buckets`` are drawn uniformly,
            and their latencies cut into buckets of equal size (ProX, figure 4).
        buckets: number of latency buckets.
        max_latency_ms: run the best subnet known within this budget instead of all others, in milliseconds; 0 or None:
            no budget.
        seed: of the random subnets.

    Raises:
        ValueError: When a number is out of its range.
    """

    subnets: str | Sequence[str] = "largest"
    per_bucket: int = 0
    buckets: int = 5
    max_latency_ms: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("per_bucket", 0), ("buckets", 1)):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least:
                raise ValueError(f"{name} must be an integer >= {least}, got {getattr(self, name)!r}.")
        limit = self.max_latency_ms
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit >= 0):
            raise ValueError(f"max_latency_ms must be a number >= 0 or null, got {limit!r}.")
        if self.max_latency_ms and self.per_bucket:
            raise ValueError(
                f"max_latency_ms runs one subnet, per_bucket samples many: give one, got {self.max_latency_ms} and "
                f"{self.per_bucket}."
            )

    def __call__(self, costs: MultiplyAdds, rows: Rows) -> list[Named]:
        """Return name and configuration of each subnet that is to be run.

        Args:
            costs: knows the space and its aliases.
            rows: what is known of subnets so far.

        Raises:
            ValueError: When there is no subnet of a name, or none within the budget.
        """
        if self.max_latency_ms:
            row = best_within(rows, self.max_latency_ms)
            return [(row["name"], SubnetConfig.from_dict(row["config"]))]
        names = [self.subnets] if isinstance(self.subnets, str) else self.subnets
        named = [(name, costs.find(name)) for name in names]
        taken = {config for _, config in named}
        drawn = random_subnets(costs.space, self.per_bucket * self.buckets, self.seed, taken)
        return named + [(config.name, config) for config in drawn]


@dataclass(frozen=True, slots=True)
class LargestOfPhase:
    """Run the largest subnet of the phase that a training is in: its validation.

    Args:
        training: the training.
    """

    training: ProgressiveTraining

    def __call__(self, costs: MultiplyAdds, rows: Rows) -> list[Named]:
        """Return the one subnet."""
        return [("largest", self.training.phase.largest())]


def best_within(rows: Rows, max_latency_ms: float) -> Mapping[str, Any]:
    """Return the row of the best score among those within a latency budget.

    Scores of other cases and latencies of other machines cannot be compared: rows like the last one count.

    Args:
        rows: as a :class:`~prox_monai.integrations.monai.SubnetSamplingHandler` writes them.
        max_latency_ms: the budget, in milliseconds.

    Raises:
        ValueError: When no subnet is known, or none is fast enough; the message says what the fastest takes.
    """
    scored = [row for row in rows if row.get("score") is not None]
    if not scored:
        raise ValueError(
            f"no subnet is known yet, so none can be chosen by max_latency_ms {max_latency_ms:g}; evaluate some first "
            f"(configs/search.json of a bundle does, scripts/validate.py of an algorithm of Auto3DSeg)."
        )
    about = [[row.get(name) for name in ("metric", "data", "input_shape", "settings", "machine")] for row in scored]
    scored = [row for row, kind in zip(scored, about, strict=True) if kind == about[-1]]
    within = [row for row in scored if row["latency_ms"] <= max_latency_ms]
    if not within:
        fastest = min(scored, key=lambda row: row["latency_ms"])
        raise ValueError(
            f"no known subnet has a latency <= {max_latency_ms:g} ms; the fastest, {fastest['key']}, takes "
            f"{fastest['latency_ms']:.1f} ms on {fastest['latency']['device']}, threads: "
            f"{fastest['latency']['threads']}."
        )
    return max(within, key=lambda row: (row["score"], -row["latency_ms"]))
