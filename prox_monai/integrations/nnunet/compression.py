"""int8, and what is done where it costs too much Dice."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from prox_monai.export.formats import MAX_DICE_DROP, PRECISIONS
from prox_monai.export.openvino import OpenVinoRuntime, convert_openvino, save_openvino
from prox_monai.export.quantize import quantize_openvino, quantize_trainable, quantize_within, uncompiled
from prox_monai.export.runtime import Runtime, RuntimeNetwork
from prox_monai.integrations.nnunet.calibration import Cases
from prox_monai.integrations.nnunet.finetune import finetune
from prox_monai.integrations.nnunet.scoring import mean_dice
from prox_monai.training.distillation import Distillation

if TYPE_CHECKING:
    import openvino

logger = logging.getLogger(__name__)

DISTILLATION = Distillation(weight=0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """A precision, and how it is reached.

    Args:
        precision: ``fp32``, ``fp16`` or ``int8``.
        max_dice_drop: by how much the mean Dice may be below the plain subnet's.
        accuracy_aware: of ``int8``: keep those layers in floating point that cost the most Dice, until it fits.
        finetune: optimizer steps of a fine-tuning with distillation from the largest subnet, before anything else; of
            ``int8`` the same number again with quantisation in place, where the drop is above the limit. The other way
            of bringing it back, so not together with ``accuracy_aware``.

    Raises:
        ValueError: When a value is not allowed, or the values do not go together.
    """

    precision: str = "fp32"
    max_dice_drop: float = MAX_DICE_DROP
    accuracy_aware: bool = False
    finetune: int = 0

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"--precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}.")
        if not 0 <= self.max_dice_drop <= 1:
            raise ValueError(f"--max-dice-drop must be in [0, 1], got {self.max_dice_drop!r}.")
        if self.finetune < 0:
            raise ValueError(f"--finetune must be at least 0 steps, got {self.finetune!r}.")
        if self.accuracy_aware and self.precision != "int8":
            raise ValueError(f"--accuracy-aware is of --precision int8, got {self.precision!r}.")
        if self.accuracy_aware and self.finetune:
            raise ValueError("--accuracy-aware and --finetune are two ways to bring back Dice; give one of them.")

    @property
    def needs_cases(self) -> bool:
        """Whether Dice is to be compared."""
        return self.precision != "fp32" or self.finetune > 0

    def check(self, drop: float, what: str, cases: int) -> None:
        """Check a loss of mean Dice.

        Raises:
            RuntimeError: When it is above the limit; the message says what else can be tried.
        """
        if not drop <= self.max_dice_drop:
            options = []
            if self.precision == "int8" and not self.accuracy_aware:
                options.append("--accuracy-aware" + " instead of --finetune" * (self.finetune > 0))
            if not self.finetune:
                options.append("--finetune" + " instead of --accuracy-aware" * self.accuracy_aware)
            other = f"prox-monai export with {' or '.join(options)}, or " if options else ""
            raise RuntimeError(
                f"the mean Dice of {what} is {drop:.4f} below the plain subnet's on {cases} cases of the tuning half "
                f"(allowed: {self.max_dice_drop:g}). Nothing was written. "
                f"Try {other}a higher --max-dice-drop."
            )


def write_int8(
    cases: Cases, network: nn.Module, plain: nn.Module, folder: Path, compression: Compression
) -> tuple[tuple[str, ...], str]:
    """Quantise a subnet for OpenVINO and write it.

    Args:
        cases: what to calibrate on, and to compare on.
        network: the extracted subnet, which may have been fine-tuned.
        plain: the same as it was trained in the family; the limit is on what is given up of its Dice.
        folder: where to write.
        compression: the limit and the means.

    Returns:
        The names of the files, and how they were made.
    """
    shape = cases.model.input_shape
    patches = cases.calibration_patches()
    logger.info("int8: ranges of activations from %d patches of %d cases", len(patches), len(cases.training))
    model = convert_openvino(network, shape)
    if compression.accuracy_aware:
        model = quantize_within(model, patches, cases.tuning, partial(_attempt, cases), compression.max_dice_drop)
        return save_openvino(model, folder, compressed=True), "quantised after training, with accuracy control"
    model = quantize_openvino(model, patches)
    made = "quantised after training"
    if compression.finetune and _drop(cases, plain, model) > compression.max_dice_drop:
        logger.info("int8: the drop is above the limit; training %d steps with quantisation", compression.finetune)
        with uncompiled():
            trainable = quantize_trainable(network, patches)  # on a GPU it would need CUDA's compiler
            trained = finetune(cases.model, trainable, compression.finetune, DISTILLATION, on_cpu=True)
        model = convert_openvino(trained, shape)
        made = f"trained for {compression.finetune} steps with quantisation"
    return save_openvino(model, folder, compressed=True), made


def _drop(cases: Cases, plain: nn.Module, model: openvino.Model) -> float:
    return cases.dice(plain) - _dice(cases, OpenVinoRuntime(model, torch.get_num_threads(), exact=False))


def _attempt(cases: Cases, runtime: Runtime, some: list[str]) -> tuple[float, list[float]]:
    """Score one of NNCF's attempts; there are a few for every layer."""
    scores = cases.scores(RuntimeNetwork(runtime, cases.model.input_shape).eval(), some)
    dice = mean_dice(scores)
    logger.info("int8: an attempt has mean Dice %.4f on %d cases", dice, len(some))
    return dice, [mean_dice({case: labels}) for case, labels in scores.items()]


def _dice(cases: Cases, runtime: Runtime) -> float:
    return cases.dice(RuntimeNetwork(runtime, cases.model.input_shape).eval())
