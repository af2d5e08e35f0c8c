"""MONAI's own commands on every bundle: its metadata against the schema, its network as TorchScript and as ONNX.

``verify_net_in_out`` at full size is among the zoo's steps (test_zoo.py).
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

if any(find_spec(name) is None for name in ("monai", "ignite", "fire", "tensorboard", "PIL")):
    pytest.skip('needs MONAI and what its bundles need: pip install "prox-monai[monai]"', allow_module_level=True)

from monai.bundle import ckpt_export, onnx_export, verify_metadata

BUNDLES = sorted((Path(__file__).parents[2] / "bundles").iterdir())
SUBNETS = {  # of each tiny family, and the shape of a batch
    "hippocampus": ("d1-w1-k3-r1", [1, 1, 16, 16, 16]),
    "brats": ("largest", [1, 4, 16, 16, 16]),
    "retinal": ("smallest", [2, 1, 32, 32]),  # works at half the resolution
}


@pytest.fixture(params=SUBNETS)
def exported(request):
    """A trained bundle's network with a subnet chosen by name, an input for it, and the arguments of an export."""
    subnet, shape = SUBNETS[request.param]
    bundle = request.getfixturevalue(f"trained_{request.param}")
    network = bundle.begin("infer", "inference.json", subnet=subnet).network_def
    network.load_state_dict(torch.load(bundle.model, weights_only=True))
    (config,), (metadata,) = (bundle.files(name) for name in ("inference.json", "metadata.json"))
    arguments = {
        "net_id": "network_def",
        "ckpt_file": str(bundle.model),
        "meta_file": metadata,
        "config_file": config,
        "input_shape": shape,
        "use_trace": True,
        **bundle.override,
        "subnet": subnet,
    }
    return network.eval(), torch.rand(shape), arguments


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit.:FutureWarning")
def test_torchscript(exported, tmp_path):
    network, x, arguments = exported
    ckpt_export(filepath=str(tmp_path / "model.ts"), **arguments)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(x), network(x))


def test_onnx(exported, tmp_path):
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason='needs pip install "prox-monai[export]"')
    runtime = pytest.importorskip("onnxruntime", reason='needs pip install "prox-monai[export]"')
    network, x, arguments = exported
    onnx_export(filepath=str(tmp_path / "model.onnx"), **arguments)
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (ours,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(ours), network(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda folder: folder.name)
def test_metadata_follow_the_schema(bundle, data_folder, tmp_path, caplog):
    pytest.importorskip("jsonschema")
    metadata = bundle / "configs" / "metadata.json"
    content = json.loads(metadata.read_text())
    schema = data_folder / "monai_schema" / content["schema"].split("/")[-1]
    if not schema.is_file():
        pytest.skip(f"no {schema}")
    shutil.copy(schema, tmp_path / "schema.json")
    against = {"filepath": tmp_path / "schema.json", "hash_val": hashlib.md5(schema.read_bytes()).hexdigest()}
    with caplog.at_level(logging.INFO):
        verify_metadata(meta_file=str(metadata), **against)
    assert "metadata is verified with no error" in caplog.text
    (tmp_path / "broken.json").write_text(json.dumps(content | {"authors": None}))
    with pytest.raises(ValueError, match="Failed validating"):
        verify_metadata(meta_file=str(tmp_path / "broken.json"), **against)
