"""Extracted subnets of inverted residuals in the formats that networks are deployed in."""

from __future__ import annotations

import pytest
import torch

from prox_monai.elastic import Supernet
from prox_monai.space import SearchSpace, SubnetConfig
from prox_monai.space.groups import unet_groups

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.filterwarnings("default")  # the exporters' own

SPACE = SearchSpace(5, (1, 2), (0.5, 1.0), (3, 5), groups=unet_groups(3))


@pytest.fixture(params=[(2, False), (2, True), (3, False), (3, True)], ids=lambda p: f"{p[0]}d-reversible={p[1]}")
def exported(request, inverted, tmp_path):
    """A subnet of odd numbers of channels, an image, its logits, and the file that it was exported to."""
    dims, reversible = request.param
    supernet = Supernet(inverted(dims, reversible=reversible), SPACE, growth="host")
    network = supernet.extract(SubnetConfig.uniform(5, 2, 1.0, 5)).eval()
    x = torch.randn(1, 1, *(8, 16, 16)[-dims:])
    path = tmp_path / "subnet.onnx"
    torch.onnx.export(network, (x,), path, dynamo=True, verbose=False)
    with torch.no_grad():
        return x.numpy(), network(x).numpy(), path


def test_onnx(exported):
    runtime = pytest.importorskip("onnxruntime")
    x, expected, path = exported
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: x})
    assert abs(logits - expected).max() < 1e-4 * abs(expected).max()


def test_openvino(exported):
    openvino = pytest.importorskip("openvino")
    x, expected, path = exported
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    logits = openvino.compile_model(openvino.convert_model(path), "CPU", hints)(x)[0]
    assert abs(logits - expected).max() < 1e-4 * abs(expected).max()
