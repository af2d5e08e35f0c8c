"""When to end a dimension: what its last expansion gained, paired over unseen cases (ProX, section 4.2)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Decision = Literal["ends", "goes on", "undecided"]


@dataclass(frozen=True, slots=True)
class Gain:
    """The mean gain in Dice of a new largest subnet over the old one, and what it can be with confidence.

    Args:
        cases: number of cases that both were scored on.
        mean: mean difference, new minus old; None without a case.
        low: lower end of the two-sided 95 % confidence interval of the mean; None with fewer than two cases.
        high: its upper end.
        upper: one-sided 90 % upper bound of the mean.
        delta: the gain below which an expansion gains nothing.
    """

    cases: int
    mean: float | None
    low: float | None
    high: float | None
    upper: float | None
    delta: float

    @property
    def decision(self) -> Decision:
        """``ends`` when the upper bound is below ``delta``; ``undecided`` with fewer than two cases."""
        if self.upper is None:
            return "undecided"
        return "ends" if self.upper < self.delta else "goes on"

    def to_dict(self) -> dict[str, Any]:
        """Return the gain with the decision as JSON primitives."""
        return {**asdict(self), "decision": self.decision}


def paired_gain(old: Mapping[str, float], new: Mapping[str, float], delta: float = 0.005) -> Gain:
    """Compare the new largest subnet with the old one, case by case.

    Args:
        old: Dice per case of the old largest subnet.
        new: Dice per case of the new one; cases that either lacks, or where either is NaN, are left out.
        delta: the gain below which an expansion gains nothing.

    Bounds are those of Student's t for the mean of the differences. The few cases of a tuning half are what it is
    made for: there a percentile bootstrap gives intervals that are too narrow, and would end dimensions too early.

    Raises:
        ImportError: When SciPy is not installed.
    """
    pairs = [(old[case], new[case]) for case in sorted(old.keys() & new.keys())]
    differences = [b - a for a, b in pairs if not math.isnan(a + b)]
    cases = len(differences)
    mean = statistics.fmean(differences) if differences else None
    if cases < 2:
        return Gain(cases, mean, None, None, None, delta)
    error = statistics.stdev(differences) / math.sqrt(cases)
    half, upper = (error * float(quantile) for quantile in _student_quantiles((0.975, 0.9), cases - 1))
    return Gain(cases, mean, mean - half, mean + half, mean + upper, delta)


def _student_quantiles(probabilities: Sequence[float], degrees: int) -> Sequence[float]:
    try:
        from scipy.stats import t
    except ImportError as error:
        raise ImportError('the gain of an expansion needs SciPy: pip install "prox-monai[nnunet]"') from error
    return t.ppf(probabilities, degrees)
