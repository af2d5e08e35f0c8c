"""int8 of a tiny network: near, integer, and trainable."""

from __future__ import annotations

import sys

import pytest
from torch.utils import cpp_extension

from prox_monai.export.openvino import OpenVinoRuntime, convert_openvino, save_openvino
from prox_monai.export.parity import compare
from prox_monai.export.quantize import quantize_openvino, quantize_trainable, quantize_within, uncompiled

pytestmark = pytest.mark.filterwarnings("default")  # the formats' own, when they are imported


class Again:
    """What can be gone through again, but not at will."""

    def __init__(self, patches):
        self._patches = patches

    def __iter__(self):
        return iter(self._patches)

    def __len__(self):
        return len(self._patches)


def quantisers(model) -> int:
    return sum(operation.get_type_name() == "FakeQuantize" for operation in model.get_ops())


def test_after_training(networks, shape, patches, tmp_path, capsys):
    model = quantize_openvino(convert_openvino(networks["plain"], shape), Again(patches))
    assert quantisers(model) > 0
    assert capsys.readouterr().out == ""
    save_openvino(model, tmp_path, compressed=True)
    runtime = OpenVinoRuntime(tmp_path / "model.xml", 1, exact=False)
    parity = compare(networks["plain"], runtime, patches)
    assert 1e-4 < parity.max_difference < parity.max_logit / 2
    assert parity.agreement > 0.9


def test_weights_do_not_overflow_on_processors_without_vnni(networks, shape, patches):
    """Seven bits: two products with activations of eight fit into sixteen."""
    model = quantize_openvino(convert_openvino(networks["plain"], shape), patches)
    constants = [operation for operation in model.get_ops() if operation.get_type_name() == "Constant"]
    weights = [each.get_data() for each in constants if each.get_data().dtype == "int8"]
    assert weights
    assert max(abs(each.astype(int)).max() for each in weights) <= 64


def test_resizing_stays_in_floating_point(networks, shape, patches):
    """A resolution below 1 adds no layer in 8 bits: as many quantisers as at full resolution."""
    plain, half = (quantize_openvino(convert_openvino(networks[name], shape), patches) for name in ("plain", "half"))
    assert quantisers(half) == quantisers(plain)
    operations = [operation.get_type_name() for operation in half.get_ops()]
    assert operations.count("MatMul") == 6
    assert "Interpolate" not in operations


def test_within_a_limit_that_nothing_exceeds(networks, shape, patches):
    model = quantize_within(
        convert_openvino(networks["plain"], shape),
        Again(patches),
        [1, 2],
        lambda runtime, cases: (1.0, [1.0] * len(cases)),
        0.01,
    )
    assert quantisers(model) > 0


def test_within_a_limit_that_only_the_plain_network_meets(networks, shape, patches):
    """Layers go back to floating point until the score is near enough."""
    plain = networks["plain"]

    def score(runtime, cases):
        values = [-compare(plain, runtime, [patches[case]]).max_difference for case in cases]
        return min(values), values

    full = quantize_openvino(convert_openvino(plain, shape), patches)
    kept = quantize_within(convert_openvino(plain, shape), patches, [0, 1], score, 1e-6)
    assert quantisers(kept) < quantisers(full)


@pytest.mark.parametrize("name", ["plain", "half"])
def test_in_training(name, networks, shape, patches, monkeypatch):
    monkeypatch.setattr(cpp_extension, "load", None)  # NNCF falls back on torch where nothing can be compiled
    network = quantize_trainable(networks[name], Again(patches))
    assert not any(hasattr(module, "__nncf__") for module in networks[name].modules())
    with uncompiled():
        network(patches[0]).square().mean().backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert any(gradient.abs().sum() > 0 for gradient in gradients)
    model = convert_openvino(network.eval(), shape)
    assert quantisers(model) > 0
    with uncompiled():
        parity = compare(network, OpenVinoRuntime(model, 1), patches)
    assert parity.max_difference < 0.2


def test_patches_are_needed(networks, shape):
    with pytest.raises(ValueError, match="int8 needs patches of training cases"):
        quantize_openvino(None, [])


def test_absent(patches, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ImportError, match=r'int8 needs an extra .*pip install "prox-monai\[export\]"'):
        quantize_openvino(None, patches)
