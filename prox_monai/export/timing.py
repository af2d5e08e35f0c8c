"""Milliseconds of networks side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor


@torch.inference_mode()
def side_by_side(
    networks: Mapping[str, Callable[[Tensor], Tensor]], patch: Tensor, *, repeats: int = 9, warmup: int = 2
) -> dict[str, float]:
    """Return the median time of one pass of each network, in milliseconds.

    The networks take turns, so that whatever else the machine does slows all of them down.

    Args:
        networks: by name.
        patch: input ``(1, C, *spatial)``.
        repeats: timed passes of each.
        warmup: passes before them.
    """
    times: dict[str, list[float]] = {name: [] for name in networks}
    for turn in range(warmup + repeats):
        for name, network in networks.items():
            start = time.perf_counter()
            network(patch)
            if turn >= warmup:
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}
