"""How sure a mean over cases is."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import TypeVar

Case = TypeVar("Case")


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Return the ends of Student's t confidence interval of a mean; None with fewer than two values.

    Args:
        values: one per case.
        level: confidence, between 0 and 1.

    Raises:
        ImportError: When SciPy is not installed.
    """
    if len(values) < 2:
        return None
    if len(set(values)) == 1:  # SciPy's would be NaN
        return values[0], values[0]
    try:
        from scipy.stats import ttest_1samp
    except ImportError as error:
        raise ImportError('an interval needs SciPy: pip install "prox-monai[nnunet]"') from error
    interval = ttest_1samp(values, 0).confidence_interval(level)
    return float(interval.low), float(interval.high)


def jackknife_interval(
    cases: Sequence[Case], statistic: Callable[[Sequence[Case]], float], level: float = 0.95
) -> tuple[float, float] | None:
    """Return the ends of a confidence interval of any statistic over cases; None with fewer than two.

    It is Student's t interval about the statistic, with the spread of its jackknife pseudo-values (Efron & Tibshirani,
    "An Introduction to the Bootstrap", 1993, section 11.4); of a mean it is :func:`mean_interval`.

    Args:
        cases: what the statistic is of, at least one of which may be left out.
        statistic: of some of the cases.
        level: confidence, between 0 and 1.

    Raises:
        ImportError: When SciPy is not installed.
    """
    if len(cases) < 2:
        return None
    estimate = statistic(cases)
    without = [statistic([*cases[:i], *cases[i + 1 :]]) for i in range(len(cases))]
    centre = statistics.fmean(without)
    return mean_interval([estimate + (len(cases) - 1) * (centre - left) for left in without], level)
