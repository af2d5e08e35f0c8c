"""A training that is killed in the middle of a step, and continued, is the training that was not killed."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest
import torch

from prox_monai.training.checkpoint import read_safely

EPOCHS = [2, 2, 2, 2, 2]  # per phase: depth, depth, width, kernel, resolution
STAGES = ["depth", "depth", "width", "kernel", "resolution"]
KILLS = [
    [1, 1],
    [2, 0],
    [5, 1],
    [6, 1],
    [8, 0],
    [9, 1],
]  # (epoch, step): each stage, twice right after a boundary
WALL_TIMES = {"train_seconds", "epoch_start_timestamps", "epoch_end_timestamps"}


@pytest.fixture(scope="session")
def runs(run_chains) -> SimpleNamespace:
    """Undisturbed, killed at every point in turn, and killed once with worker processes."""
    killed = [{"name": "killed", "dies": dies, "continued": i > 0} for i, dies in enumerate([*KILLS, None])]
    workers = [{"name": "workers", "dies": dies, "continued": dies is None, "workers": 1} for dies in ([3, 1], None)]
    return run_chains([[{"name": "undisturbed"}], killed, workers], epochs=EPOCHS)


def equal(a, b) -> bool:
    """Whether two structures are the same, bit by bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b or (a != a and b != b)


def test_they_died_and_finished(runs):
    killed = [-signal.SIGKILL]
    assert runs.codes == [[[0]], [killed] * len(KILLS) + [[0]], [killed, [0]]]


@pytest.mark.parametrize("part", ["network_weights", "optimizer_state", "_best_ema", "current_epoch", "prox"])
@pytest.mark.parametrize("name", [*(f"checkpoint_phase{phase}" for phase in range(5)), "checkpoint_final"])
def test_checkpoints_are_equal_bit_by_bit(runs, name, part):
    undisturbed, killed = (read_safely(runs.fold(run) / f"{name}.pth") for run in ("undisturbed", "killed"))
    assert equal(undisturbed[part], killed[part])


def test_logs_are_equal_but_for_wall_times(runs):
    logs = [read_safely(runs.fold(run) / "checkpoint_final.pth")["logging"] for run in ("undisturbed", "killed")]
    assert logs[0].keys() == logs[1].keys() > WALL_TIMES
    for name in logs[0].keys() - WALL_TIMES:
        assert equal(logs[0][name], logs[1][name]), name
    assert logs[1]["stage"] == [stage for stage in STAGES for _ in range(2)]


def test_weights_are_equal_after_every_step(runs, small):
    """Also the steps that were made twice, before a kill and after it."""
    straight = {tuple(row["place"]): row for row in runs.record("undisturbed")}
    killed = runs.record("killed")
    assert len(straight) == sum(EPOCHS) * small["iterations_per_epoch"]
    assert {tuple(row["place"]) for row in killed} == straight.keys()
    assert all(row == straight[tuple(row["place"])] for row in killed)


def test_worker_processes_change_no_phase_and_no_subnet(runs):
    """Batches arrive in no fixed order then, so weights differ; what was trained when does not."""
    straight = {tuple(row["place"]): row["subnet"] for row in runs.record("undisturbed")}
    assert {tuple(row["place"]): row["subnet"] for row in runs.record("workers")} == straight
    logs = [read_safely(runs.fold(run) / "checkpoint_final.pth")["logging"] for run in ("undisturbed", "workers")]
    assert logs[0]["phase"] == logs[1]["phase"]
    assert logs[0]["multiply_adds"] == logs[1]["multiply_adds"]


def test_all_subnets_of_the_last_phase_are_trained_on_different_ones(runs):
    """The comparison above would be empty if every step trained the same subnet."""
    assert len({row["subnet"] for row in runs.record("undisturbed")}) > 5
