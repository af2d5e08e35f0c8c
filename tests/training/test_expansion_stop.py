from __future__ import annotations

import json
import math
import statistics

import pytest

from prox_monai.training.expansion_stop import paired_gain

NAN = float("nan")


def scores(*values: float) -> dict[str, float]:
    return {f"case_{i}": value for i, value in enumerate(values)}


def test_two_cases_in_closed_form():
    gain = paired_gain(scores(0.5, 0.6), scores(0.51, 0.63))
    half = math.tan(math.pi * 0.475) * 0.01  # the standard error is 0.01
    assert gain.cases == 2
    assert gain.mean == pytest.approx(0.02)
    assert (gain.low, gain.high) == pytest.approx((0.02 - half, 0.02 + half))
    assert gain.upper == pytest.approx(0.02 + math.tan(math.pi * 0.4) * 0.01)


def test_ten_cases_against_a_printed_table():
    differences = [0.01 * i for i in range(10)]
    gain = paired_gain(scores(*[0.5] * 10), scores(*(0.5 + d for d in differences)))
    error = statistics.stdev(differences) / math.sqrt(10)
    assert gain.high - gain.mean == pytest.approx(2.262157 * error, rel=1e-6)
    assert gain.upper - gain.mean == pytest.approx(1.383029 * error, rel=1e-6)


def test_cases_are_paired_by_name_not_by_order():
    old = {"a": 0.2, "b": 0.9, "only_old": 0.0}
    new = {"b": 0.9, "a": 0.2, "only_new": 1.0}
    gain = paired_gain(old, new)
    assert (gain.cases, gain.mean, gain.low, gain.high) == (2, 0, 0, 0)


def test_nan_is_left_out_on_both_sides():
    with_nan = paired_gain(scores(0.5, NAN, 0.6, 0.7), scores(0.52, 0.9, NAN, 0.71))
    assert with_nan == paired_gain(scores(0.5, 0.7), scores(0.52, 0.71))


@pytest.mark.parametrize(
    ("new", "delta", "decision"),
    [
        ((0.5, 0.6, 0.7), 0.005, "ends"),  # no gain at all
        ((0.5, 0.6, 0.7), 0.0, "goes on"),  # the bound is not below
        ((0.55, 0.65, 0.75), 0.005, "goes on"),
        ((0.4, 0.5, 0.6), 0.005, "ends"),  # worse for sure
        ((0.4, 0.6, 0.8), 0.005, "goes on"),  # no gain on average, but it may be one
    ],
)
def test_decision(new, delta, decision):
    assert paired_gain(scores(0.5, 0.6, 0.7), scores(*new), delta).decision == decision


@pytest.mark.parametrize(("old", "cases", "mean"), [(scores(0.5), 1, 0.1), (scores(NAN), 0, None), ({}, 0, None)])
def test_fewer_than_two_cases_decide_nothing(old, cases, mean):
    gain = paired_gain(old, scores(0.6, 0.7))
    assert (gain.cases, gain.upper, gain.decision) == (cases, None, "undecided")
    assert gain.mean == (mean if mean is None else pytest.approx(mean))


def test_json():
    gain = paired_gain(scores(0.5, 0.6), scores(0.5, 0.6))
    expected = {"cases": 2, "mean": 0.0, "low": 0.0, "high": 0.0, "upper": 0.0, "delta": 0.005, "decision": "ends"}
    assert json.loads(json.dumps(gain.to_dict())) == expected
