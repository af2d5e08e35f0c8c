"""The retinal bundle in several processes, from the bundle's folder."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

if any(find_spec(name) is None for name in ("monai", "ignite", "fire", "tensorboard", "PIL")):
    pytest.skip('needs MONAI and what its bundles need: pip install "prox-monai[monai]"', allow_module_level=True)

from prox_monai.evaluation.subnets import read_rows

TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
RUN = ("-m", "monai.bundle", "run", "--config_file", "['configs/train.json','configs/multi_gpu_train.json']")


def test_two_processes_train_one_model(retinal):
    """One writes the table and the statistics, with which inference works at once."""
    overrides = {name: value for name, value in retinal.override.items() if name not in ("bundle_root", "device")}
    options = [word for name, value in overrides.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, *TWO_PROCESSES, *RUN, *options],
        cwd=retinal.folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    assert (done.stdout + done.stderr).count("phase 6 of 6") == 2
    checkpoint = Path(retinal.override["ckpt_dir"], "training", "checkpoint_epoch=6.pt")
    saved, model = (torch.load(path, weights_only=True) for path in (checkpoint, retinal.model))
    assert [name for name, tensor in model.items() if not torch.equal(saved["model"][name], tensor)] == []
    rows = read_rows(Path(retinal.override["ckpt_dir"], "subnets.jsonl"))
    assert [row["name"] for row in rows] == ["smallest", "middle", "largest"]
    retinal.run("infer", "inference.json", subnet="middle")
    assert Path(retinal.override["output_dir"], "predictions.csv").is_file()
