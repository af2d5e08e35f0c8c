"""Children are screened by what they cost, and by what they are predicted to be worth."""

from __future__ import annotations

import pytest

from prox_monai.search.proposal import _MIN_SCORED, _best, make_sampler

optuna = pytest.importorskip("optuna")

CHOICES = {"a": 4, "b": 4, "c": 1}


def price(parameters) -> tuple[float, float]:
    """The cost, limited to 5."""
    total = 1.0 + parameters["a"] + parameters["b"]
    return total, max(0.0, total / 5 - 1)


def study_of(scored: int, dice=lambda a, b: 0.1 * a):
    """Subnets without the cheapest of each ``a``, which has no ``b``."""
    study = optuna.create_study(directions=["minimize", "maximize"])
    for number in range(scored):
        a, b = number % 4, 1 + number // 4 % 3
        distributions = {name: optuna.distributions.IntDistribution(0, count - 1) for name, count in CHOICES.items()}
        study.add_trial(
            optuna.trial.create_trial(
                params={"a": a, "b": b, "c": 0},
                distributions=distributions,
                values=[1.0 + a + b, dice(a, b)],
                user_attrs={"dice": dice(a, b)},
            )
        )
    return study


def best(children, study, tried=lambda parameters: False):
    return _best(children, study, {"a": 4, "b": 4}, price, tried)


@pytest.mark.parametrize("scored", [0, _MIN_SCORED])
def test_limits_come_first(scored):
    assert best([{"a": 3, "b": 3}, {"a": 2, "b": 2}, {"a": 2, "b": 1}], study_of(scored)) == {"a": 2, "b": 2}
    assert best([{"a": 3, "b": 3}], study_of(scored)) == {"a": 3, "b": 3}


def test_new_ones_are_preferred():
    children = [{"a": 0, "b": 0}, {"a": 0, "b": 1}]
    assert best(children, study_of(0), tried=lambda parameters: parameters["b"] == 0) == {"a": 0, "b": 1}
    assert best(children, study_of(0), tried=lambda parameters: True) == {"a": 0, "b": 0}


def test_the_one_that_promises_most_is_taken_once_enough_are_scored():
    children = [{"a": 0, "b": 3}, {"a": 1, "b": 0}, {"a": 3, "b": 0}, {"a": 2, "b": 2}]
    assert best(children, study_of(_MIN_SCORED - 1)) == children[0]
    assert best(children, study_of(_MIN_SCORED, dice=lambda a, b: 0.1 * a**2)) == {"a": 3, "b": 0}
    assert best(children, study_of(_MIN_SCORED, dice=lambda a, b: 0.9 - 0.1 * a)) != {"a": 3, "b": 0}


def test_queued_trials_are_what_was_queued():
    study = optuna.create_study(directions=["minimize", "maximize"])
    study.sampler = make_sampler(CHOICES, price, lambda parameters: False, seed=0)
    study.enqueue_trial({"a": 3, "b": 3, "c": 0})
    trial = study.ask()
    assert [trial.suggest_int(name, 0, count - 1) for name, count in CHOICES.items()] == [3, 3, 0]


def test_a_study_keeps_the_limits():
    """Of 16 subnets 6 exceed them; NSGA-II alone would try some."""
    study = optuna.create_study(directions=["minimize", "maximize"])
    study.sampler = make_sampler(CHOICES, price, lambda parameters: False, seed=0)
    for _ in range(60):
        trial = study.ask()
        parameters = {name: trial.suggest_int(name, 0, count - 1) for name, count in CHOICES.items()}
        cost, excess = price(parameters)
        assert excess == 0
        trial.set_user_attr("dice", 0.5 + 0.1 * parameters["a"])
        study.tell(trial, [cost, 0.5 + 0.1 * parameters["a"]])
