"""Trainings in this process: what is written, what is refused before, what is gone on with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from prox_monai.elastic import Supernet
from prox_monai.integrations.auto3dseg import ProxAlgo, algos
from prox_monai.integrations.auto3dseg import train as module
from prox_monai.integrations.auto3dseg.train import run
from prox_monai.training.checkpoint import load_checkpoint

QUICK = {"num_epochs": 4, "prox_iterations_per_epoch": 1}


def config_of(algo) -> str:
    return str(Path(algo.output_path) / "configs" / "hyper_parameters.yaml")


def model_of(algo) -> Path:
    return Path(algo.output_path) / "model"


@pytest.fixture
def train(generate, quiet_monai):
    """Generates and trains one algorithm."""

    def one(override=QUICK, **settings):
        algo = generate(**settings)
        run(config_of(algo), **override)
        return algo

    return one


def test_two_runs_are_the_same(train, generate):
    algo = train()
    first = load_checkpoint(model_of(algo) / "model.pt").supernet.state_dict()
    again = train()
    second = load_checkpoint(model_of(again) / "model.pt").supernet.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_largest_subnet_may_be_the_middle_one_too(train):
    candidates = {"prox_depth": [2], "prox_width": [1.0], "prox_kernel": [3], "prox_resolution": [0.6, 0.8, 1.0]}
    algo = train(QUICK | candidates)
    rows = [json.loads(line) for line in (model_of(algo) / "subnets.jsonl").read_text().splitlines()]
    assert "largest" not in {row["name"] for row in rows}
    assert yaml.safe_load((model_of(algo) / "progress.yaml").read_text())[-1]["subnet"] == "d2-w1-k3-r1"


class Broken(Exception):
    pass


def breaking_forward(self, x):
    raise Broken


def test_a_training_that_was_broken_off_goes_on(train, generate, monkeypatch):
    """The straight one, and one that ends after its first checkpoint: the same weights."""
    straight = load_checkpoint(model_of(train()) / "model.pt").supernet.state_dict()
    algo = generate()
    steps = []
    forward = Supernet.forward

    def breaking(self, x):
        steps.append(1)
        if (model_of(algo) / "training").exists() and any((model_of(algo) / "training").glob("*.pt")):
            raise Broken
        return forward(self, x)

    with monkeypatch.context() as patch:
        patch.setattr(Supernet, "forward", breaking)
        with pytest.raises(Broken):
            run(config_of(algo), **QUICK)
    assert steps
    assert not (model_of(algo) / "progress.yaml").exists()
    with pytest.raises(FileNotFoundError, match=r"prox_0 is not trained: there is no .*progress.yaml.$"):
        algo.get_score()  # so that AutoRunner takes it for untrained
    run(config_of(algo), **QUICK)
    assert "going on from" in (model_of(algo) / "training.log").read_text()
    resumed = load_checkpoint(model_of(algo) / "model.pt").supernet.state_dict()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_an_autorunner_that_is_run_again_goes_on(cases, tiny, tmp_path, monkeypatch, quiet_monai):
    """The training of the second fold breaks off; the first one is not repeated, the second not begun anew."""
    from monai.apps.auto3dseg import AutoRunner

    def here(algo, command, devices_info=""):
        options = dict(option.removeprefix("--").split("=", 1) for option in command[3:])
        run(options.pop("config_file"), **options)

    def breaking(self, x):
        if any((tmp_path / "work" / "prox_1" / "model" / "training").glob("*.pt")):
            raise Broken
        return forward(self, x)

    def pipeline():
        runner = AutoRunner(str(tmp_path / "work"), cases.source, algos(**tiny))
        runner.set_analyze_params({"device": "cpu", "do_ccp": False, "worker": 0})
        runner.run()

    monkeypatch.setattr(ProxAlgo, "_run_cmd", here)
    forward = Supernet.forward
    with monkeypatch.context() as patch:
        patch.setattr(Supernet, "forward", breaking)
        with pytest.raises(Broken):
            pipeline()
    first = (tmp_path / "work" / "prox_0" / "model" / "model.pt").stat().st_mtime_ns
    pipeline()
    assert (tmp_path / "work" / "prox_0" / "model" / "model.pt").stat().st_mtime_ns == first
    assert "going on from" in (tmp_path / "work" / "prox_1" / "model" / "training.log").read_text()
    assert len(list((tmp_path / "work" / "ensemble_output").rglob("*.nii.gz"))) == 1


def test_it_does_not_go_on_with_other_parameters(generate, quiet_monai):
    algo = generate()
    folder = model_of(algo) / "training"
    folder.mkdir(parents=True)
    (folder / "checkpoint_epoch=2.pt").write_bytes(b"")
    moved = {"num_epochs": 8, "data_file_base_dir": "/where/the/data/was"}
    old = {**yaml.safe_load(Path(config_of(algo)).read_text()), **moved}
    (model_of(algo) / "parameters.yaml").write_text(yaml.safe_dump(old))
    other = r"had other parameters: num_epochs \(8 then, 4 now\).* remove that folder"
    with pytest.raises(ValueError, match=other) as caught:
        run(config_of(algo), **QUICK)
    assert "data_file_base_dir" not in str(caught.value)


def test_a_finished_training_is_begun_anew(train):
    algo = train()
    first = (model_of(algo) / "model.pt").stat().st_mtime_ns
    run(config_of(algo), **QUICK)
    assert (model_of(algo) / "model.pt").stat().st_mtime_ns > first
    assert len((model_of(algo) / "subnets.jsonl").read_text().splitlines()) == 3


def test_a_finished_model_is_kept_until_the_next_is_finished(train, monkeypatch):
    algo = train()
    before = (model_of(algo) / "model.pt").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Supernet, "forward", breaking_forward)
        for _ in range(2):  # nothing of the one that broke off takes its place
            with pytest.raises(Broken):
                run(config_of(algo), **QUICK)
    previous = model_of(algo) / "previous"
    assert (previous / "model.pt").read_bytes() == before
    assert {"model.pt", "parameters.yaml", "progress.yaml", "subnets.jsonl"} <= {p.name for p in previous.iterdir()}
    assert not (model_of(algo) / "progress.yaml").exists()
    cause = r"second training of it was broken off.* run AutoRunner with train=True .* move what is in .*previous back"
    with pytest.raises(FileNotFoundError, match=cause):
        algo.get_score()  # for which AutoRunner asks, as the first training's is in algo_object.json
    run(config_of(algo), **QUICK)
    assert not previous.exists()
    assert (model_of(algo) / "progress.yaml").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"num_epoch": 3}, "unknown parameter 'num_epoch', did you mean 'num_epochs'"),
        ({"network#depth": 3}, "network#depth is nested"),
        ({"roi_size": "'8,8'"}, "roi_size must be three integers"),
        ({"fold": 7}, "fold 7 of .* has 5 training and 0 validation cases"),
        ({"output_classes": 4}, "every class must occur in the training cases of fold 0; no label map of them has 3"),
    ],
)
def test_bad_parameters_end_it_before_training(override, message, generate, monkeypatch, quiet_monai):
    monkeypatch.setattr(module, "make_engines", lambda *arguments: pytest.fail("trained"))
    algo = generate()
    with pytest.raises(ValueError, match=message):
        run(config_of(algo), **override)
    assert not (model_of(algo) / "progress.yaml").exists()


def test_the_wrong_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"config_file must name the algorithm's configs/hyper_parameters.yaml, got"):
        run(str(tmp_path / "other.yaml"))


@pytest.mark.parametrize(
    ("about", "settings"),
    [
        ({"channels": 2, "classes": 5, "size": (16, 30, 16)}, {}),
        ({"size": (32, 40, 8), "spacing": (0.8, 0.8, 4.0), "modality": "ct"}, {}),
    ],
    ids=["two_modalities_five_classes", "anisotropic_ct"],
)
def test_other_data_train(about, settings, write_cases, analyze, generate_algos, tmp_path, quiet_monai):
    cases = write_cases(tmp_path / "data", **about)
    stats = analyze(cases, tmp_path / "stats.yaml")
    (algo,) = generate_algos(tmp_path / "work", cases, stats, **settings)
    run(config_of(algo), **QUICK)
    assert 0 <= algo.get_score() <= 1
    (probabilities,) = algo.predict([str(cases.folder / "imagesTr" / "case_5.nii.gz")])
    assert probabilities.shape[0] == about.get("classes", 2) + 1
    assert torch.allclose(probabilities.sum(0), torch.ones(()), atol=1e-4)


def test_two_epochs_are_enough_for_a_trial(train):
    """What Auto3DSeg's own examples ask of every algorithm."""
    algo = train({"num_epochs": 2, "num_epochs_per_validation": 1, "prox_iterations_per_epoch": 2})
    assert "phase 4 of 4" in (model_of(algo) / "training.log").read_text()


@pytest.mark.slow
def test_two_processes(generate, quiet_monai):
    """What torchrun starts for two GPUs, on a CPU."""
    algo = generate()
    algo.device_setting["n_devices"] = 2
    command, _ = algo._create_cmd(QUICK)
    assert command[1:3] == ["-m", "torch.distributed.run"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (model_of(algo) / "subnets.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    assert sys.executable == command[0]
