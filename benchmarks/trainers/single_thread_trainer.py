"""``ProXTrainer`` on one CPU thread, so that several trainings can share a machine."""

from __future__ import annotations

import torch

from prox_monai.integrations.nnunet.trainer import ProXTrainer


class SingleThreadProXTrainer(ProXTrainer):
    """``ProXTrainer`` on one CPU thread: nnU-Net sets their number to that of the cores, whatever OMP_NUM_THREADS says.

    With OMP_THREAD_LIMIT instead, torch waits for threads that never come.
    """

    def initialize(self) -> None:
        """As ``ProXTrainer`` does, after nnU-Net has set the number of threads."""
        torch.set_num_threads(1)
        super().initialize()
