"""What a run shows, without a run."""

from __future__ import annotations

import copy
import json
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from prox_monai.integrations.nnunet.progress import ProgressLog, StepReport, dice_of
from prox_monai.integrations.nnunet.settings import ProXSettings
from prox_monai.space import PhaseSchedule, SearchSpace

SPACE = SearchSpace(1, (1, 2), (1.0,), (3,))
SCHEDULE = PhaseSchedule.prox(SPACE, 4)


def counts(tp, fp, fn) -> dict[str, np.ndarray]:
    return {"tp_hard": np.array(tp), "fp_hard": np.array(fp), "fn_hard": np.array(fn)}


def run(folder, epochs: range, before: dict | None = None, dice: float = 0.5) -> ProgressLog:
    """Log these epochs, after those of a checkpoint."""
    log = ProgressLog()
    if before is not None:
        log.load_checkpoint(copy.deepcopy(before))
    log.open(folder, ProXSettings(), SCHEDULE, write=True)
    for epoch in epochs:
        log.begin_epoch(SCHEDULE.phase_at(epoch), epoch, 4, 1)
        costs = SimpleNamespace(at=lambda size: lambda config: size[0])
        log.end_step([StepReport(SPACE.smallest(), (8, 8), torch.tensor(0.1), None)], costs)
        log.end_training(2)
        values = {"dice_smallest": dice, "mean_fg_dice": dice, "dice_per_class_or_region": [dice]}
        for name in ("train_losses", "val_losses", "lrs", "epoch_start_timestamps", "epoch_end_timestamps"):
            values[name] = 0.1
        for name, value in values.items():
            log.log(name, value, epoch)
        log.end_epoch()
    log.close()
    return log


def test_dice_of_all_batches():
    batches = [counts([1, 0, 0], [1, 0, 0], [0, 0, 2]), counts([2, 0, 0], [0, 0, 1], [1, 0, 0])]
    assert dice_of(batches) == pytest.approx((6 / 8 + 0) / 2)  # the second label is nowhere


def test_without_any_foreground_there_is_no_dice_and_no_warning():
    assert math.isnan(dice_of([counts([0, 0], [0, 0], [0, 0])]))


def test_phases_are_json_where_there_is_no_dice(tmp_path):
    run(tmp_path, range(4), dice=math.nan)
    rows = json.loads((tmp_path / "phases.json").read_text(), parse_constant=pytest.fail)
    assert [row["epochs"] for row in rows] == [2, 2]
    assert [row["multiply_adds_1e9"] for row in rows] == pytest.approx([2 * 2 * 8 / 1e9] * 2)
    assert {row[name] for row in rows for name in ("dice_smallest", "dice_largest")} == {None}


def test_steps_that_are_done_again_are_shown_once(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    saved = run(tmp_path, range(2), dice=0.1).get_checkpoint()
    run(tmp_path, range(2, 4), saved, dice=0.2)  # killed here
    run(tmp_path, range(2, 4), saved, dice=0.3)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("dice_smallest")
    assert [event.step for event in events] == [0, 1, 2, 3]
    assert [event.value for event in events] == pytest.approx([0.1, 0.1, 0.3, 0.3])


@pytest.mark.parametrize("write", [True, False])
def test_one_rank_shows_a_bar(tmp_path, monkeypatch, write):
    monkeypatch.setattr(
        sys, "stderr", SimpleNamespace(isatty=lambda: True, write=lambda text: None, flush=lambda: None)
    )
    log = ProgressLog()
    log.open(tmp_path, ProXSettings(), SCHEDULE, write=write)
    log.begin_epoch(SCHEDULE.phases[0], 0, 4, 1)
    assert log._bar.disable is not write
    log._bar.close()
    log.close()
