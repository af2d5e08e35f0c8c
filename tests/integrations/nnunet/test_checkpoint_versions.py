"""Checkpoints that older versions wrote."""

from __future__ import annotations

import pytest
import torch

from prox_monai.integrations.nnunet.checkpoint import VERSION, read_checkpoint, schedule_of
from prox_monai.integrations.nnunet.settings import ProXSettings
from prox_monai.integrations.nnunet.trained import load_trained
from prox_monai.training.checkpoint import read_safely

SETTINGS_OF_VERSION_1 = [
    "depth",
    "width",
    "kernel",
    "resolution",
    "max_width",
    "schedule",
    "resolution_phases",
    "epochs",
    "iterations_per_epoch",
    "validation_iterations",
    "batch_size",
    "seed",
    "freeze",
    "growth",
    "distillation",
    "distillation_form",
    "optimizer",
    "learning_rate",
    "learning_rate_decay",
    "weight_decay",
    "mirror",
    "save_every",
    "validate",
    "overwrite",
]


@pytest.fixture
def version_1(copied):
    """The end of a training as version 1 wrote it: without schedule and expansions, with fewer settings."""
    path = copied / "checkpoint_final.pth"
    content = read_safely(path)
    ours = content["prox"]
    ours["version"] = 1
    ours["settings"] = {name: ours["settings"][name] for name in SETTINGS_OF_VERSION_1}
    del ours["schedule"], ours["expansions"], ours["training"]["in_place"]
    torch.save(content, path)
    return path


def test_the_schedule_is_that_of_the_settings(version_1, finished):
    content, expected = read_checkpoint(version_1), read_checkpoint(finished / "checkpoint_final.pth")
    assert content["prox"]["version"] == VERSION == 2
    assert content["prox"]["schedule"] == expected["prox"]["schedule"]
    assert len(schedule_of(content).phases) == 5
    assert content["prox"]["expansions"] == {}


def test_a_training_of_version_1_goes_on(version_1, make_trainer):
    from nnunetv2.run.run_training import maybe_load_checkpoint

    trainer = make_trainer()
    maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
    assert trainer.current_epoch == trainer.num_epochs == 5
    assert trainer.schedule == schedule_of(read_checkpoint(version_1))


def test_it_is_read_for_prediction(version_1):
    model = load_trained(version_1.parents[1])
    assert model.supernet.active == model.supernet.space.largest()


@pytest.mark.parametrize(("growth", "rate"), [("preserving", "core_share"), ("host", "full")])
def test_rings_go_on_at_the_rate_that_growth_meant_before_it_was_an_option(copied, growth, rate):
    path = copied / "checkpoint_final.pth"
    content = read_safely(path)
    del content["prox"]["settings"]["ring_rate"]
    content["prox"]["settings"]["growth"] = growth
    torch.save(content, path)
    settings = read_checkpoint(path)["prox"]["settings"]
    assert settings["ring_rate"] == rate
    assert ProXSettings(**settings).patch == "full"
