"""What has a state or a place in time, killed and continued, and on two ranks.

Several subnets per step, re-ordered channels, kernel transforms; a growing patch, and a teacher that is an average.
"""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest
import torch

from prox_monai.training import PRESETS
from prox_monai.training.checkpoint import read_safely

METHODS = {
    "progressive_shrinking_cai": {"epochs": [1, 1, 1, 2]},
    "plus": {
        "polish": True,
        "epochs": [1, 1, 1, 1, 1, 2],
        "patch": "growing",
        "distillation": 0.5,
        "teacher_average": 0.9,
    },
}
KILLS = {
    "progressive_shrinking_cai": [[2, 1], [3, 0], [4, 1]],  # depth; just after channels were re-ordered; width
    "plus": [[1, 0], [5, 0], [6, 1]],  # just after depth was opened; as polishing begins; in it
}


@pytest.fixture(scope="module", params=METHODS)
def runs(request, run_chains) -> SimpleNamespace:
    """Undisturbed, killed at every point in turn, and on two ranks."""
    name = request.param
    fields = {**PRESETS[name], **METHODS[name], "preset": name, "expansion": "off"}
    kills = KILLS[name]
    killed = [{"name": "killed", "dies": dies, "continued": i > 0} for i, dies in enumerate([*kills, None])]
    alone = run_chains([[{"name": "undisturbed"}], killed], **fields)
    ranks = run_chains([[{"name": "both", "ranks": 2}]], **fields, batch_size=3)
    return SimpleNamespace(alone=alone, ranks=ranks, kills=kills)


def test_they_died_and_finished(runs):
    killed = [-signal.SIGKILL]
    assert runs.alone.codes == [[[0]], [*[killed] * len(runs.kills), [0]]], runs.alone.output.read_text()[-2000:]
    assert runs.ranks.codes == [[[0, 0]]], runs.ranks.output.read_text()[-2000:]


def test_weights_are_equal_after_every_step(runs):
    straight = {tuple(row["place"]): row for row in runs.alone.record("undisturbed")}
    killed = runs.alone.record("killed")
    assert {tuple(row["place"]) for row in killed} == straight.keys()
    assert all(row == straight[tuple(row["place"])] for row in killed)
    assert len({row["weights"] for row in straight.values()}) == len(straight)


def test_optimizers_are_equal_at_the_end(runs):
    ends = [read_safely(runs.alone.fold(run) / "checkpoint_final.pth") for run in ("undisturbed", "killed")]
    states = [end["optimizer_state"]["state"] for end in ends]
    assert states[0].keys() == states[1].keys()
    for index in states[0]:
        assert all(torch.equal(states[0][index][name], states[1][index][name]) for name in states[0][index])


def test_both_ranks_train_the_same_subnets_to_the_same_weights(runs):
    first, second = (runs.ranks.record(f"both_{rank}") for rank in range(2))
    assert first == second
    assert len({row["weights"] for row in first}) == len(first)
