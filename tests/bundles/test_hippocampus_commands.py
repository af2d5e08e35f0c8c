"""The hippocampus bundle's command in a process of its own, from the bundle's folder."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

if any(find_spec(name) is None for name in ("monai", "ignite", "fire", "tensorboard")):
    pytest.skip('needs MONAI and what its bundles need: pip install "prox-monai[monai]"', allow_module_level=True)

RUN = ("-m", "monai.bundle", "run", "--config_file")


def command(bundle, *words: str) -> str:
    """Run Python in the bundle's folder, with its overrides as a user gives them; returns what it says."""
    overrides = {name: value for name, value in bundle.override.items() if name != "bundle_root"}
    options = [word for name, value in overrides.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, *words, *options],
        cwd=bundle.folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout + done.stderr


def test_the_command_trains_as_the_workflow_does(hippocampus, trained_hippocampus):
    command(hippocampus, *RUN, "configs/train.json")
    ours, theirs = (torch.load(bundle.model, weights_only=True) for bundle in (hippocampus, trained_hippocampus))
    assert [name for name, tensor in theirs.items() if not torch.equal(ours[name], tensor)] == []
    assert not (hippocampus.folder / "models").exists()
