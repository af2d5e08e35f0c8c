from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
import ranking
from comparison.methods import Comparison, Method
from comparison.units import Unit

from prox_monai.space import SearchSpace


class Costs:
    """Counts the sum of widths and kernels for multiply-adds."""

    space = SearchSpace(5, depth=(1, 2), width=(0.25, 0.5, 1.0), kernel=(3, 5))

    def __call__(self, config) -> float:
        return sum(width * kernel for width, kernel in zip(config.widths, config.kernels, strict=True))


def test_strata():
    costs = Costs()
    chosen = ranking.stratified(costs, 20)
    assert len(set(chosen)) == 20
    assert (chosen[0], chosen[-1]) == (costs.space.smallest(), costs.space.largest())
    values = [costs(config) for config in chosen]
    assert values == sorted(values)
    assert ranking.stratified(costs, 20) == chosen


def test_too_many_strata():
    costs = Costs()
    costs.space = SearchSpace(1, depth=(1, 2), width=(0.5, 1.0), kernel=(3,))
    with pytest.raises(ValueError, match=r"subnets of ranking must be at most 4 in this space, got 20"):
        ranking.stratified(costs, 20)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(ranking, "RESAMPLES", 200)


def test_equal_ranks():
    alone = [[0.1 * i for i in range(20)], [0.1 * i + 0.01 for i in range(20)]]
    extracted = [[0.1 * i + 0.105 for i in range(20)]]
    found = ranking.compare(extracted, alone)
    assert found["tau"]["mean"] == found["ceiling"]["mean"] == 1
    assert found["gap"] == pytest.approx({"mean": 0.1, "low": 0.1, "high": 0.1})


def test_opposite_ranks():
    alone = [[0.1 * i for i in range(20)]] * 2
    found = ranking.compare([alone[0][::-1]], alone)
    assert found["tau"]["mean"] == pytest.approx(-1)
    assert found["ceiling"]["mean"] == 1
    assert (found["tau"]["low"], found["tau"]["high"]) == pytest.approx((-1, -1))


def test_tau_is_the_mean_over_supernets_and_seeds():
    up, down = [1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]
    assert ranking.compare([up, down], [up, up])["tau"]["mean"] == 0
    assert ranking.compare([up], [up, [1.0, 2.0, 4.0, 3.0]])["tau"]["mean"] == pytest.approx((1 + 4 / 6) / 2)


def test_ties_rank_nothing():
    assert ranking.compare([[1.0, 1.0]], [[1.0, 2.0], [1.0, 2.0]])["tau"]["mean"] == 0


def test_stand_alone_units(tmp_path):
    plan = {"seeds": [0, 1], "steps": 0.3, "settings": {"preset": "standalone", "epochs": 2}}
    comparison = Comparison({"epochs": 9, "iterations_per_epoch": 20}, {}, {}, 3, plan)
    chosen = [Costs.space.smallest().name, Costs.space.largest().name]
    units = ranking.stand_alone_units(comparison, chosen, tmp_path)
    assert [(unit.method.name, unit.seed) for unit in units] == [(name, seed) for seed in (0, 1) for name in chosen]
    wanted = {"epochs": 2, "iterations_per_epoch": 6, "preset": "standalone", "subnet": chosen[1], "seed": 1}
    assert units[-1].settings() == wanted
    assert units[-1].folder.is_relative_to(tmp_path / "ranking")


def test_several_trainings_at_a_time(tmp_path, monkeypatch):
    both = threading.Barrier(2, timeout=20)
    monkeypatch.setattr(ranking, "train_unit", lambda *_: both.wait())
    monkeypatch.setattr(ranking, "evaluate_unit", lambda *_: {"dice": {"mean": 0.5}})
    units = [Unit(Method(name, {}), 0, 0, tmp_path) for name in "abcd"]
    kept = []
    ranking.train(units, SimpleNamespace(), 2, kept.append)
    assert not both.broken
    assert kept == [unit.folder for unit in units]


def test_what_ends_one_training_ends_the_others(tmp_path, monkeypatch):
    place, ended = SimpleNamespace(stopped=threading.Event()), []

    both = threading.Barrier(2, timeout=20)

    def train(unit, *_):
        both.wait()
        if unit.method.name == "a":
            raise KeyboardInterrupt
        ended.append(place.stopped.wait(20))

    monkeypatch.setattr(ranking, "train_unit", train)
    with pytest.raises(KeyboardInterrupt):
        ranking.train([Unit(Method(name, {}), 0, 0, tmp_path) for name in "ab"], place, 2, print)
    assert ended == [True]


def test_the_first_that_fails_ends_it(tmp_path, monkeypatch):
    begun, place = [], SimpleNamespace(stopped=threading.Event())

    def fail(unit, *_):
        begun.append(unit.method.name)
        time.sleep(0.05)
        raise RuntimeError(f"{unit.method.name} failed")

    monkeypatch.setattr(ranking, "train_unit", fail)
    with pytest.raises(RuntimeError, match="a failed"):
        ranking.train([Unit(Method(name, {}), 0, 0, tmp_path) for name in "abcdefgh"], place, 1, print)
    assert len(begun) < 4
