"""Invariant 14: search respects constraints, is reproducible and stops."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from prox_monai.search import workers
from prox_monai.search.pareto import pareto_front
from prox_monai.search.sampling import random_subnets
from prox_monai.search.study import Problem, _study, search
from prox_monai.search.workers import give_up
from prox_monai.space import SearchSpace, SubnetConfig

optuna = pytest.importorskip("optuna")

SPACE = SearchSpace(3, (1, 2), (0.25, 0.5, 1.0), (3, 5), (0.5, 1.0))  # 3,456 subnets
SMALL = SPACE.restrict(width=(0.5, 1.0), kernel=(3,), resolution=(1.0,))  # 64


def costs(config: SubnetConfig) -> dict[str, float]:
    parameters = sum(s.depth * s.width**2 * s.kernel**2 for s in config.sections)
    return {"latency_ms": parameters * config.resolution**2, "parameters": parameters}


def dice(config: SubnetConfig) -> float:
    """Every section helps, each in its own measure and less and less."""
    size = [(s.depth * s.width + s.kernel / 8) for s in config.sections]
    return config.resolution**0.25 * sum(1 - math.exp(-(i + 1) * x) for i, x in enumerate(size)) / 3


class Score:
    """Scores in closed form, and remembers whom."""

    def __init__(self, breaks_at: int | None = None) -> None:
        self.asked: list[SubnetConfig] = []
        self.breaks_at = breaks_at

    def __call__(self, config: SubnetConfig) -> float:
        if len(self.asked) == self.breaks_at:
            raise KeyboardInterrupt
        self.asked.append(config)
        return dice(config)


def problem(space: SearchSpace = SPACE, score=dice, **limits) -> Problem:
    return Problem(space, lambda config: config, costs, score, **limits)


def points(found) -> list[tuple[float, float]]:
    return [(scored.costs["latency_ms"], scored.dice) for scored in found]


def brute_force(space: SearchSpace, allowed=lambda config: True) -> list[tuple[float, float]]:
    configs = [config for config in space if allowed(config)]
    latencies, values = [costs(c)["latency_ms"] for c in configs], list(map(dice, configs))
    return [(latencies[i], values[i]) for i in pareto_front(latencies, values)]


def test_enumeration_is_brute_force():
    score = Score()
    found = search(problem(SMALL, score), trials=SMALL.size())
    assert points(found) == brute_force(SMALL)
    assert all(scored.dice == dice(scored.config) and scored.costs == costs(scored.config) for scored in found)
    assert sorted(score.asked) == sorted(SMALL)


def test_enumeration_keeps_the_limits_and_scores_only_what_meets_them():
    score = Score()
    limits = {"latency_ms": 30.0, "parameters": 25.0}
    found = search(problem(SMALL, score, at_most=limits, min_dice=0.7), trials=64)
    expected = brute_force(SMALL, lambda c: costs(c)["parameters"] <= 25 and dice(c) >= 0.7)
    assert points(found) == expected
    assert len(expected) > 1
    assert all(costs(config)["parameters"] <= 25 for config in score.asked)


def test_another_cost_may_be_weighed():
    found = search(problem(SPACE.restrict(width=(1.0,)), cost="parameters"), trials=1000)
    assert {scored.config.resolution for scored in found} == {1.0}


def test_nsga2_finds_most_of_the_front_in_a_fraction_of_the_trials():
    """Of a front of 35 in 3,456 subnets; as many random subnets find a fifth of it at best."""
    found = points(search(problem(), trials=700))
    true = brute_force(SPACE)
    assert len(set(found) & set(true)) > 0.6 * len(true)


def test_a_predictor_spares_trials():
    """A front of 35 in 3,456 subnets: half of it from 150, where as many random subnets find a tenth at best."""
    found = points(search(problem(), trials=150))
    true = brute_force(SPACE)
    drawn = random_subnets(SPACE, 150)
    assert len(set(found) & set(true)) > 0.4 * len(true)
    assert len({(costs(c)["latency_ms"], dice(c)) for c in drawn} & set(true)) < 0.15 * len(true)


def test_nsga2_keeps_the_limits_and_stops():
    score = Score()
    limits = {"latency_ms": 12.0, "parameters": 20.0}
    found = search(problem(score=score, at_most=limits, min_dice=0.6), trials=150)
    assert 10 < len(score.asked) <= 150
    assert all(costs(c)["latency_ms"] <= 12 and costs(c)["parameters"] <= 20 for c in score.asked)
    assert len(found) > 1
    assert all(scored.dice >= 0.6 for scored in found)


def test_constraints_direct_the_search():
    """Under a limit that 5 % of the subnets meet, far more of what is tried meets it."""
    score, limit = Score(), {"latency_ms": 2.0}
    search(problem(score=score, at_most=limit), trials=200)
    share = sum(costs(config)["latency_ms"] <= 2 for config in SPACE) / SPACE.size()
    assert len(score.asked) > 3 * 200 * share


def test_a_least_dice_directs_the_search():
    """One that no small subnet has."""
    shares = []
    for least in (0.0, 0.9):
        score = Score()
        search(problem(score=score, min_dice=least), trials=200)
        shares.append(sum(dice(config) >= 0.9 for config in score.asked) / len(score.asked))
    assert shares[1] > 2 * shares[0]


def test_trials_say_by_how_much_they_break_the_limits(tmp_path):
    storage = f"sqlite:///{tmp_path}/study.db"
    search(problem(SMALL, at_most={"parameters": 27.0}, min_dice=0.5), trials=4, storage=storage)
    trials = optuna.load_study(study_name="supernet", storage=storage).trials
    assert trials[0].constraints == {"parameters": 6.75 / 27 - 1, "dice": 0.5 - dice(SMALL.smallest())}
    assert trials[1].constraints == {"parameters": 1.0}


def test_a_subnet_is_scored_once():
    score = Score()
    search(problem(SMALL, score), trials=63)
    assert len(score.asked) == len(set(score.asked)) <= 63


@pytest.mark.parametrize("trials", [64, 40], ids=["enumerated", "evolved"])
def test_a_network_is_scored_once_whatever_its_configurations(trials):
    """Here two widths round to one network."""

    def canonical(config: SubnetConfig) -> SubnetConfig:
        return SubnetConfig.uniform(3, 1, 1, 3, config.resolution) if config.widths[0] == 1 else config

    score, costed = Score(), []
    search(Problem(SMALL, canonical, lambda c: costed.append(c) or costs(c), score), trials=trials)
    assert len(set(map(canonical, score.asked))) == len(score.asked)
    assert len(set(map(canonical, costed[1:]))) == len(costed[1:])  # the first is to see whether there is a solution


def test_the_seed_decides():
    runs = []
    for seed in (1, 1, 2):
        score = Score()
        found = search(problem(score=score), trials=60, seed=seed)
        runs.append((found, score.asked))
    assert runs[0] == runs[1]
    assert runs[0][1] != runs[2][1]


def test_the_ends_are_tried_first():
    score = Score()
    search(problem(score=score), trials=2)
    assert score.asked == [SPACE.smallest(), SPACE.largest()]


def test_rows_are_not_scored_again():
    score = Score()
    rows = [{"config": config.to_dict(), "dice": 1 - i / 100} for i, config in enumerate(list(SMALL)[:10])]
    unscored = {"config": SMALL.largest().to_dict(), "dice": None}
    found = search(problem(SMALL, score), trials=64, rows=[*rows, unscored])
    assert sorted(score.asked) == sorted(list(SMALL)[10:])
    assert found[0].dice == 1.0


def test_rows_of_other_spaces_are_not_found():
    outside = {"config": SPACE.smallest().to_dict(), "dice": 1.0}
    assert points(search(problem(SMALL), trials=64, rows=[outside])) == brute_force(SMALL)


@pytest.mark.filterwarnings("ignore:The value of `grace_period`")
def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, monkeypatch):
    """Of a journal that is given as people type it, relative to where they are."""
    (tmp_path / "found").mkdir()
    monkeypatch.chdir(tmp_path)
    lock = optuna.storages.journal.JournalFileSymlinkLock
    monkeypatch.setattr("optuna.storages.journal.JournalFileSymlinkLock", partial(lock, grace_period=1))
    assert lock(str(tmp_path / "found" / "study.log")).acquire()
    search(problem(), trials=2, storage=Path("found", "study.log"))
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == ["study.log"]


@pytest.mark.parametrize("make", [lambda path: path / "journal.log", lambda path: f"sqlite:///{path}/study.db"])
def test_a_search_that_was_broken_off_goes_on(tmp_path, make):
    storage, first, second, third = make(tmp_path), Score(breaks_at=6), Score(), Score()
    with pytest.raises(KeyboardInterrupt):
        search(problem(SMALL, first), trials=14, storage=storage)
    found = search(problem(SMALL, second), trials=14, storage=storage)
    assert not set(first.asked) & set(second.asked)
    assert second.asked
    asked = {*first.asked, *second.asked}
    assert points(found) == brute_force(SMALL, lambda config: config in asked)
    assert search(problem(SMALL, third), trials=14, storage=storage) == found
    assert third.asked == []


@pytest.mark.parametrize("content", [b"SQLite format 3\0 and much more", b"my notes", b'{"name": "of a table"}\n'])
def test_a_file_that_is_no_journal_is_left_alone(tmp_path, content):
    """A database is given by its URL; its path is an easy slip."""
    storage = tmp_path / "study.db"
    storage.write_bytes(content)
    with pytest.raises(ValueError, match=r"storage must be an Optuna URL, such as sqlite.*study.db is no journal"):
        search(problem(SMALL), trials=4, storage=storage)
    assert storage.read_bytes() == content


@pytest.mark.parametrize("url", ["sqlite:////missing/folder/study.db", "nothing://here"])
def test_a_database_that_cannot_be_opened_is_named(url):
    with pytest.raises(ValueError, match=f"storage {url} cannot be opened: "):
        search(problem(SMALL, Score()), trials=2, storage=url)


def test_a_trial_that_another_machine_has_taken_over_is_left_to_it(tmp_path):
    """Its subnet took longer than what other machines wait."""
    storage, taken, scorer = tmp_path / "study", [], Score()

    def slow(config):
        if not taken:
            taken.append(config)
            other = _study(problem(SMALL, scorer), storage, "supernet")
            (running,) = other.get_trials(states=(optuna.trial.TrialState.RUNNING,))
            give_up(other, running.number, running.system_attrs.get("fixed_params", {}) | running.params)
        return scorer(config)

    found = search(problem(SMALL, slow), trials=6, storage=storage)
    trials = _study(problem(SMALL, scorer), storage, "supernet").get_trials()
    states = [trial.state.name for trial in trials]
    assert (states.count("FAIL"), states.count("COMPLETE")) == (1, 6)
    assert len(scorer.asked) == len(set(scorer.asked))
    assert found


@pytest.mark.parametrize("trials", [64, 10], ids=["enumerated", "evolved"])
def test_limits_that_no_subnet_meets_at_once_are_named_with_what_there_is(trials):
    """Each alone can be met."""

    def at_odds(config):
        found = costs(config)
        return {**found, "memory_mb": 100 - found["latency_ms"]}

    least, most = (costs(config)["latency_ms"] for config in (SMALL.smallest(), SMALL.largest()))
    limits = {"latency_ms": least, "memory_mb": 100 - most}
    wanted = Problem(SMALL, lambda config: config, at_odds, Score(), at_most=limits)
    with pytest.raises(ValueError, match=r"none of \d+ subnets has latency_ms <= .* and memory_mb <= .*; the least"):
        search(wanted, trials=trials)


@pytest.mark.parametrize("lost", [1, 30])
def test_a_journal_that_was_cut_off_goes_on(tmp_path, lost, monkeypatch):
    """By a crash: all that was scored before the last entry is kept, and the file stays readable."""
    storage, first, second = tmp_path / "journal.log", Score(), Score()
    with monkeypatch.context() as patch:
        patch.setattr(workers, "_this_process", lambda: f"{workers.socket.gethostname()} 999999999 1")
        search(problem(SMALL, first), trials=8, storage=storage)
    storage.write_bytes(storage.read_bytes()[:-lost])
    for trials in (12, 14):
        search(problem(SMALL, second), trials=trials, storage=storage)
    assert not set(first.asked[:-1]) & set(second.asked)
    assert len(set(first.asked) | set(second.asked)) >= 12


def test_the_ends_are_not_tried_again(tmp_path):
    score = Score()
    for trials in (3, 4):
        search(problem(score=score), trials=trials, storage=tmp_path / "journal.log")
    assert len(score.asked) == 4


def test_models_do_not_mix_in_a_storage(tmp_path):
    one, two = Score(), Score()
    for name, score in (("one", one), ("two", two)):
        search(problem(score=score), trials=3, storage=tmp_path / "journal.log", model=name)
    assert one.asked == two.asked != []


def test_another_problem_in_the_storage_is_refused(tmp_path):
    storage = tmp_path / "journal.log"
    search(problem(at_most={"latency_ms": 9.0}), trials=1, storage=storage)
    message = r"journal.log holds a search of 'supernet' with at_most \{'latency_ms': 9.0\}, not \{\}; give another"
    with pytest.raises(ValueError, match=message):
        search(problem(), trials=3, storage=storage)


@pytest.mark.parametrize("trials", [5, 5000])
def test_an_unsatisfiable_limit_names_the_smallest_cost(trials):
    score = Score()
    with pytest.raises(ValueError, match=r"no subnet has latency_ms <= 0.4; the smallest has 0.421875."):
        search(problem(score=score, at_most={"parameters": 99, "latency_ms": 0.4}), trials=trials)
    assert score.asked == []


@pytest.mark.parametrize("trials", [5, 64])
def test_a_dice_that_nothing_has_names_the_best(trials):
    best = dice(SMALL.largest())
    with pytest.raises(ValueError, match=rf"none of {trials} subnets has dice >= 0.99; the best has {best:g}."):
        search(problem(SMALL, min_dice=0.99), trials=trials)


@pytest.mark.parametrize("arguments", [{"cost": "flops"}, {"at_most": {"flops": 1}}])
def test_unknown_costs_are_named(arguments):
    with pytest.raises(ValueError, match="cost must be one of latency_ms, parameters, got 'flops'."):
        search(problem(**arguments), trials=5)


def test_a_score_must_be_a_number():
    with pytest.raises(ValueError, match="score must give a finite Dice, got nan for d1-w.25-k3-r.5."):
        search(problem(score=lambda config: math.nan), trials=5)


def test_trials_are_at_least_one():
    with pytest.raises(ValueError, match="trials must be at least 1, got 0."):
        search(problem(), trials=0)


def test_coupled_spaces_are_searched():
    coupled = SPACE.coupled()
    score = Score()
    search(problem(coupled, score), trials=30)
    assert len(score.asked) > 15
    assert all(config in coupled for config in score.asked)


def test_without_optuna(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r'search needs Optuna: pip install "prox-monai\[search\]"'):
        search(problem(), trials=5)
    assert search(problem(SMALL), trials=64)


def test_a_limit_below_the_smallest_may_be_met_by_another():
    """A predicted latency is not monotone: the smallest subnet may not be the fastest."""

    def costs(config: SubnetConfig) -> dict[str, float]:
        return {"latency_ms": 1.0 if config == SMALL.smallest() else 0.5}

    problem = Problem(SMALL, lambda config: config, costs, lambda config: 0.5, at_most={"latency_ms": 0.7})
    problem.check()
    with pytest.raises(ValueError, match=r"no subnet has latency_ms <= 0.1; the cheapest that was found has 0.5."):
        replace(problem, at_most={"latency_ms": 0.1}).check()
