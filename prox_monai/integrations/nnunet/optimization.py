"""A step of the optimizer from several subnets' gradients, as nnU-Net makes it from one's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from prox_monai.integrations.nnunet.trainer import ProXTrainer

_MAX_NORM = 12  # nnU-Net's


class EpochScheduler:
    """nnU-Net calls ``step(epoch)``; the steps in between set their own learning rate."""

    def __init__(self, trainer: ProXTrainer) -> None:
        self._trainer = trainer

    def step(self, epoch: int) -> None:
        """Set the learning rate with which an epoch begins."""
        self._trainer.set_learning_rate(epoch)


def backward(loss: Tensor, scaler: torch.amp.GradScaler | None) -> None:
    """Add the gradient of a loss to those that are there."""
    (loss if scaler is None else scaler.scale(loss)).backward()


def optimize(network: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None) -> None:
    """Clip the gradients as nnU-Net does, and make the optimizer's step."""
    if scaler is not None:
        scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(network.parameters(), _MAX_NORM)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
