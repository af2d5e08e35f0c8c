from __future__ import annotations

import pytest
from comparison.bars import bars, paired_interval, times_to_reach, worst_spike


def measured(results, what: str, ranking=None) -> tuple[float | None, bool | None]:
    (bar,) = (bar for bar in bars(results, ranking) if what in bar["what"])
    return bar["measured"], bar["met"]


def test_without_results_nothing_is_said():
    assert {(bar["measured"], bar["met"]) for bar in bars([])} == {(None, None)}
    assert len(bars([])) == 12


def test_time_against_the_baseline_is_the_median_of_ratios_within_a_seed(result):
    ours = [result("plus", seconds=s, seed=i) for i, s in enumerate((20.0, 40.0, 60.0))]
    theirs = [result("progressive_shrinking", seconds=s, seed=i) for i, s in enumerate((100.0, 400.0, 100.0))]
    found, _ = measured([*ours, *theirs], "without its polishing ÷ PS, per step")
    assert found == pytest.approx(0.2)
    assert measured([*ours, *theirs[:2]], "without its polishing ÷ PS, per step")[0] == pytest.approx(0.15)
    slower = [result("plus", seconds=160.0, seed=1)]
    assert [measured([*runs, *theirs], "without its polishing ÷ PS, per step")[1] for runs in (ours[1:2], slower)] == [
        True,
        False,
    ]


def test_times_of_two_processors_are_not_compared(result):
    elsewhere = {"device": "another processor", "cores": 2, "torch": "2.9"}
    theirs = result("progressive_shrinking", seconds=100.0, environment=elsewhere)
    assert measured([result("plus", 0.9), theirs], "without its polishing ÷ PS, per step") == (None, None)
    assert measured([result("plus", 0.9), theirs], "to the final mean Dice of PS ÷") == (None, None)
    assert measured([result("plus", 0.9), theirs], "plus - PS at equal steps")[0] == pytest.approx(0.1)


def test_polishing_counts_in_neither_time_nor_steps(result):
    ours = result("plus", seconds=40.0)  # 30 seconds without polishing
    ours["curve"] = {**ours["curve"], "stage": ["depth", "width", "kernel", "polish"]}
    found, _ = measured([ours, result("progressive_shrinking", seconds=400.0)], "without its polishing ÷ PS, per")
    assert found == pytest.approx((30 / 3) / (300 / 4))


def test_a_bar_says_of_how_many_seeds_it_is(result):
    results = [result(method, seed=seed) for method in ("plus", "progressive_shrinking") for seed in (0, 1)]
    seeds = {bar["what"]: bar["seeds"] for bar in bars(results)}
    assert seeds["the same, plus - PS at equal steps, worst seed"] == 2
    assert seeds["the same, plus - PS at equal time, worst seed"] == 0


def test_time_to_reach_is_that_of_the_shortest_training_that_is_as_good(result):
    base = result("progressive_shrinking", 0.84, 1000.0)
    settings = result("plus")["settings"]
    half = result("plus_half", 0.83, 50.0, settings={**settings, "iterations_per_epoch": 1})
    whole, longer = result("plus", 0.85, 100.0), result("plus_at_ps_time", 0.88, 1000.0, settings=settings)
    other = result("plus_with_distillation", 0.85, 1.0, settings={**settings, "distillation": 0.5})
    assert times_to_reach([base, half, whole, longer, other]) == [pytest.approx(0.1)]
    half["dice"]["mean"] = 0.84
    assert times_to_reach([base, half, whole]) == [pytest.approx(0.05)]
    assert times_to_reach([whole]) == []


def test_what_was_not_reached_is_not_met(result):
    results = [result("progressive_shrinking", 0.84), result("plus", 0.83)]
    assert measured(results, "to the final mean Dice of PS ÷") == (None, False)


def test_above_the_baseline_in_every_seed(result):
    ours = [result("plus", mean, seed=i) for i, mean in enumerate((0.86, 0.87, 0.85))]
    theirs = [result("progressive_shrinking", 0.855, seed=i) for i in range(3)]
    found, met = measured([*ours, *theirs], "at equal steps")
    assert found == pytest.approx(-0.005)
    assert met is False
    assert measured([*ours[:2], *theirs], "at equal steps")[1] is True


def test_medians_over_seeds(result):
    runs = [result("plus", mean, seed=i) for i, mean in enumerate((0.80, 0.87, 0.88))]
    assert measured(runs, "mean Dice of the random")[0] == pytest.approx(0.87)
    assert measured(runs, "worst of the random") == (pytest.approx(0.85), True)


def test_the_largest_is_compared_case_by_case(result):
    cases = [f"case{i}" for i in range(20)]
    ours = {case: 0.80 + 0.005 * i for i, case in enumerate(cases)}
    alone = {case: dice + 0.001 for case, dice in ours.items()}
    results = [
        result("plus", largest_dice_per_case=ours),
        result("standalone_at_plus_time", largest_dice_per_case=alone),
    ]
    gain, seeds = paired_interval(results, "plus", "standalone_at_plus_time")
    assert (gain.mean, gain.low, gain.high) == pytest.approx((-0.001, -0.001, -0.001))
    assert seeds == 1
    assert measured(results, "95 %") == (pytest.approx(-0.001), True)
    alone["case0"] = None
    assert paired_interval(results, "plus", "standalone_at_plus_time")[0].cases == 19


def test_seeds_are_averaged_before_cases_are_drawn(result):
    results = [result("plus", largest_dice_per_case={"a": d, "b": d}, seed=i) for i, d in enumerate((0.8, 0.9))]
    results += [result("standalone_at_plus_time", largest_dice_per_case={"a": 0.85, "b": 0.85}, seed=i) for i in (0, 1)]
    gain, seeds = paired_interval(results, "plus", "standalone_at_plus_time")
    assert (gain.mean, gain.low, gain.high) == pytest.approx((0, 0, 0), abs=1e-12)
    assert seeds == 2


def test_the_worst_expansion_counts(result):
    assert worst_spike(result("plus")) == pytest.approx(1.04)
    assert worst_spike(result("plus", phases=[{"phase": 0, "stage": "depth"}])) is None


def test_tau_is_set_against_its_ceiling():
    ranking = {"tau": {"mean": 0.6}, "ceiling": {"mean": 0.8}, "subnets": [{"extracted": [0.8, 0.9]}]}
    assert measured([], "Kendall", ranking) == (pytest.approx(0.75), False)
    assert next(bar["seeds"] for bar in bars([], ranking) if "Kendall" in bar["what"]) == 2
    ranking |= {"tau": {"mean": -0.2}, "ceiling": {"mean": -0.1}}
    assert measured([], "Kendall", ranking) == (None, None)


def test_the_family_against_one_network(result):
    results = [result("plus", seconds=80.0), result("standalone", seconds=100.0)]
    assert measured(results, "its largest subnet alone, equal steps") == (pytest.approx(0.8), True)
