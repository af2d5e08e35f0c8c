"""The stock commands, in processes of their own, and MONAI's runner of them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from prox_monai.elastic.extra_state import ExtraState
from prox_monai.integrations.nnunet.trained import load_trained
from prox_monai.training.checkpoint import read_safely

TRAINER = "ProXTrainer__nnUNetPlans__tiny"
SETTINGS = {"depth": [1], "width": [0.5, 1.0], "kernel": [3], "resolution": [1.0], "epochs": 2, "polish": False}


def run(*command: object) -> None:
    ended = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-3000:]


@pytest.fixture
def images(folders, tmp_path) -> Path:
    """One case to predict."""
    (tmp_path / "images").mkdir()
    image = min((folders.raw / folders.dataset / "imagesTr").iterdir())
    shutil.copy(image, tmp_path / "images" / image.name)
    return tmp_path / "images"


def test_train_and_predict_with_the_subnet_that_a_checkpoint_names(folders, results, configure, images, tmp_path):
    configure(**SETTINGS, validate=["smallest"])
    run("nnUNetv2_train", folders.id, "tiny", 0, "-tr", "ProXTrainer", "-device", "cpu")
    folder = results / folders.dataset / TRAINER
    assert (folder / "fold_0" / "subnet_smallest" / "validation" / "summary.json").is_file()
    options = ["-d", folders.id, "-c", "tiny", "-f", 0, "-tr", "ProXTrainer", "-device", "cpu", "--disable_tta"]
    checkpoint = ["-chk", "checkpoint_smallest.pth", "--save_probabilities", "-npp", 1, "-nps", 1]
    run("nnUNetv2_predict", "-i", images, "-o", tmp_path / "out", *options, *checkpoint)
    predicted = np.load(next((tmp_path / "out").glob("*.npz")))["probabilities"]
    model = load_trained(folder)
    subnets = {name: predict(model, getattr(model.supernet.space, name)(), images) for name in ("smallest", "largest")}
    assert np.allclose(predicted, subnets["smallest"], rtol=0, atol=1e-6)  # threads differ
    assert not np.allclose(predicted, subnets["largest"], rtol=0, atol=1e-2)


def predict(model, config, images: Path) -> np.ndarray:
    """The probabilities of the plain network of a subnet, in this process."""
    predictor = nnUNetPredictor(
        use_mirroring=False, device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False
    )
    network = model.supernet.extract(config)
    predictor.manual_initialization(
        network,
        model.plans_manager,
        model.configuration,
        [network.state_dict()],
        model.dataset_json,
        "ProXTrainer",
        None,
    )
    files = [[str(path)] for path in images.iterdir()]
    target = images.parent / config.name
    predictor.predict_from_files_sequential(files, [str(target)], save_probabilities=True)
    return np.load(f"{target}.npz")["probabilities"]


@pytest.mark.parametrize("name", ["smallest", "middle", "largest"])
def test_each_checkpoint_holds_the_subnet_of_its_name(finished, model, name):
    content = read_safely(finished / f"checkpoint_{name}.pth")
    active = ExtraState.decode(content["network_weights"]["_extra_state"]).active
    assert active == model.multiply_adds().find(name)
    assert "optimizer_state" not in content


def test_monai_runs_it(folders, results, configure, monkeypatch):
    """MONAI gives nnU-Net no way to choose the CPU, so the command is completed here."""
    runner_module = pytest.importorskip("monai.apps.nnunet")

    class Runner(runner_module.nnUNetV2Runner):
        def train_single_model_command(self, *arguments):
            command, environment = super().train_single_model_command(*arguments)
            return [*command, "-device", "cpu"], environment

    configure(**SETTINGS, validate=["largest"])
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # the runner sets them; this puts them back
    config = {
        "nnunet_raw": str(folders.raw),
        "nnunet_preprocessed": str(folders.preprocessed),
        "nnunet_results": str(results),
        "dataset_name_or_id": folders.id,
    }
    runner = Runner(config, trainer_class_name="ProXTrainer", export_validation_probabilities=False)
    runner.train_single_model("tiny", 0)
    summary = json.loads((results / folders.dataset / TRAINER / "fold_0" / "validation" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 2
