"""nnU-Net's own trainer, stopped by the clock: the folder of this file belongs into ``nnUNet_extTrainer``.

The YAML file that ``PROX_STOCK`` names has ``seconds`` (of training steps with their data loading), ``epochs`` and
``seed``, and perhaps ``threads``. Network, batch size, optimizer, learning rate per epoch, augmentation and mirroring
are nnU-Net's defaults.
The first epoch has four steps, in which a network may be compiled; its time does not count. Each later one has as many
as the time that is left allows for it at the speed of the one before, so that the learning rate has come down to
nnU-Net's last value when the time is spent. Validation between epochs is one batch. Without worker processes, batches
are made as ``ProXTrainer`` makes them.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from prox_monai.integrations.nnunet.repeatable import make_repeatable

FIRST_STEPS = 4
ADAMW_RATE = 3e-3  # as ProXTrainer's default


class TimedTrainer(nnUNetTrainer):
    """nnU-Net's trainer with its own SGD, for so many seconds."""

    def initialize(self) -> None:
        """Read what it is to do, then build as nnU-Net does."""
        settings = yaml.safe_load(Path(os.environ["PROX_STOCK"]).read_text(encoding="utf-8"))
        self.seconds, self.num_epochs = settings["seconds"], settings["epochs"]
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = FIRST_STEPS, 1
        self.save_every = 1
        self.seed = settings["seed"]
        torch.manual_seed(self.seed)
        np.random.seed(self.seed)
        if settings.get("threads"):
            torch.set_num_threads(settings["threads"])
        self.logger.local_logger.my_fantastic_logging |= {"train_seconds": [], "steps": []}
        super().initialize()

    def get_dataloaders(self):
        """As nnU-Net does; without worker processes, batches are functions of seed, epoch and step."""
        return tuple(
            make_repeatable(loader, lambda name=name: (self.seed, name, self.current_epoch))
            for loader, name in zip(super().get_dataloaders(), ("training", "validation"), strict=True)
        )

    def on_train_epoch_start(self) -> None:
        """Share out the time that is left, then start the clock."""
        super().on_train_epoch_start()
        seconds, steps = (self.logger.get_value(name, None) for name in ("train_seconds", "steps"))
        if steps:
            share = (self.seconds - sum(seconds[1:])) / (self.num_epochs - self.current_epoch)
            self.num_iterations_per_epoch = max(1, round(share * steps[-1] / seconds[-1]))
        self._start = time.perf_counter()

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """Log steps and seconds."""
        self.logger.log("train_seconds", time.perf_counter() - self._start, self.current_epoch)
        self.logger.log("steps", len(train_outputs), self.current_epoch)
        super().on_train_epoch_end(train_outputs)


class TimedAdamWTrainer(TimedTrainer):
    """The same with AdamW, and nnU-Net's polynomial decay of the learning rate."""

    def configure_optimizers(self):
        """Return AdamW with torch's weight decay, and nnU-Net's scheduler."""
        self.initial_lr = ADAMW_RATE
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=self.initial_lr)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)
