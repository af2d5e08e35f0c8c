"""The learning rate as a pure function of progress."""

from __future__ import annotations

import math
from typing import Literal, get_args

from prox_monai.space import PhaseSchedule

Decay = Literal["phase", "fine_tuning", "training", "constant"]
DECAYS: tuple[Decay, ...] = get_args(Decay)

WARMUP = 0.1
FLOOR = 0.1
FINE_TUNING = 0.25


def learning_rate(schedule: PhaseSchedule, position: float, peak: float, decay: Decay = "phase") -> float:
    """Return the learning rate at a position in the training.

    ``"phase"`` warms up linearly over the first tenth of every phase and follows a cosine to a tenth of the peak,
    in the last phase to 0. ``"fine_tuning"`` does so with a quarter of the peak after the first phase: once-for-all
    trains its largest network at a high rate and fine-tunes it for smaller ones at lower rates (Cai et al., ICLR 2020,
    section 4.1). ``"training"`` warms up and decays once, over all phases: what opens later learns more slowly.
    ``"constant"`` is the peak throughout, the paper's choice.

    Args:
        schedule: the phases.
        position: epochs done, with fractions for the steps of the present one.
        peak: the largest learning rate.
        decay: which of the four.

    Raises:
        ValueError: When ``decay`` is unknown.
    """
    if decay not in DECAYS:
        raise ValueError(f"decay must be one of {DECAYS}, got {decay!r}.")
    if decay == "constant":
        return peak
    if decay == "training":
        return peak * _warmed_and_decayed(position / schedule.total_epochs, floor=0.0)
    phase = schedule.phase_at(int(position))
    done = (position - schedule.first_epoch(phase)) / phase.epochs
    of_phase = peak * FINE_TUNING if decay == "fine_tuning" and phase.index > 0 else peak
    return of_phase * _warmed_and_decayed(done, floor=0.0 if phase is schedule.phases[-1] else FLOOR)


def _warmed_and_decayed(done: float, floor: float) -> float:
    """The share of the peak, where this share of the way is done."""
    if done < WARMUP:
        return max(done / WARMUP, FLOOR)
    cosine = (1 + math.cos(math.pi * (done - WARMUP) / (1 - WARMUP))) / 2
    return floor + (1 - floor) * cosine
