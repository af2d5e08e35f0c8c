"""Each bundle in several processes, by the command of its text, from the bundle's folder."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

if any(find_spec(name) is None for name in ("monai", "ignite", "fire", "tensorboard", "PIL")):
    pytest.skip('needs MONAI and what its bundles need: pip install "prox-monai[monai]"', allow_module_level=True)

from prox_monai.evaluation.subnets import read_rows
from prox_monai.integrations.monai import latest_checkpoint


def trained_in_two_processes(bundle) -> str:
    """Run the command with the bundle's overrides; returns what both say."""
    (line,) = (
        line for line in (bundle.folder / "docs" / "README.md").read_text().splitlines() if line.startswith("torchrun ")
    )
    words = [word for word in shlex.split(line)[1:] if word != "--dataset_dir" and not word.startswith("<")]
    overrides = {name: value for name, value in bundle.override.items() if name not in ("bundle_root", "device")}
    options = [word for name, value in overrides.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words, *options],
        cwd=bundle.folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", ["hippocampus", "brats", "retinal"])
def test_two_processes_train_one_model(name, request):
    bundle = request.getfixturevalue(name)
    assert trained_in_two_processes(bundle).count("phase 6 of 6") == 2
    epochs = bundle.override["epochs"]
    total = epochs if isinstance(epochs, int) else sum(epochs)
    checkpoint = Path(latest_checkpoint(Path(bundle.override["ckpt_dir"], "training")))
    assert checkpoint.name == f"checkpoint_epoch={total}.pt"
    saved, model = (torch.load(path, weights_only=True) for path in (checkpoint, bundle.model))
    assert saved["expansion"]["epochs"] == total
    assert [name for name, tensor in model.items() if not torch.equal(saved["model"][name], tensor)] == []
    logs = {path.parent for path in Path(bundle.override["output_dir"], "tensorboard").rglob("events.*")}
    events = [path for folder in logs for path in folder.glob("events.*")]
    assert len(events) == 2  # of training and of validation, of one process
    if name == "retinal":  # one process writes table and statistics
        rows = read_rows(Path(bundle.override["ckpt_dir"], "subnets.jsonl"))
        assert [row["name"] for row in rows] == ["smallest", "middle", "largest"]
    bundle.run("infer", "inference.json", subnet="middle" if name == "retinal" else "largest")
    assert list(Path(bundle.override["output_dir"]).glob("*_seg.nii.gz" if name != "retinal" else "predictions.csv"))
    bundle.run("train", "train.json", resume=True)  # one process may go on with it
