"""Several processes, as nnU-Net's path for several GPUs starts them; here over gloo, on the CPU."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest

from prox_monai.training.checkpoint import read_safely


@pytest.fixture(scope="session")
def ranks(run_chains) -> SimpleNamespace:
    """Two ranks that finish, and two of which one dies in the second phase."""
    both, dead = {"name": "both", "ranks": 2}, {"name": "dead", "ranks": 2, "dies": [1, 1]}
    return run_chains([[both], [dead]], batch_size=3)


def test_both_ranks_finish(ranks):
    assert ranks.codes[0] == [[0, 0]], ranks.output.read_text()[-3000:]
    assert (ranks.fold("both") / "checkpoint_final.pth").is_file()


def test_both_ranks_train_the_same_subnets_to_the_same_weights(ranks, small):
    first, second = (ranks.record(f"both_{rank}") for rank in range(2))
    assert len(first) == small["epochs"] * small["iterations_per_epoch"]
    assert first == second
    assert len({row["weights"] for row in first}) == len(first)


def test_the_checkpoint_loads_where_there_is_one_process(ranks):
    content = read_safely(ranks.fold("both") / "checkpoint_final.pth")
    assert not [name for name in content["network_weights"] if name.startswith("module.")]


def test_a_dead_rank_ends_the_other_with_an_error(ranks):
    """The harness kills a rank that hangs, which would be -SIGKILL here, too."""
    survivor, dead = ranks.codes[1][0]
    assert dead == -signal.SIGKILL
    assert survivor == 1
