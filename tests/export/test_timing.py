"""Networks take turns, and warming up is not timed."""

from __future__ import annotations

import time

import torch

from prox_monai.export.timing import side_by_side


def test_turns():
    calls = []

    def slow(x):
        calls.append("slow")
        time.sleep(0.2 if len(calls) < 3 else 0.02)

    def fast(x):
        calls.append("fast")

    times = side_by_side({"slow": slow, "fast": fast}, torch.zeros(1), repeats=3, warmup=1)
    assert calls == ["slow", "fast"] * 4
    assert 20 <= times["slow"] < 100
    assert times["fast"] < 5
