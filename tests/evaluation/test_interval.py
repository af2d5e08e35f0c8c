from __future__ import annotations

import statistics
import sys

import pytest

from prox_monai.evaluation.interval import jackknife_interval, mean_interval


def test_closed_form():
    """Three values of mean 2 and deviation 1: the half width is t / sqrt(3), t = 4.302653 at 2 degrees."""
    pytest.importorskip("scipy")
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-6)
    low, high = mean_interval([1.0, 2.0, 3.0], 0.5)
    assert 1.5 < low < 2 < high < 2.5


def test_equal_values_are_certain():
    assert mean_interval([0.8, 0.8, 0.8]) == (0.8, 0.8)


@pytest.mark.parametrize("values", [[], [0.5]])
def test_fewer_than_two_values_have_none(values):
    assert mean_interval(values) is None


def test_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(ImportError, match=r'an interval needs SciPy: pip install "prox-monai\[nnunet\]"'):
        mean_interval([1.0, 2.0])


def test_of_a_mean_the_jackknife_is_students_interval():
    values = [1.0, 2.0, 3.0, 7.0]
    assert jackknife_interval(values, statistics.fmean) == pytest.approx(mean_interval(values))
    assert jackknife_interval([1.0], statistics.fmean) is None


def test_the_jackknife_has_the_spread_of_the_statistic():
    """Of a sum over three values it is three times that of their mean."""
    low, high = jackknife_interval([1.0, 2.0, 3.0], lambda some: 3 * statistics.fmean(some))
    assert (low, high) == pytest.approx([3 * end for end in mean_interval([1.0, 2.0, 3.0])])
