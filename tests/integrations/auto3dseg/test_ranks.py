"""One process, and two that share the cases to score; a training of two is in test_train.py."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from monai.data import Dataset
from ranks import join, run_ranks
from torch import distributed

from prox_monai.integrations.auto3dseg.engines import share_of_rank
from prox_monai.integrations.auto3dseg.ranks import training_device


def test_alone_there_is_no_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with training_device() as device:
        assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
        assert not distributed.is_initialized()


def test_a_group_of_one_that_torchrun_started(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    with training_device():
        assert not distributed.is_initialized()


def test_every_case_is_scored_by_one_process(tmp_path):
    """Scored by both, each would count twice, and intervals would be too narrow."""
    assert share_of_rank(Dataset(range(5))) is None
    ours, theirs = run_ranks(__file__, tmp_path)
    assert sorted(ours["cases"] + theirs["cases"]) == [0, 1, 2, 3, 4]
    assert ours["too_few"] == theirs["too_few"] == "each scores all"


if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    join(rank, folder)
    too_few = "each scores all" if share_of_rank(Dataset(range(1))) is None else "one has none"
    torch.save({"cases": list(share_of_rank(Dataset(range(5)))), "too_few": too_few}, folder / f"{rank}.pth")
    distributed.destroy_process_group()
