"""MONAI's Optuna generator over flat parameters of prox."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import yaml
from monai.apps.auto3dseg.hpo_gen import OptunaGen

from prox_monai.integrations.auto3dseg import ProxAlgo
from prox_monai.integrations.auto3dseg.train import run


class WidthAndRate(OptunaGen):
    """What is searched."""

    def get_hyperparameters(self):
        return {
            "prox_channels": self.trial.suggest_categorical("prox_channels", [2, 4]),
            "learning_rate": self.trial.suggest_float("learning_rate", 1e-3, 1e-2, log=True),
        }


def train_here(algo, command, devices_info=""):
    """The command in this process, which spares the imports."""
    options = dict(option.removeprefix("--").split("=", 1) for option in command[3:])
    run(options.pop("config_file"), **options)


def test_two_trials(generate, monkeypatch, tmp_path, quiet_monai):
    optuna = pytest.importorskip("optuna")
    optuna.logging.disable_default_handler()
    monkeypatch.setattr(ProxAlgo, "_run_cmd", train_here)
    generator = WidthAndRate(generate(), params={"num_epochs": 4, "prox_iterations_per_epoch": 1})
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    folder = tmp_path / "trials"
    study.optimize(partial(generator, obj_filename=generator.get_obj_filename(), output_folder=str(folder)), n_trials=2)
    assert all(0 <= trial.value <= 1 for trial in study.trials)
    assert len(list(folder.iterdir())) == 2
    for path, trial in zip(sorted(folder.iterdir(), key=lambda p: p.stat().st_mtime), study.trials, strict=True):
        used = yaml.safe_load(Path(path, "model", "parameters.yaml").read_text())
        assert (used["prox_channels"], used["num_epochs"]) == (trial.params["prox_channels"], 4)
        assert used["learning_rate"] == pytest.approx(trial.params["learning_rate"])
