"""What a training leaves behind, and how nnU-Net's options work on it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from prox_monai.training.checkpoint import read_safely

PHASES = range(5)
VALIDATED = ("smallest", "middle", "largest")


def test_files(finished):
    names = {path.name for path in finished.iterdir()}
    assert {f"checkpoint_phase{phase}.pth" for phase in PHASES} <= names
    assert {f"checkpoint_{name}.pth" for name in VALIDATED} <= names
    assert {"checkpoint_final.pth", "phases.json", "progress.png", "prox_settings.json", "debug.json"} <= names
    assert "checkpoint_latest.pth" not in names
    assert not [name for name in names if name.endswith(".tmp")]
