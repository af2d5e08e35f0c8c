"""The hippocampus bundle's commands in processes of their own, from the bundle's folder."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

if any(find_spec(name) is None for name in ("monai", "ignite", "fire", "tensorboard")):
    pytest.skip('needs MONAI and what its bundles need: pip install "prox-monai[monai]"', allow_module_level=True)

RUN = ("-m", "monai.bundle", "run", "--config_file")
TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


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


def test_two_processes_train_one_model(hippocampus, tmp_path):
    log = command(hippocampus, *TWO_PROCESSES, *RUN, "['configs/train.json','configs/multi_gpu_train.json']")
    assert log.count("phase 6 of 6") == 2
    checkpoints = list(Path(hippocampus.override["ckpt_dir"], "training").iterdir())
    assert [path.name for path in checkpoints] == ["checkpoint_epoch=6.pt"]
    saved = torch.load(checkpoints[0], weights_only=True)
    model = torch.load(hippocampus.model, weights_only=True)
    assert saved["expansion"]["epochs"] == 6
    assert [name for name, tensor in model.items() if not torch.equal(saved["model"][name], tensor)] == []
    hippocampus.run("infer", "inference.json", output_dir=str(tmp_path / "labels"))
    assert len(list((tmp_path / "labels").glob("*_seg.nii.gz"))) == 4
    hippocampus.run("train", "train.json", resume=True)  # one process may go on with it
