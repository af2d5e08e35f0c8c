"""A tiny network, plain and at a fraction of the resolution."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from prox_monai.elastic.resolution import AtResolution

SHAPE = (2, 8, 12, 8)

if any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf")):
    collect_ignore_glob = ["test_*.py"]


def tiny(resolution: float = 1.0) -> nn.Module:
    """Convolutions, instance norm, a strided and a transposed one, and a concatenation."""
    torch.manual_seed(0)
    network = Tiny().eval()
    return network if resolution == 1 else AtResolution(network, (2, 2, 2), resolution).eval()


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.high = nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.InstanceNorm3d(4, affine=True), nn.LeakyReLU(0.01))
        self.low = nn.Sequential(nn.Conv3d(4, 8, 3, 2, 1), nn.InstanceNorm3d(8, affine=True), nn.LeakyReLU(0.01))
        self.up = nn.ConvTranspose3d(8, 4, 2, 2)
        self.head = nn.Conv3d(8, 3, 1)

    def forward(self, x):
        high = self.high(x)
        return self.head(torch.cat([high, self.up(self.low(high))], 1))


@pytest.fixture(scope="session")
def shape() -> tuple[int, ...]:
    return SHAPE


@pytest.fixture(scope="session")
def networks() -> dict[str, nn.Module]:
    """By name; tests do not change them."""
    return {"plain": tiny(), "half": tiny(0.5)}


@pytest.fixture
def patches(shape) -> list[torch.Tensor]:
    return [torch.randn(1, *shape) for _ in range(4)]
