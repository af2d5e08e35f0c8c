"""What a run shows while it trains: nnU-Net's log and ``progress.png``, TensorBoard, a bar, ``phases.json``."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from prox_monai.evaluation.multiply_adds import MultiplyAdds
from prox_monai.integrations.nnunet.checkpoint import plain
from prox_monai.integrations.nnunet.settings import ProXSettings
from prox_monai.space import Dimension, Phase, PhaseSchedule, SubnetConfig

_LISTS = (
    "phase",
    "stage",
    "task_losses",
    "distillation_losses",
    "dice_smallest",
    "train_seconds",
    "multiply_adds",
)


@dataclass(frozen=True, slots=True)
class StepReport:
    """A subnet in a training step, the size of its patch, and the terms of its loss as scalars (no teacher: no
    distance)."""

    config: SubnetConfig
    size: tuple[int, ...]
    task: Tensor
    distance: Tensor | None


class ProgressLog(LocalLogger):
    """nnU-Net's logger with what an expansion adds, one value per epoch each.

    ``train_seconds`` is the wall time of the training steps with data loading, without validation;
    ``multiply_adds`` those of the forward passes of the sampled subnets, without a teacher's, in 10^9. ``expansions``
    holds, per index of a phase that expanded, what that did; ``schedule`` the phases, which a stop makes fewer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.my_fantastic_logging |= {name: [] for name in _LISTS}
        self.validated_smallest: list[dict] = []
        self._writer: SummaryWriter | None = None
        self._folder: Path | None = None
        self.schedule: PhaseSchedule | None = None
        self.expansions: dict[int, dict[str, Any]] = {}
        self._reports: list[StepReport] = []
        self._bar: tqdm | None = None

    def log(self, key: str, value: Any, epoch: int) -> None:
        """Log one value per epoch, as a checkpoint holds it: averages go on with it bit by bit after a resume."""
        super().log(key, plain(value), epoch)

    def open(self, folder: Path, settings: ProXSettings, schedule: PhaseSchedule, *, write: bool) -> None:
        """Begin a run, or continue it after the epochs logged; the settings are written beside the checkpoints."""
        self.schedule = schedule
        if write:
            self._folder = folder
            epoch = len(self.my_fantastic_logging["phase"])
            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=epoch)
            (folder / "prox_settings.json").write_text(json.dumps(settings.to_dict(), indent=2))

    def describe(self, phase: Phase, phases: int, teacher: SubnetConfig | None = None) -> str:
        """Return the line that announces a phase, one of so many, and the teacher if it has one."""
        candidates = ", ".join(f"{d} {list(phase.space.candidates(d))}" for d in Dimension)
        return (
            f"Phase {phase.index + 1} of {phases}, stage {phase.stage}: {candidates}; "
            f"{phase.space.size()} subnets, {phase.epochs} epochs{f'; teacher {teacher}' if teacher else ''}"
        )

    def begin_epoch(self, phase: Phase, epoch: int, epochs: int, steps: int) -> None:
        """Start the clock and, in the terminal of the rank that writes, the bar."""
        self._reports, self._counted, self.validated_smallest = [], 0, []
        self._phase, self._epoch, self._start = phase, epoch, time.perf_counter()
        self._bar = tqdm(
            total=steps,
            desc=f"epoch {epoch + 1}/{epochs}, phase {phase.index + 1} ({phase.stage})",
            disable=self._folder is None or not sys.stderr.isatty(),
            leave=False,
        )

    def end_step(self, reports: Sequence[StepReport], multiply_adds: MultiplyAdds) -> None:
        """Take in a step, in which these subnets were trained; they are counted while they are built."""
        self._reports += reports
        self._counted += sum(multiply_adds.at(report.size)(report.config) for report in reports)
        self._bar.update()

    def end_training(self, batch_size: int) -> None:
        """Log what the steps of the epoch gave and cost."""
        seconds = time.perf_counter() - self._start
        self._bar.close()
        distances = [float(r.distance) for r in self._reports if r.distance is not None]
        values = {
            "phase": self._phase.index,
            "stage": str(self._phase.stage),
            "task_losses": float(np.mean([float(r.task) for r in self._reports])),
            "distillation_losses": float(np.mean(distances)) if distances else 0.0,
            "train_seconds": seconds,
            "multiply_adds": self._counted * batch_size / 1e9,
        }
        for name, value in values.items():
            self.log(name, value, self._epoch)

    def expanded(self, phase: Phase, epoch: int, found: Mapping[str, Any]) -> None:
        """Log what an expansion did: numbers, or groups of numbers, by name."""
        self.expansions[phase.index] = {**self.expansions.get(phase.index, {}), **found}
        if self._writer is None:
            return
        for name, value in found.items():
            for part, number in value.items() if isinstance(value, dict) else [("", value)]:
                if isinstance(number, (int, float)):
                    self._writer.add_scalar("/".join(filter(None, ("expansion", name, part))), number, epoch)

    def end_epoch(self) -> None:
        """Write TensorBoard's scalars and, at the end of a phase, ``phases.json``."""
        if self._folder is None:
            return
        lists = self.my_fantastic_logging
        names = (
            "phase",
            "task_losses",
            "distillation_losses",
            "train_losses",
            "val_losses",
            "dice_smallest",
            "lrs",
        )
        for name in names:
            self._writer.add_scalar(name, lists[name][-1], self._epoch)
        self._writer.add_scalar("dice_largest", lists["mean_fg_dice"][-1], self._epoch)
        for name in ("train_seconds", "multiply_adds"):
            self._writer.add_scalar(f"total_{name}", sum(lists[name]), self._epoch)
        self._writer.flush()
        (self._folder / "phases.json").write_text(json.dumps(self._phases(), indent=2))

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self._writer is not None:
            self._writer.close()

    def plot_progress_png(self, output_folder: str) -> None:
        """Draw losses, Dice, learning rate and cost over the epochs, with the phases marked."""
        lists = self.my_fantastic_logging
        epochs = range(min(len(values) for name, values in lists.items()))
        panels: list[tuple[str, dict[str, Sequence[Any]]]] = [
            (
                "loss",
                {
                    "sampled subnets": lists["train_losses"],
                    "task term": lists["task_losses"],
                    "distillation term": lists["distillation_losses"],
                    "validation, largest": lists["val_losses"],
                },
            ),
            (
                "pseudo Dice",
                {
                    "largest of the phase": lists["mean_fg_dice"],
                    "smallest": lists["dice_smallest"],
                    "largest, moving average": lists["ema_fg_dice"],
                },
            ),
            ("learning rate", {"learning rate": lists["lrs"]}),
            ("training time (s, total)", {"seconds": np.cumsum(lists["train_seconds"])}),
            (
                "forward multiply-adds (10$^{12}$, total)",
                {"multiply-adds": np.cumsum(lists["multiply_adds"]) / 1e3},
            ),
        ]
        figure, axes = plt.subplots(len(panels), 1, figsize=(10, 16), sharex=True, layout="constrained")
        for axis, (label, curves) in zip(axes, panels, strict=True):
            for name, values in curves.items():
                axis.plot(epochs, values[: len(epochs)], label=name)
            axis.set_ylabel(label)
            axis.legend(loc="best", fontsize="small")
            axis.grid(alpha=0.3)
            self._mark_phases(axis)
        axes[-1].set_xlabel("epoch")
        figure.savefig(Path(output_folder, "progress.png"), dpi=100)
        plt.close(figure)

    def _mark_phases(self, axis: plt.Axes) -> None:
        for phase in self.schedule.phases:
            start = self.schedule.first_epoch(phase)
            if start <= self._epoch:
                axis.axvline(start, color="grey", linestyle=":", linewidth=1)
                axis.text(start, 1.01, str(phase.stage), transform=axis.get_xaxis_transform(), fontsize="small")

    def _phases(self) -> list[dict[str, Any]]:
        lists = self.my_fantastic_logging
        rows = []
        for phase in self.schedule.phases:
            epochs = [i for i, index in enumerate(lists["phase"]) if index == phase.index]
            if epochs:
                rows.append(
                    {
                        "phase": phase.index,
                        "stage": str(phase.stage),
                        "space": phase.space.to_dict(),
                        "epochs": len(epochs),
                        "train_seconds": sum(lists["train_seconds"][i] for i in epochs),
                        "multiply_adds_1e9": sum(lists["multiply_adds"][i] for i in epochs),
                        "dice_smallest": _finite(lists["dice_smallest"][epochs[-1]]),
                        "dice_largest": _finite(lists["mean_fg_dice"][epochs[-1]]),
                        **self.expansions.get(phase.index, {}),
                    }
                )
        return rows


def dice_of(outputs: list[dict]) -> float:
    """Return the mean foreground Dice over the voxels of all validation batches ("pseudo Dice").

    A label that neither truth nor prediction has does not count; without any label it is NaN.
    """
    tp, fp, fn = (np.sum([output[key] for output in outputs], axis=0) for key in ("tp_hard", "fp_hard", "fn_hard"))
    counted = 2 * tp + fp + fn
    there = counted > 0
    return float(np.mean(2 * tp[there] / counted[there])) if there.any() else math.nan


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if math.isfinite(value) else None
