"""The learning rate as a pure function of progress."""

from __future__ import annotations

import math
from typing import Literal, get_args

from prox_monai.space import PhaseSchedule

Decay = Literal["phase", "constant"]
DECAYS: tuple[Decay, ...] = get_args(Decay)

WARMUP = 0.1
FLOOR = 0.1


def learning_rate(schedule: PhaseSchedule, position: float, peak: float, decay: Decay = "phase") -> float:
    """Return the learning rate at a position in the training.

    ``"phase"`` warms up linearly over the first tenth of every phase and follows a cosine to a tenth of the peak,
    in the last phase to 0. ``"constant"`` is the peak throughout, the paper's choice.

    Args:
        schedule: the phases.
        position: epochs done, with fractions for the steps of the present one.
        peak: the largest learning rate.
        decay: which of the two.

    Raises:
        ValueError: When ``decay`` is unknown.
    """
    if decay not in DECAYS:
        raise ValueError(f"decay must be one of {DECAYS}, got {decay!r}.")
    if decay == "constant":
        return peak
    phase = schedule.phase_at(int(position))
    done = (position - schedule.first_epoch(phase)) / phase.epochs
    if done < WARMUP:
        return peak * max(done / WARMUP, FLOOR)
    floor = 0.0 if phase is schedule.phases[-1] else FLOOR
    cosine = (1 + math.cos(math.pi * (done - WARMUP) / (1 - WARMUP))) / 2
    return peak * (floor + (1 - floor) * cosine)
