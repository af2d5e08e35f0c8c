"""Several processes on one study."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

from prox_monai.evaluation.table import SharedRows, read_lines
from prox_monai.search import workers
from prox_monai.search.study import Problem, search
from prox_monai.search.workers import next_trial, requeue_stale
from prox_monai.space import SearchSpace, SubnetConfig

optuna = pytest.importorskip("optuna")

SPACE = SearchSpace(3, (1, 2), (0.25, 0.5, 1.0), (3, 5), (0.5, 1.0))  # 3,456 subnets
TRIALS = 24


def costs(config: SubnetConfig) -> dict[str, float]:
    return {"latency_ms": sum(s.depth * s.width * s.kernel for s in config.sections) * config.resolution}


def canonical(config: SubnetConfig) -> SubnetConfig:
    return config


class SlowScore:
    """Scores subnets into a table that several processes share, as slowly as a network would; may hang for ever."""

    def __init__(self, folder: Path, hangs_at: int | None) -> None:
        self.folder, self.hangs_at, self.scored = folder, hangs_at, 0

    def __call__(self, config: SubnetConfig) -> float:
        table = SharedRows(self.folder / "rows.jsonl")
        while (row := table.get(config.name)) is None:
            with table.claim(config.name) as ours:
                if ours and table.get(config.name) is None:
                    self._score(config, table)
        return row["dice"]

    def _score(self, config: SubnetConfig, table: SharedRows) -> None:
        if self.scored == self.hangs_at:
            (self.folder / "hangs").write_text(config.name)
            time.sleep(600)
        time.sleep(0.05)
        self.scored += 1
        dice = 1 - 1 / (1 + costs(config)["latency_ms"])
        table.append({"key": config.name, "dice": dice, "process": os.getpid()})


def work(folder: Path, hangs_at: int | None) -> None:
    problem = Problem(SPACE, canonical, costs, SlowScore(folder, hangs_at))
    search(problem, trials=TRIALS, storage=folder / "study.log")
    (folder / f"done_{os.getpid()}").touch()


def begin(folder: Path, hangs_at: int | None = None):
    process = multiprocessing.get_context("spawn").Process(target=work, args=(folder, hangs_at))
    process.start()
    return process


def study_in(folder: Path):
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "study.log")))
    return optuna.load_study(study_name="supernet", storage=storage)


def test_one_of_two_processes_is_killed(tmp_path):
    """No row is lost or doubled, what the dead one was at is done by the other, and the study is complete."""
    killed, other = begin(tmp_path, hangs_at=3), begin(tmp_path)
    deadline = time.monotonic() + 120
    while not (tmp_path / "hangs").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    other.join(120)
    assert other.exitcode == 0
    rows = read_lines(tmp_path / "rows.jsonl")
    assert max(Counter(row["key"] for row in rows).values()) == 1
    assert (tmp_path / "hangs").read_text() in {row["key"] for row in rows}
    assert len({row["process"] for row in rows}) == 2
    states = Counter(trial.state.name for trial in study_in(tmp_path).trials)
    assert states["RUNNING"] == 0
    assert TRIALS <= states["COMPLETE"] <= TRIALS + 1
    tried = {trial.user_attrs["dice"] for trial in study_in(tmp_path).trials if trial.state.name == "COMPLETE"}
    assert tried == {row["dice"] for row in rows}
    assert list(tmp_path.glob("*.claims")) == []


@pytest.fixture
def study():
    return optuna.create_study(directions=["minimize", "maximize"])


def test_a_study_with_enough_trials_is_done(study):
    for value in range(2):
        study.tell(next_trial(study, 2), [value, value])
    assert next_trial(study, 2) is None


def test_the_trial_of_a_dead_process_is_taken_over(study, monkeypatch):
    study.enqueue_trial({"x": 1})
    trial = next_trial(study, 3)
    assert trial.suggest_int("x", 0, 5) == 1
    monkeypatch.setattr(workers, "_started", lambda pid: "dead")
    requeue_stale(study)
    requeue_stale(study)
    assert [each.state.name for each in study.trials] == ["FAIL", "WAITING"]
    assert study.ask().suggest_int("x", 0, 5) == 1


def test_a_trial_that_was_queued_but_not_begun_is_taken_over(study, monkeypatch):
    study.enqueue_trial({"x": 1})
    next_trial(study, 3)
    monkeypatch.setattr(workers, "_started", lambda pid: "dead")
    requeue_stale(study)
    assert study.ask().suggest_int("x", 0, 5) == 1


def test_live_trials_stay(study):
    trial = next_trial(study, 3)
    requeue_stale(study)
    study.tell(trial, [0, 0])
    assert [each.state.name for each in study.trials] == ["COMPLETE"]


def test_who_waits_takes_over_what_is_left_behind(study, monkeypatch):
    """Two trials are wanted and begun; the other process dies while this one waits for it."""
    next_trial(study, 2).suggest_int("x", 4, 4)
    study.tell(next_trial(study, 2), [0, 0])
    waited = []

    def dies(seconds):
        waited.append(seconds)
        monkeypatch.setattr(workers, "_started", lambda pid: "dead")

    monkeypatch.setattr(workers.time, "sleep", dies)
    assert next_trial(study, 2).suggest_int("x", 0, 9) == 4
    assert len(waited) == 1


@pytest.mark.parametrize(
    ("worker", "minutes", "alive"),
    [
        (None, 0.5, True),
        (None, 2, False),
        ("elsewhere 1 5", 30, True),
        ("elsewhere 1 5", 90, False),
        (f"{workers.socket.gethostname()} {os.getpid()} 5", 0, False),
    ],
    ids=["just begun", "never signed", "elsewhere", "elsewhere, long ago", "same number, another process"],
)
def test_who_is_alive(worker, minutes, alive):
    assert workers._is_alive(worker, timedelta(minutes=minutes)) == alive


def test_this_process_is_alive():
    assert workers._is_alive(workers._this_process(), timedelta(days=9))
