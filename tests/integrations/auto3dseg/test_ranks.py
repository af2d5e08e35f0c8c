"""One process; several are in test_train.py."""

from __future__ import annotations

import torch
from torch import distributed

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
