"""A tiny synthetic data set, planned and preprocessed by nnU-Net itself, and trainings on it in this process."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

import prox_monai
from prox_monai.plugin_files import plugin_folder

CASES = 6
ID = "7"
SMALL: dict[str, Any] = {
    "depth": [1, 2],
    "width": [0.5, 1.0],
    "kernel": [3, 5],
    "resolution": [0.7, 1.0],
    "epochs": 5,
    "iterations_per_epoch": 2,
    "validation_iterations": 1,
    "save_every": 1,
    "learning_rate": 3e-3,
    "distillation": 0.5,
    "polish": False,
}

if find_spec("nnunetv2") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def small() -> dict[str, Any]:
    """The settings of the small trainings."""
    return SMALL


@pytest.fixture(scope="session")
def session_patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="session", autouse=True)
def threads_for_processes(session_patch: pytest.MonkeyPatch) -> None:
    """nnU-Net's pools start Python anew for each use, five seconds a time: threads do here.

    Only ``Pool`` is replaced: tests of other folders, which run in this session too, spawn their processes.
    """
    spawn = type(multiprocessing.get_context("spawn"))
    session_patch.setattr(spawn, "Pool", lambda context, *arguments, **options: ThreadPool(*arguments, **options))


@pytest.fixture(scope="session", autouse=True)
def folders(session_patch, threads_for_processes, tmp_path_factory) -> SimpleNamespace:
    """nnU-Net's folders with the planned and preprocessed data set, and the variables that name them."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    from prox_monai.data import read_decathlon, to_nnunet_raw, write_synthetic_decathlon

    root = tmp_path_factory.mktemp("nnunet")
    where = SimpleNamespace(id=ID, raw=root / "raw", preprocessed=root / "preprocessed", results=root / "results")
    for name in ("raw", "preprocessed", "results"):
        getattr(where, name).mkdir()
        session_patch.setenv(f"nnUNet_{name}", str(getattr(where, name)))
    session_patch.setenv("nnUNet_extTrainer", str(plugin_folder("nnunet")))
    session_patch.setenv("nnUNet_n_proc_DA", "1")
    session_patch.setenv("PYTHONPATH", str(Path(prox_monai.__file__).parents[1]))
    session_patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    for name in ("OMP_NUM_THREADS", "nnUNet_def_n_proc"):  # the latter is read when nnU-Net is imported
        session_patch.setenv(name, "1")
    session_patch.delenv("PROX_CONFIG", raising=False)
    data = write_synthetic_decathlon(root / "Task07_Synthetic", cases=CASES, size=(20, 28, 20))
    where.dataset = to_nnunet_raw(read_decathlon(data), where.raw, int(ID)).name
    api.extract_fingerprints([int(ID)], num_processes=1, show_progress_bar=False)
    api.plan_experiments([int(ID)])
    api.preprocess([int(ID)], configurations=("2d", "3d_fullres"), num_processes=(1, 1), show_progress_bar=False)
    plans = where.preprocessed / where.dataset / "nnUNetPlans.json"
    plans.write_text(json.dumps(with_tiny_configurations(json.loads(plans.read_text()))))
    session_patch.setenv("nnUNet_n_proc_DA", "0")
    return where


