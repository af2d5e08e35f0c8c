from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

collect_ignore_glob = [] if importlib.util.find_spec("nnunetv2") else ["test_*.py"]
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # as for `python benchmarks/paper.py`


@pytest.fixture
def result() -> Callable[..., dict[str, Any]]:
    """Makes up the result of a unit."""

    def make(method: str, mean: float = 0.8, seconds: float = 100.0, seed: int = 0, **others: Any) -> dict[str, Any]:
        scores = [mean - 0.02, mean, mean + 0.02]
        return {
            "method": method,
            "seed": seed,
            "fold": 0,
            "trainer": "ProXTrainer",
            "settings": {"preset": method, "iterations_per_epoch": 2, "seed": seed},
            "cases": 2,
            "date": "2026-01-01",
            "environment": {"device": "a processor", "cores": 2, "torch": "2.9"},
            "train_seconds": seconds,
            "train_seconds_without_polish": 0.75 * seconds,
            "multiply_adds_1e9": 10 * seconds,
            "phases": [
                {"phase": 0, "stage": "depth"},
                {"phase": 1, "stage": "width", "loss_before": 0.5, "loss_after": 0.51},
                {"phase": 2, "stage": "kernel", "loss_before": 0.5, "loss_after": 0.52},
            ],
            "curve": {
                "loss": [0.9, 0.7, 0.6, 0.5],
                "seconds": [seconds / 4] * 4,
                "stage": ["depth", "depth", "width", "kernel"],
                "phase": [0, 0, 1, 2],
            },
            "named": {"smallest": mean - 0.01, "middle": mean, "largest": mean + 0.01},
            "largest_dice_per_case": {"a": mean, "b": mean + 0.02},
            "dice": {"subnets": 3, "mean": mean, "min": min(scores), "max": max(scores)},
            "subnets": [[f"net{i}", 1e9, 10.0 + i, score] for i, score in enumerate(scores)],
            "measured_on": {"device": "a processor", "threads": 2, "torch": "2.9"},
            **others,
        }

    return make
