"""What a user of the command line reads when a bundle cannot be run, before training starts."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

if any(find_spec(name) is None for name in ("monai", "ignite", "fire", "tensorboard")):
    pytest.skip('needs MONAI and what its bundles need: pip install "prox-monai[monai]"', allow_module_level=True)

BUNDLES = sorted((Path(__file__).parents[2] / "bundles").iterdir())


def refused(folder: Path, files: list[Path], *options: str) -> str:
    """Run a bundle's command in a folder; returns what it says before it ends with an error."""
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str([str(file) for file in files])]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode != 0
    return done.stderr


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda folder: folder.name)
def test_from_another_folder(bundle, tmp_path):
    said = refused(tmp_path, [bundle / "configs" / "train.json"])
    assert f"bundle_root must be the folder of the bundle, with configs/metadata.json, got '.' in {tmp_path}" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda folder: folder.name)
def test_without_data(bundle, tmp_path):
    options = ["--bundle_root", str(bundle), "--ckpt_dir", str(tmp_path / "models"), "--dataset_dir", "/absent"]
    said = refused(tmp_path, [bundle / "configs" / "train.json"], *options)
    assert "dataset_dir must be a folder" in said
    assert "got /absent; give --dataset_dir" in said
    assert not (tmp_path / "models").exists()