def with_tiny_configurations(plans: dict[str, Any]) -> dict[str, Any]:
    """Add configurations of which a step takes milliseconds; they use the preprocessed data of the planned ones."""
    configurations = plans["configurations"]

    def tiny(parent: str, patch: list[int], kernels: list, strides: list, **other: Any) -> dict[str, Any]:
        architecture = copy.deepcopy(configurations[parent]["architecture"])
        architecture["arch_kwargs"] |= {
            "n_stages": 3,
            "features_per_stage": [4, 8, 8],
            "kernel_sizes": kernels,
            "strides": strides,
            "n_conv_per_stage": [2, 2, 2],
            "n_conv_per_stage_decoder": [2, 2],
        }
        return {
            "inherits_from": parent,
            "patch_size": patch,
            "batch_size": 2,
            "architecture": architecture,
        } | other

    cube = [[3, 3, 3]] * 3, [[1, 1, 1], [2, 2, 2], [2, 2, 2]]
    flat = [[1, 3, 3], [1, 3, 3], [3, 3, 3]], [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
    configurations["tiny"] = tiny("3d_fullres", [16, 24, 16], *cube)
    configurations["tiny_flat"] = tiny("3d_fullres", [4, 24, 16], *flat)
    configurations["tiny_2d"] = tiny("2d", [24, 16], [[3, 3]] * 3, [[1, 1], [2, 2], [2, 2]])
    configurations["tiny_lowres"] = {"inherits_from": "tiny", "next_stage": "tiny_cascade"}
    configurations["tiny_cascade"] = {"inherits_from": "tiny", "previous_stage": "tiny_lowres"}
    residual = copy.deepcopy(configurations["tiny"]["architecture"])
    residual["network_class_name"] = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    configurations["tiny_residual"] = {"inherits_from": "tiny", "architecture": residual}
    return plans


@pytest.fixture
def results(monkeypatch, folders, tmp_path) -> Path:
    """A results folder of the test's own."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    return tmp_path / "results"


@pytest.fixture
def configure(monkeypatch, tmp_path) -> Callable[..., Path]:
    """Name settings in ``PROX_CONFIG``: the small ones, with changes."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "prox.yaml"
        path.write_text(yaml.safe_dump(SMALL | changes))
        monkeypatch.setenv("PROX_CONFIG", str(path))
        return path

    return write


@pytest.fixture
def make_trainer(results, configure) -> Callable[..., Any]:
    """Make a trainer as ``nnUNetv2_train`` does."""
    from nnunetv2.run.run_training import get_trainer_from_args

    def make(configuration: str = "tiny", name: str = "ProXTrainer", dataset: str = ID, **changes: Any) -> Any:
        configure(**changes)
        return get_trainer_from_args(dataset, configuration, 0, name, device=torch.device("cpu"))

    return make


@pytest.fixture
def train(results, configure) -> Callable[..., Path]:
    """Train and validate as ``nnUNetv2_train`` does; returns the fold's folder."""
    from nnunetv2.run.run_training import run_training

    def run(configuration: str = "tiny", name: str = "ProXTrainer", dataset: str = ID, *, options=None, **changes):
        configure(**changes)
        run_training(dataset, configuration, 0, name, device=torch.device("cpu"), **(options or {}))
        return next(results.glob(f"Dataset*{int(dataset):03d}_*/{name}__nnUNetPlans__{configuration}/fold_0"))

    return run


@pytest.fixture(scope="session")
def finished(folders, tmp_path_factory) -> Path:
    """The fold's folder of one complete training with validation; tests only read it, or copy it."""
    from nnunetv2.run.run_training import run_training

    settings = tmp_path_factory.mktemp("settings") / "prox.yaml"
    settings.write_text(yaml.safe_dump(SMALL))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROX_CONFIG", str(settings))
        run_training(ID, "tiny", 0, "ProXTrainer", device=torch.device("cpu"), export_validation_probabilities=True)
    return folders.results / folders.dataset / "ProXTrainer__nnUNetPlans__tiny" / "fold_0"


@pytest.fixture
def copied(finished, results, folders) -> Path:
    """A copy of the finished fold in the test's own results folder."""
    shutil.copytree(finished.parent, results / folders.dataset / finished.parent.name)
    return results / folders.dataset / finished.parent.name / finished.name


@pytest.fixture(scope="session")
def model(finished) -> Any:
    """The finished training, read for prediction and export."""
    from prox_monai.integrations.nnunet.trained import load_trained

    return load_trained(finished.parent)


@pytest.fixture(scope="session")
def varied(finished) -> Any:
    """The finished training with random weights, of which every subnet finds a bit of everything."""
    from prox_monai.integrations.nnunet.trained import load_trained

    varied = load_trained(finished.parent)
    torch.manual_seed(0)
    for parameter in varied.supernet.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return varied


@pytest.fixture(scope="session")
def run_chains(folders, tmp_path_factory) -> Callable[..., SimpleNamespace]:
    """Run chains of trainings in processes of their own, see ``harness.py``."""

    def run(chains: list[list[dict[str, Any]]], **changes: Any) -> SimpleNamespace:
        root = tmp_path_factory.mktemp("chains")
        (root / "prox.yaml").write_text(yaml.safe_dump(SMALL | changes))
        jobs = [[_job(root, **job) for job in chain] for chain in chains]
        (root / "jobs.json").write_text(json.dumps(jobs))
        command = [sys.executable, str(Path(__file__).with_name("harness.py")), str(root / "jobs.json")]
        with (root / "output.txt").open("w") as output:
            ended = subprocess.run(command, stdout=output, stderr=output)
        assert ended.returncode == 0, (root / "output.txt").read_text()[-3000:]
        return SimpleNamespace(
            codes=[json.loads((root / f"report_{i}.json").read_text()) for i in range(len(chains))],
            fold=lambda name: root / name / folders.dataset / "ProXTrainer__nnUNetPlans__tiny" / "fold_0",
            record=lambda name: [json.loads(line) for line in (root / f"{name}.jsonl").read_text().splitlines()],
            output=root / "output.txt",
        )

    return run


def _job(root: Path, name: str, workers: int = 0, ranks: int | None = None, **job: Any) -> dict[str, Any]:
    environment = {
        "nnUNet_results": str(root / name),
        "PROX_CONFIG": str(root / "prox.yaml"),
        "nnUNet_n_proc_DA": str(workers),
    }
    shared = {"dataset": ID, "configuration": "tiny", "environment": environment}
    if ranks is None:
        return shared | job | {"record": str(root / f"{name}.jsonl")}
    together = {"ranks": ranks, "rendezvous": str(root / f"{name}.rendezvous")}
    return shared | job | together | {"record": str(root / f"{name}_{{rank}}.jsonl")}


@pytest.fixture(scope="session")
def stock(folders, tmp_path_factory) -> Path:
    """The checkpoint of a stock trainer's planned network after one step."""
    from nnunetv2.run.run_training import get_trainer_from_args

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_results", str(tmp_path_factory.mktemp("stock")))
        trainer = get_trainer_from_args(ID, "tiny", 0, "nnUNetTrainer", device=torch.device("cpu"))
        trainer.num_epochs = trainer.num_iterations_per_epoch = trainer.num_val_iterations_per_epoch = 1
        trainer.run_training()
    return Path(trainer.output_folder, "checkpoint_final.pth")
