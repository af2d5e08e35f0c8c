from __future__ import annotations

from typing import Any

import pytest

from prox_monai.elastic import Supernet
from prox_monai.networks import UNetArchitecture
from prox_monai.space import SearchSpace


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Rows as ``evaluate_subnets`` makes them, as far as pictures and tables read them."""
    points = [
        ("smallest", 2.0, 0.79, 0.25, 0.8),
        ("d1-w.5-k3-r1", 4.0, None, 0.5, 1.0),
        ("middle", 5.0, 0.83, 0.25, 1.0),
        ("largest", 12.0, 0.86, 0.5, 1.0),
    ]
    return [
        {
            "name": name,
            "latency_ms": latency,
            "dice": dice,
            "config": {"width": [width] * 3, "resolution": resolution},
            "parameters": 1234567,
            "macs": 1.5e9,
        }
        for name, latency, dice, width, resolution in points
    ]


@pytest.fixture(scope="session")
def shape() -> tuple[int, ...]:
    """Of the images of ``unet``."""
    return (1, 16, 16)


@pytest.fixture(scope="session")
def unet() -> Supernet:
    """A 2-D U-Net of two levels with 256 subnets, whose networks take no time."""
    architecture = UNetArchitecture(2, 1, 3, (4, 8), ((1, 1), (2, 2)))
    groups = {"width": (0, 1, 0), "kernel": (0, 1, 0)}
    return Supernet(architecture, SearchSpace(3, (1, 2), (0.5, 1.0), (3, 5), (0.5, 1.0), groups)).eval()
