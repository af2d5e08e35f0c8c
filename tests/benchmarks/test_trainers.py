from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("nnunetv2")
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "trainers"))
import timed_trainer
from timed_trainer import FIRST_STEPS, TimedAdamWTrainer, TimedTrainer


@pytest.fixture
def trainer(monkeypatch, tmp_path):
    """A trainer that trains nothing, on a clock of its own: a step takes two seconds."""
    clock = SimpleNamespace(now=0.0)

    def begin(self, *arguments) -> None:
        self.logger = LocalLogger()
        self.logger.local_logger = self.logger
        self.current_epoch = 0

    monkeypatch.setattr(nnUNetTrainer, "__init__", begin)
    monkeypatch.setattr(nnUNetTrainer, "initialize", lambda self: None)
    monkeypatch.setattr(nnUNetTrainer, "on_train_epoch_start", lambda self: None)
    monkeypatch.setattr(nnUNetTrainer, "on_train_epoch_end", lambda self, outputs: None)
    monkeypatch.setattr(timed_trainer.time, "perf_counter", lambda: clock.now)
    (tmp_path / "settings.yaml").write_text("{seconds: 100.0, epochs: 5, seed: 3}")
    monkeypatch.setenv("PROX_STOCK", str(tmp_path / "settings.yaml"))

    def epoch(trainer: TimedTrainer, seconds_per_step: float) -> None:
        trainer.on_train_epoch_start()
        clock.now += seconds_per_step * trainer.num_iterations_per_epoch
        trainer.on_train_epoch_end([{}] * trainer.num_iterations_per_epoch)
        trainer.current_epoch += 1

    timed = TimedTrainer({}, "3d_fullres", 0, {})
    timed.initialize()
    return SimpleNamespace(it=timed, epoch=epoch)


def test_the_time_is_shared_out(trainer):
    for _ in range(5):
        trainer.epoch(trainer.it, 2.0)
    assert trainer.it.logger.get_value("steps", None) == [FIRST_STEPS, 12, 13, 12, 13]
    assert sum(trainer.it.logger.get_value("train_seconds", None)[1:]) == pytest.approx(100, abs=2)


def test_a_machine_that_becomes_slower_makes_fewer_steps(trainer):
    for seconds in (1.0, 1.0, 4.0, 4.0, 4.0):
        trainer.epoch(trainer.it, seconds)
    steps = trainer.it.logger.get_value("steps", None)
    assert steps[1] > steps[4]
    assert sum(trainer.it.logger.get_value("train_seconds", None)[1:]) < 160


def test_a_network_that_is_compiled_first_loses_no_time(trainer):
    """A first epoch at a hundredth of the speed: what follows is as if it had been fast."""
    for seconds in (100.0, 1.0, 1.0, 1.0, 1.0):
        trainer.epoch(trainer.it, seconds)
    assert sum(trainer.it.logger.get_value("train_seconds", None)[1:]) == pytest.approx(100, abs=2)


def test_at_least_a_step_is_made(trainer):
    trainer.it.seconds = 1.0
    for _ in range(5):
        trainer.epoch(trainer.it, 2.0)
    assert trainer.it.logger.get_value("steps", None) == [FIRST_STEPS, 1, 1, 1, 1]


def test_adamw(trainer):
    network = torch.nn.Linear(2, 2)
    made = SimpleNamespace(network=network, num_epochs=10)
    optimizer, scheduler = TimedAdamWTrainer.configure_optimizers(made)
    assert isinstance(optimizer, torch.optim.AdamW)
    rates = []
    for epoch in range(10):
        scheduler.step(epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([3e-3 * (1 - epoch / 10) ** 0.9 for epoch in range(10)])
