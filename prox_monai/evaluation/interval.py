"""How sure a mean over cases is."""

from __future__ import annotations

from collections.abc import Sequence


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
