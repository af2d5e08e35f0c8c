"""The model zoo's own checks of the hippocampus bundle, without a network, and that its files agree."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from importlib.util import find_spec

import pytest
import torch

if any(find_spec(name) is None for name in ("monai", "ignite", "fire", "tensorboard")):
    pytest.skip('needs MONAI and what its bundles need: pip install "prox-monai[monai]"', allow_module_level=True)

from monai.bundle import ConfigParser, ckpt_export, onnx_export, verify_metadata, verify_net_in_out

from prox_monai.elastic.resolution import check_resolutions

SHAPE = [1, 1, 16, 16, 16]
SUBNET = "d1-w1-k3-r1"


@pytest.fixture
def network(trained_hippocampus) -> torch.nn.Module:
    """The bundle's network with its subnet chosen by name."""
    network = trained_hippocampus.begin("infer", "inference.json", subnet=SUBNET).network_def
    network.load_state_dict(torch.load(trained_hippocampus.model, weights_only=True))
    return network.eval()


@pytest.fixture
def export_arguments(trained_hippocampus) -> dict[str, object]:
    (config,), (metadata,) = (trained_hippocampus.files(name) for name in ("inference.json", "metadata.json"))
    return {
        "net_id": "network_def",
        "ckpt_file": str(trained_hippocampus.model),
        "meta_file": metadata,
        "config_file": config,
        "input_shape": SHAPE,
        "subnet": SUBNET,
        **trained_hippocampus.override,
    }


def test_metadata_follow_the_schema(hippocampus, data_folder, tmp_path, caplog):
    pytest.importorskip("jsonschema")
    (metadata,) = hippocampus.files("metadata.json")
    name = json.loads((hippocampus.folder / "configs" / "metadata.json").read_text())["schema"].split("/")[-1]
    schema = data_folder / "monai_schema" / name
    if not schema.is_file():
        pytest.skip(f"no {schema}")
    shutil.copy(schema, tmp_path / "schema.json")
    with caplog.at_level(logging.INFO):
        checksum = hashlib.md5(schema.read_bytes()).hexdigest()
        verify_metadata(meta_file=metadata, filepath=tmp_path / "schema.json", hash_val=checksum)
    assert "metadata is verified with no error" in caplog.text


def test_the_network_takes_and_gives_what_metadata_say(hippocampus):
    """At its full size, with no file but the bundle's."""
    (config,), (metadata,) = (hippocampus.files(name) for name in ("inference.json", "metadata.json"))
    verify_net_in_out(net_id="network_def", config_file=config, meta_file=metadata, device="cpu")


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit.:FutureWarning")
def test_it_exports_to_torchscript(network, export_arguments, tmp_path):
    ckpt_export(filepath=str(tmp_path / "model.ts"), use_trace=True, **export_arguments)
    x = torch.rand(SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(x), network(x))


def test_it_exports_to_onnx(network, export_arguments, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    onnx_export(filepath=str(tmp_path / "model.onnx"), use_trace=True, **export_arguments)
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    x = torch.rand(SHAPE)
    (ours,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(ours), network(x), atol=1e-4, rtol=1e-4)


def parsed(bundle, *names) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(bundle.files(*names))
    parser.read_meta(bundle.files("metadata.json"))
    return parser


def test_training_and_inference_agree(hippocampus):
    training, inference = (parsed(hippocampus, name) for name in ("train.json", "inference.json"))
    for name in ("architecture", "space", "patch"):
        assert training[name] == inference[name], name
        assert training.get_parsed_content(name) == inference.get_parsed_content(name)
    window, validated = inference["inferer"]["inferer"], training["validate"]["inferer"]
    assert {key: window[key] for key in validated} == validated


def test_metadata_agree_with_the_configurations(hippocampus):
    parser = parsed(hippocampus, "train.json")
    architecture, labels = (parser.get_parsed_content(name) for name in ("architecture", "labels"))
    image = parser["_meta_"]["network_data_format"]["inputs"]["image"]
    prediction = parser["_meta_"]["network_data_format"]["outputs"]["pred"]
    assert image["spatial_shape"] == prediction["spatial_shape"] == parser["patch"]
    assert image["num_channels"] == architecture.in_channels == len(image["channel_def"])
    assert prediction["num_channels"] == architecture.out_channels == len(labels)
    assert list(prediction["channel_def"].values()) == labels
    version = parser["_meta_"]["version"]
    assert version in parser["_meta_"]["changelog"]


def test_steps_of_inference_prepare_images_as_training_does(hippocampus):
    """All but what concerns labels."""
    training, inference = (parsed(hippocampus, name) for name in ("train.json", "inference.json"))

    def of_images(steps):
        checks = ("prox_monai.integrations.monai.CheckLabelsd", "prox_monai.integrations.monai.CheckChannelsd")
        for step in steps:
            if step["_target_"] in checks:
                continue
            mode = step.get("mode")
            yield {**step, "keys": "image"} | ({} if mode is None else {"mode": mode if type(mode) is str else mode[0]})

    assert list(of_images(training["deterministic_transforms"])) == list(
        of_images(inference["preprocessing"]["transforms"])
    )


@pytest.mark.parametrize(
    "names", [("train.json",), ("train.json", "quick.json"), ("train.json", "published_space.json")]
)
def test_shipped_settings_make_a_schedule(hippocampus, names):
    """The patch tells all resolutions apart, and an epoch goes to every phase."""
    parser = parsed(hippocampus, *names)
    schedule, space, architecture = (parser.get_parsed_content(name) for name in ("schedule", "space", "architecture"))
    check_resolutions(space.resolution, parser["patch"], architecture.stride)
    epochs = parser["epochs"]
    assert schedule.total_epochs == (epochs if isinstance(epochs, int) else sum(epochs))
    assert schedule.total_epochs % parser["val_interval"] == 0  # the last epoch is validated and saved
    assert schedule.phases[-1].space == space


def test_a_bundle_is_for_segmentation_by_its_name(hippocampus):
    """MONAI Label reads the type of a task from it."""
    assert hippocampus.folder.name.endswith("_segmentation")
