"""What goes wrong while training stops it with words, and takes nothing that was there."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint

from prox_monai.training.checkpoint import read_safely


def poison(trainer, epoch: int, step: int) -> None:
    """Let the images of one step be NaN."""
    original = trainer.train_step

    def train_step(batch):
        if (trainer.current_epoch, trainer._step) == (epoch, step):
            batch["data"] = torch.full_like(batch["data"], float("nan"))
        return original(batch)

    trainer.train_step = train_step


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(make_trainer):
    trainer = make_trainer()
    poison(trainer, epoch=2, step=1)
    with pytest.raises(
        FloatingPointError, match=r"the loss is not finite in phase 2 \(width\), epoch 2, step 1, subnet d.*--c"
    ):
        trainer.run_training()
    content = read_safely(Path(trainer.output_folder, "checkpoint_latest.pth"))
    assert content["current_epoch"] == 2
    assert all(tensor.isfinite().all() for tensor in content["network_weights"].values())


def test_a_teacher_that_is_not_finite_stops_too(make_trainer):
    trainer = make_trainer()
    original = trainer.on_train_epoch_start

    def spoil() -> None:
        original()
        if trainer.training.teacher is not None:
            for parameter in trainer.training.teacher.network.parameters():
                parameter.fill_(float("nan"))

    trainer.on_train_epoch_start = spoil
    with pytest.raises(FloatingPointError, match=r"in phase 1 \(depth\), epoch 1, step 0"):
        trainer.run_training()


def test_a_full_disk_keeps_the_checkpoint_that_was_there(make_trainer, monkeypatch):
    trainer = make_trainer()
    original, fold = os.fsync, Path(trainer.output_folder)

    def full(descriptor: int) -> None:
        if trainer.current_epoch >= 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="checkpoint .*pth could not be written: .*No space left") as raised:
        trainer.run_training()
    assert raised.value.errno == errno.ENOSPC
    assert read_safely(fold / "checkpoint_latest.pth")["current_epoch"] == 1
    assert not list(fold.glob(".*.tmp"))


def resume(trainer) -> None:
    maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)


def test_settings_that_differ_are_named_on_resuming(copied, make_trainer):
    message = r"other settings than PROX_CONFIG gives: learning_rate \(0.003 instead of 0.1\), seed \(0 instead of 4\)"
    with pytest.raises(ValueError, match=message):
        resume(make_trainer(seed=4, learning_rate=0.1))


def test_settings_that_are_not_given_are_the_checkpoints(copied, make_trainer, monkeypatch):
    trainer = make_trainer()
    trainer._given = {"seed"}
    monkeypatch.setattr(trainer, "settings", type(trainer).settings)
    resume(trainer)
    assert trainer.num_epochs == 5
    assert trainer.supernet.space.width == (0.5, 1.0)


def test_a_truncated_checkpoint_is_refused(copied, make_trainer):
    path = copied / "checkpoint_final.pth"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="checkpoint_final.pth is truncated or not a checkpoint"):
        resume(make_trainer())


def test_a_checkpoint_with_a_pickle_is_refused(copied, make_trainer):
    path = copied / "checkpoint_final.pth"
    torch.save(read_safely(path) | {"extra": Path("/")}, path)
    with pytest.raises(ValueError, match="holds pickled objects, which could run code"):
        resume(make_trainer())


def test_a_checkpoint_of_another_trainer_is_refused(copied, make_trainer, stock):
    shutil.copyfile(stock, copied / "checkpoint_final.pth")
    with pytest.raises(ValueError, match="is not a checkpoint of ProXTrainer|holds pickled objects"):
        resume(make_trainer())


def test_a_checkpoint_without_our_part_is_refused(copied, make_trainer):
    path = copied / "checkpoint_final.pth"
    content = read_safely(path)
    del content["prox"]
    torch.save(content, path)
    with pytest.raises(ValueError, match="is not a checkpoint of ProXTrainer"):
        resume(make_trainer())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 3}, r"checkpoint_final.pth has format version 3, this package reads up to 2; update prox_monai"),
        ({"version": 3, "settings": {"new_field": 1}}, r"has format version 3, this package reads up to 2"),
        (
            {"architecture": {"name": "plain_conv_unet", "fields": {"in_channels": 4}}},
            r"is of another network than the plans describe: in_channels 4 instead of 1\.$",
        ),
    ],
)
def test_a_checkpoint_of_a_newer_version_or_another_network_is_refused(copied, make_trainer, change, message):
    path = copied / "checkpoint_final.pth"
    content = read_safely(path)
    if "architecture" in change:
        change["architecture"]["fields"] = content["prox"]["architecture"]["fields"] | change["architecture"]["fields"]
    content["prox"] |= change
    torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        resume(make_trainer())


def test_validation_before_the_end_is_refused_as_nnunet_does(make_trainer):
    with pytest.raises(RuntimeError, match="the training is not finished yet"):
        maybe_load_checkpoint(make_trainer(), continue_training=False, validation_only=True)
