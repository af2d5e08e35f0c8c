"""Each format gives the plain network's logits, and is what its description says."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys

import pytest
import torch

from prox_monai.export.description import FILE, Description, file_digest, read_description
from prox_monai.export.exported import load_exported, open_runtime, write_network
from prox_monai.export.parity import compare
from prox_monai.export.runtime import RuntimeNetwork

FORMATS = ["onnx", "openvino", "torch"]
pytestmark = pytest.mark.filterwarnings("default")  # the formats' own, when they are imported


def describe(folder, names, shape, **changes) -> Description:
    fields = {
        "format": "torch",
        "precision": "fp32",
        "files": {name: file_digest(folder / name) for name in names},
        "subnet": "d1-w1-k3-r1",
        "input_shape": shape,
        "outputs": 3,
        "parameters": 1,
        "multiply_adds": 1,
        "preprocessing": {},
        "labels": {"background": 0, "a": 1, "b": 2},
        "source": {},
        "checks": {},
        "versions": {},
    }
    return Description(**fields | changes)


@pytest.fixture(scope="session")
def written(networks, shape, tmp_path_factory):
    """Every format of the network at half the resolution, described."""
    root = tmp_path_factory.mktemp("written")
    for format in FORMATS:
        folder = root / format
        folder.mkdir()
        names = write_network(networks["half"], shape, folder, format)
        describe(folder, names, shape, format=format).write(folder)
    return root


@pytest.fixture
def copy(written, tmp_path):
    """A copy of one format's folder, to be spoilt."""

    def make(format: str):
        return shutil.copytree(written / format, tmp_path / format)

    return make


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["plain", "half"])
def test_logits_in_32_bits_are_the_plain_networks(format, name, networks, shape, patches, tmp_path):
    (first, *_) = write_network(networks[name], shape, tmp_path, format)
    runtime = open_runtime(tmp_path / first, format, "fp32", threads=1)
    parity = compare(networks[name], RuntimeNetwork(runtime, shape), patches)
    assert parity.max_difference < 1e-5
    assert parity.agreement > 0.999


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_16_bits_are_half_the_size_and_near(format, networks, shape, patches, tmp_path):
    sizes = {}
    for precision in ("fp32", "fp16"):
        folder = tmp_path / precision
        folder.mkdir()
        names = write_network(networks["plain"], shape, folder, format, precision)
        sizes[precision] = (folder / names[-1]).stat().st_size
        runtime = open_runtime(folder / names[0], format, precision, threads=1)
    parity = compare(networks["plain"], runtime, patches)
    assert 0 < parity.max_difference < 0.1
    assert sizes["fp16"] < 0.9 * sizes["fp32"]  # names and graph are part of it


def test_writing_changes_nothing(networks, shape, tmp_path):
    network = networks["plain"]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.train()
    for format in FORMATS:
        write_network(network, shape, tmp_path, format)
    assert network.training
    network.eval()
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("format", FORMATS)
def test_what_was_written_opens(format, written, networks, shape):
    description, network = load_exported(written / format, threads=1)
    assert description.format == format
    assert description.input_shape == shape
    x = torch.randn(2, *shape)  # image by image
    with torch.no_grad():
        assert torch.allclose(network(x), networks["half"](x), atol=1e-5)
    assert network.runtime.version
    assert network.runtime.device.startswith("cpu")


def test_inputs_and_outputs_have_the_same_names(written):
    onnxruntime, openvino = pytest.importorskip("onnxruntime"), pytest.importorskip("openvino")
    session = onnxruntime.InferenceSession(written / "onnx" / "model.onnx")
    model = openvino.Core().read_model(written / "openvino" / "model.xml")
    for theirs, ours in ((session.get_inputs(), model.inputs), (session.get_outputs(), model.outputs)):
        assert [{port.name} for port in theirs] == [port.names for port in ours]


def test_an_image_of_another_shape_is_refused(written):
    _, network = load_exported(written / "torch")
    with pytest.raises(ValueError, match=r"takes \[2, 8, 12, 8\], got \[1, 8, 12, 8\]"):
        network(torch.zeros(1, 1, 8, 12, 8))


def test_a_runtime_gives_a_tensor_of_its_own(written, shape):
    """What the next pass writes does not reach what the last one gave; mirroring adds into it."""
    for format in FORMATS:
        _, network = load_exported(written / format)
        first = network(torch.zeros(1, *shape))
        kept = first.clone()
        network(torch.ones(1, *shape))
        assert torch.equal(first, kept)
        first += 1


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("field", "value"), [("input_shape", [2, 8, 8, 8]), ("input_shape", [1, 8, 12, 8]), ("outputs", 4)]
)
def test_a_description_of_another_network_is_refused(format, field, value, copy):
    folder = copy(format)
    content = json.loads((folder / FILE).read_text())
    (folder / FILE).write_text(json.dumps(content | {field: value}))
    with pytest.raises(ValueError, match=r"its description says|does not take what its description says"):
        load_exported(folder)


@pytest.mark.parametrize("format", FORMATS)
def test_another_model_file_is_refused(format, copy):
    folder = copy(format)
    name = read_description(folder).model
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    with pytest.raises(ValueError, match=f"{name} is not the file that .* describes; export it again"):
        load_exported(folder)


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_is_no_model_is_refused(format, tmp_path):
    (tmp_path / "model").write_text("not a model")
    with pytest.raises(ValueError, match=r"model is not a (model that|program of)"):
        open_runtime(tmp_path / "model", format, "fp32")


@pytest.mark.parametrize(("format", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_an_absent_runtime_names_the_extra(format, package, written, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'{package} .*pip install "prox-monai\[export\]"'):
        load_exported(written / format)


@pytest.mark.parametrize(("format", "package"), [("onnx", "onnxscript"), ("openvino", "openvino")])
def test_an_absent_writer_names_the_extra(format, package, networks, shape, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r'pip install "prox-monai\[export\]"'):
        write_network(networks["plain"], shape, tmp_path, format)


def test_a_description_is_read_as_it_was_written(written):
    description = read_description(written / "openvino")
    assert list(description.files) == ["model.xml", "model.bin"]
    again = dataclasses.asdict(description)
    content = json.loads((written / "openvino" / FILE).read_text())
    assert {**content, "input_shape": tuple(content["input_shape"])} == {
        "kind": "prox_monai/exported",
        "version": 1,
        **again,
    }
