"""Data that are converted, planned and preprocessed once, and nnU-Net's training command on them."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import torch

from comparison.methods import total_epochs
from prox_monai.demo.record import Record
from prox_monai.demo.run import Demo
from prox_monai.demo.stock import TrainingProgress, run_stock
from prox_monai.evaluation.cost import device_name
from prox_monai.integrations.nnunet.settings import CONFIG_VARIABLE
from prox_monai.integrations.nnunet.unseen import Half, choose_device
from prox_monai.plugin_files import plugin_folder

if TYPE_CHECKING:
    from comparison.units import Unit

CONFIGURATION = "3d_fullres"
TRAINERS_FOLDER = Path(__file__).parent.parent / "trainers"


class Workplace:
    """The output folder of a benchmark.

    Args:
        data: a folder in the Decathlon layout, or ``download`` for the official hippocampus data.
        output: where everything goes.
        device: ``cpu``, ``cuda`` or ``auto``.
        half: which of the unseen cases are scored.

    Raises:
        ValueError: When the data are not in order, or ``output`` holds a benchmark on other data.
        FileExistsError: When ``output`` holds something else.
        RuntimeError: When a command of nnU-Net fails, or the data cannot be downloaded.
    """

    def __init__(self, data: str, output: Path, device: str = "auto", half: Half = "reporting") -> None:
        self.output, self.half, self.stopped = output.absolute(), half, Event()
        self.device = choose_device(device)
        demo = Demo(data, self.output, self.device, cases=0, subnets=0)
        record = Record(self.output, demo.source, "bench")
        record.do("data", demo.folder / "dataset.json", demo.prepare)
        record.do("convert to nnU-Net's format", self.output / "nnUNet_raw", demo.convert)
        record.do("plan and preprocess with nnU-Net", self.output / "nnUNet_preprocessed", demo.plan)
        self.dataset = next((self.output / "nnUNet_raw").glob("Dataset*")).name
        self.preprocessed = self.output / "nnUNet_preprocessed" / self.dataset

    @property
    def short_name(self) -> str:
        """The name of the data set without its number, in small letters."""
        return self.dataset.partition("_")[2].lower()

    def results_name(self, benchmark: str, *, full: bool) -> str:
        """Return what the names of a benchmark's results begin with."""
        return f"{benchmark}_{self.short_name}{'_full' * full}"

    def fold_folder(self, unit: Unit) -> Path:
        """Return nnU-Net's folder of a unit's training; the model folder is above it."""
        model = f"{unit.method.trainer}__nnUNetPlans__{CONFIGURATION}"
        return unit.folder / "nnUNet_results" / self.dataset / model / f"fold_{unit.fold}"

    def train(self, unit: Unit, show: Callable[[str], None]) -> None:
        """Train with the stock command, or go on where a training was broken off.

        Args:
            unit: which; its settings file is there.
            show: is given every line of the output.

        Raises:
            RuntimeError: When the command fails.
            KeyboardInterrupt: When ``stopped`` is set, as another thread does that ends; the command ends, too.
        """
        folder, trainer = self.fold_folder(unit), unit.method.trainer
        final = folder / "checkpoint_final.pth"
        if final.exists() and (folder / "validation" / "summary.json").exists():
            return
        go_on = ["--val"] if final.exists() else ["--c"] if (folder / "checkpoint_latest.pth").exists() else []
        number = str(int(self.dataset[len("Dataset") :].partition("_")[0]))
        run_stock(
            "nnUNetv2_train",
            (number, CONFIGURATION, str(unit.fold), "-tr", trainer, "-device", self.device, *go_on),
            unit.folder / "train.log",
            {
                "nnUNet_raw": str(self.output / "nnUNet_raw"),
                "nnUNet_preprocessed": str(self.output / "nnUNet_preprocessed"),
                "nnUNet_results": str(unit.folder / "nnUNet_results"),
                "nnUNet_def_n_proc": "2",
                "nnUNet_extTrainer": os.pathsep.join([str(plugin_folder("nnunet")), str(TRAINERS_FOLDER)]),
                "PROX_STOCK" if unit.method.stock else CONFIG_VARIABLE: str(unit.settings_file),
                **({"nnUNet_n_proc_DA": "0"} if self.device == "cpu" else {}),
            },
            lambda line: self._show(line, show),
        )

    def _show(self, line: str, show: Callable[[str], None]) -> None:
        if self.stopped.is_set():
            raise KeyboardInterrupt
        show(line)


def progress(settings: dict[str, Any]) -> TrainingProgress:
    """Return what shows a line per epoch of a training with these settings."""
    return TrainingProgress(total_epochs(settings))


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return what a training's time depends on: processor or GPU, cores of the machine, and versions."""
    packages = {name: version(name) for name in ("torch", "nnunetv2", "prox-monai")}
    described = ("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty")
    commit = subprocess.run(described, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "device": device_name(device),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **packages,
        "commit": commit or None,
    }
