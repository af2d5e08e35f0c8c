"""What an expansion did to a training: the loss just before and just after it, and its gain on unseen cases."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import distributed
from torch.amp import autocast

from prox_monai.evaluation.subnets import split_cases
from prox_monai.integrations.nnunet.scoring import CaseScorer, fold_cases
from prox_monai.space import Phase, PhaseSchedule, SubnetConfig
from prox_monai.training.distillation import as_list
from prox_monai.training.expansion_stop import Gain, paired_gain

if TYPE_CHECKING:
    from prox_monai.integrations.nnunet.trainer import ProXTrainer

FIXED_BATCHES = 8


@contextmanager
def opening(trainer: ProXTrainer) -> Iterator[None]:
    """Log the loss of the largest subnet before and after what the block does, where that begins an expansion.

    A spike between the two is what ProX's figure 6 shows.
    """
    schedule, epoch = trainer.schedule, trainer.current_epoch
    phase = schedule.phase_at(epoch)
    before = _before(schedule, phase) if epoch == schedule.first_epoch(phase) else None
    if before is None:
        yield
        return
    loss_before = fixed_loss(trainer, before.largest())
    yield
    loss_after = fixed_loss(trainer, phase.largest())
    trainer.logger.local_logger.expanded(phase, epoch, {"loss_before": loss_before, "loss_after": loss_after})
    trainer.print_to_log_file(
        f"Expansion to phase {phase.index + 1} ({phase.stage}): loss of the largest subnet {loss_before:.4f} before, "
        f"{loss_after:.4f} after (cross entropy + 1 - Dice, {FIXED_BATCHES} fixed batches)"
    )


@torch.no_grad()
def fixed_loss(trainer: ProXTrainer, config: SubnetConfig) -> float:
    """Return cross entropy + (1 - soft Dice) of a subnet, a mean over the trainer's fixed validation batches.

    It is nnU-Net's own loss, of the output at full resolution, plus 1. The network is left in evaluation mode.
    """
    task = trainer.loss.task_loss
    task = task.loss if isinstance(task, DeepSupervisionWrapper) else task
    trainer.network.eval()
    trainer.supernet.activate(config)
    losses = []
    for batch in trainer.fixed_batches:
        target = as_list(batch["target"])[0].to(trainer.device)
        with autocast("cuda") if trainer.device.type == "cuda" else nullcontext():
            output = as_list(trainer.supernet(batch["data"].to(trainer.device)))[0]
            losses.append(float(task(output, target)) + 1)
    return statistics.fmean(losses)


def dimension_ends(trainer: ProXTrainer) -> bool:
    """Log what the phase that ends has gained, if it was an expansion, and say whether its dimension ends.

    Old and new largest subnet are scored with the present weights on whole cases of the tuning half of the fold
    (ProX, section 4.2); processes share the cases and come to the same answer.
    """
    phase, settings = trainer.training.phase, trainer.settings
    before = _before(trainer.schedule, phase)
    if before is None or settings.expansion == "off":
        return False
    try:
        gain, reason = _gain(trainer, before.largest(), phase.largest()), None
    except (FileNotFoundError, ValueError) as error:
        gain, reason = None, str(error)
    found = {"gain": None, "reason": reason} if gain is None else {"gain": gain.to_dict()}
    trainer.logger.local_logger.expanded(phase, trainer.current_epoch, found)
    said = f"unknown: {reason}" if gain is None else _described(gain, phase, stop=settings.expansion == "stop")
    trainer.print_to_log_file(f"Expansion gain of phase {phase.index + 1} ({phase.stage}): {said}")
    return gain is not None and gain.decision == "ends" and settings.expansion == "stop"


def _before(schedule: PhaseSchedule, phase: Phase) -> Phase | None:
    """The phase before an expansion; None where the largest subnet does not become larger."""
    before = schedule.phases[phase.index - 1] if phase.index else None
    return before if before is not None and before.largest() != phase.largest() else None


@dataclass(frozen=True, slots=True)
class _Planned:
    plans_manager: PlansManager
    configuration: ConfigurationManager
    labels: LabelManager
    dataset_json: dict[str, Any]


def _gain(trainer: ProXTrainer, old: SubnetConfig, new: SubnetConfig) -> Gain:
    cases = split_cases(fold_cases(trainer.preprocessed_dataset_folder_base, trainer.fold))[0]
    if len(cases) < 2:
        raise ValueError(f"the tuning half of fold {trainer.fold} has {len(cases)} case, an interval needs 2.")
    mine = cases[distributed.get_rank() :: distributed.get_world_size()] if trainer.is_ddp else cases
    trainer.set_deep_supervision_enabled(False)
    try:
        scores = _dice_per_case(trainer, (old, new), mine)
    finally:
        trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    if trainer.is_ddp:
        parts: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(parts, scores)
        scores = [{case: dice for part in parts for case, dice in part[i].items()} for i in range(2)]
    return paired_gain(*scores, trainer.settings.expansion_delta)


def _dice_per_case(trainer: ProXTrainer, configs: Sequence[SubnetConfig], cases: list[str]) -> list[dict[str, float]]:
    """Mean foreground Dice per case, of each subnet; NaN where neither truth nor prediction has any foreground."""
    if not cases:
        return [{} for _ in configs]
    planned = _Planned(
        trainer.plans_manager, trainer.configuration_manager, trainer.label_manager, trainer.dataset_json
    )
    score = CaseScorer(planned, trainer.preprocessed_dataset_folder_base, cases, trainer.device)
    return [_means(score(trainer.supernet.extract(config).eval())) for config in configs]


def _means(per_label: Mapping[str, Mapping[Any, float]]) -> dict[str, float]:
    present = {case: [dice for dice in labels.values() if not math.isnan(dice)] for case, labels in per_label.items()}
    return {case: statistics.fmean(dices) if dices else math.nan for case, dices in present.items()}


def _described(gain: Gain, phase: Phase, *, stop: bool) -> str:
    if gain.mean is None or gain.upper is None:
        return f"unknown: {gain.cases} tuning cases have a Dice of both subnets, an interval needs 2."
    ended = f"no more candidates of {phase.stage}" if stop else "the rule would end this dimension"
    return (
        f"{gain.mean:+.4f} Dice over {gain.cases} tuning cases, 95 % interval {gain.low:+.4f} ... {gain.high:+.4f}, "
        f"90 % upper bound {gain.upper:+.4f}; below {gain.delta:g} it would gain nothing: "
        f"{ended if gain.decision == 'ends' else 'goes on'}"
    )
