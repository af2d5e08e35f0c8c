from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from prox_monai.export.runtimes import RUNTIMES, make_runtime

SHAPE = (1, 8, 12, 8)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4, affine=True), nn.LeakyReLU(), nn.Conv3d(4, 2, 1)
    )


@pytest.mark.parametrize(
    ("name", "tolerance"), [("torch", 1e-6), ("onnxruntime", 1e-5), ("openvino", 1e-5), ("openvino-int8", 0.5)]
)
def test_a_runtime_gives_what_the_network_gives(network, name, tolerance):
    for package in {
        "onnxruntime": ["onnx", "onnxruntime"],
        "openvino": ["openvino"],
        "openvino-int8": ["openvino", "nncf"],
    }.get(name, []):
        pytest.importorskip(package)
    runtime = make_runtime(name, network, SHAPE, 1)
    x = torch.rand(1, *SHAPE)
    with torch.no_grad():
        expected = network.eval()(x)
    assert (runtime(x) - expected).abs().max() <= tolerance
    assert runtime.version
    assert runtime.device.startswith("cpu")


def test_torch_has_the_threads_that_it_is_given_for_passes_only():
    before, seen = torch.get_num_threads(), []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return x

    make_runtime("torch", Spy(), SHAPE, before + 1)(torch.rand(1, *SHAPE))
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_an_unknown_runtime_is_named(network):
    with pytest.raises(
        ValueError, match="runtime must be one of torch, onnxruntime, openvino, openvino-int8, got 'trt'"
    ):
        make_runtime("trt", network, SHAPE, 1)


@pytest.mark.parametrize(
    ("name", "package"), [("onnxruntime", "onnx"), ("openvino", "openvino"), ("openvino-int8", "openvino")]
)
def test_an_absent_runtime_names_the_extra(network, name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r'pip install "prox-monai\[export\]"'):
        make_runtime(name, network, SHAPE, 1)


def test_names_are_those_of_the_command():
    from prox_monai.commands.search import RUNTIMES as NAMES

    assert tuple(RUNTIMES) == NAMES
