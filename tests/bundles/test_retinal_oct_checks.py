"""The model zoo's own checks of the retinal bundle, without a network, and that its files agree."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

if any(find_spec(name) is None for name in ("monai", "ignite", "fire", "tensorboard", "PIL")):
    pytest.skip('needs MONAI and what its bundles need: pip install "prox-monai[monai]"', allow_module_level=True)

from monai.bundle import ConfigParser, ckpt_export, onnx_export, verify_metadata, verify_net_in_out

from prox_monai.elastic.resolution import check_resolutions
from prox_monai.integrations.monai.export import export_bundle
from prox_monai.plugin_files import copy_bundle
from prox_monai.space import SearchSpace

SHAPE = [2, 1, 32, 32]
SUBNET = "smallest"  # works at half the resolution
WITHOUT_PLUGIN = """
import sys
sys.modules["prox_monai"] = None
from monai.bundle import run
device = "$torch.device('cpu')"
run(config_file="configs/inference.json", dataset_dir=sys.argv[1], output_dir=sys.argv[2], device=device)
"""


@pytest.fixture
def network(trained_retinal) -> torch.nn.Module:
    network = trained_retinal.begin("infer", "inference.json", subnet=SUBNET).network_def
    network.load_state_dict(torch.load(trained_retinal.model, weights_only=True))
    return network.eval()


@pytest.fixture
def export_arguments(trained_retinal) -> dict[str, object]:
    (config,), (metadata,) = (trained_retinal.files(name) for name in ("inference.json", "metadata.json"))
    return {
        "net_id": "network_def",
        "ckpt_file": str(trained_retinal.model),
        "meta_file": metadata,
        "config_file": config,
        "input_shape": SHAPE,
        "subnet": SUBNET,
        **trained_retinal.override,
    }


def parsed(bundle, *names: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(bundle.files(*names))
    parser.read_meta(bundle.files("metadata.json"))
    return parser


def test_metadata_follow_the_schema(retinal, data_folder, tmp_path):
    pytest.importorskip("jsonschema")
    (metadata,) = retinal.files("metadata.json")
    name = json.loads(Path(metadata).read_text())["schema"].split("/")[-1]
    schema = data_folder / "monai_schema" / name
    if not schema.is_file():
        pytest.skip(f"no {schema}")
    shutil.copy(schema, tmp_path / "schema.json")
    checksum = hashlib.md5(schema.read_bytes()).hexdigest()
    verify_metadata(meta_file=metadata, filepath=tmp_path / "schema.json", hash_val=checksum)
    broken = json.loads(Path(metadata).read_text()) | {"authors": None}
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="Failed validating"):
        verify_metadata(meta_file=str(tmp_path / "broken.json"), filepath=tmp_path / "schema.json", hash_val=checksum)


def test_the_network_takes_and_gives_what_metadata_say(retinal):
    """At its full size, with no file but the bundle's."""
    (config,), (metadata,) = (retinal.files(name) for name in ("inference.json", "metadata.json"))
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


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit.:FutureWarning")
def test_a_subnet_predicts_the_same_without_this_package(trained_retinal, retinal_data, tmp_path):
    bundle = copy_bundle(trained_retinal.folder.name, tmp_path / "bundle")
    (bundle / "models").symlink_to(trained_retinal.override["ckpt_dir"])
    metadata = bundle / "configs" / "metadata.json"
    content = json.loads(metadata.read_text())
    content["network_data_format"]["inputs"]["image"]["spatial_shape"] = [32, 32]
    metadata.write_text(json.dumps(content))
    (bundle / "configs" / "tiny.json").write_text(json.dumps(trained_retinal.network))
    export_bundle(bundle, tmp_path / "plain", subnet=SUBNET, configs=[bundle / "configs" / "tiny.json"])
    images = retinal_data / "DME"
    command = [sys.executable, "-c", WITHOUT_PLUGIN, str(images), str(tmp_path / "plain_predictions")]
    done = subprocess.run(command, cwd=tmp_path / "plain", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    options = {"dataset_dir": str(images), "output_dir": str(tmp_path / "own"), "subnet": SUBNET}
    trained_retinal.run("infer", "inference.json", **options)
    with (tmp_path / "own" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        ours = {row[0]: [float(value) for value in row[1:-1]] for row in list(csv.reader(file))[1:]}
    with (tmp_path / "plain_predictions" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        plain = {row[0]: [float(value) for value in row[1:]] for row in csv.reader(file)}
    assert ours.keys() == plain.keys()
    assert all(plain[name] == pytest.approx(values, abs=1e-5) for name, values in ours.items())


def test_configurations_agree(retinal):
    training, inference = (parsed(retinal, name) for name in ("train.json", "inference.json"))
    for name in ("size", "classes", "architecture", "space"):
        assert training[name] == inference[name], name
    assert training["deterministic_transforms"] == inference["preprocessing"]["transforms"]
    assert training["validate"]["inferer"] == inference["inferer"]["inferer"]


def test_metadata_agree_with_the_configurations(retinal):
    parser = parsed(retinal, "train.json")
    architecture, space = (parser.get_parsed_content(name) for name in ("architecture", "space"))
    described = parser["_meta_"]
    image, logits = (described["network_data_format"][side] for side in ("inputs", "outputs"))
    assert image["image"]["spatial_shape"] == parser["size"]
    assert image["image"]["num_channels"] == architecture.in_channels == 1
    assert list(logits["pred"]["channel_def"].values()) == parser["classes"]
    assert logits["pred"]["num_channels"] == architecture.out_channels == len(parser["classes"])
    assert SearchSpace.from_dict(described["search_space"]) == space
    assert described["subnets"] == {"smallest": space.smallest().name, "largest": space.largest().name}


@pytest.mark.parametrize(
    "names", [("train.json",), ("train.json", "quick.json"), ("train.json", "published_space.json")]
)
def test_shipped_settings_make_a_schedule(retinal, names):
    """All resolutions differ, and the last epoch is validated and saved."""
    parser = parsed(retinal, *names)
    schedule, space, architecture = (parser.get_parsed_content(name) for name in ("schedule", "space", "architecture"))
    check_resolutions(space.resolution, parser["size"], architecture.stride)
    assert schedule.total_epochs % parser["val_interval"] == 0
    assert schedule.phases[-1].space == space
    assert {phase.stage for phase in schedule.phases} >= {"depth", "width", "kernel", "resolution"}


@pytest.mark.parametrize(("preset", "phases"), [("paper", 9), ("paper_mr", 7), ("progressive_shrinking", 7)])
def test_the_published_space(retinal, preset, phases):
    """Written out: five sections, three candidates of everything, ten epochs per phase."""
    parser = parsed(retinal, "train.json", "published_space.json")
    assert parser["preset"] == "paper"
    parser["preset"] = preset
    schedule = parser.get_parsed_content("schedule")
    assert [phase.epochs for phase in schedule.phases] == [10] * phases
    space = schedule.phases[-1].space
    assert (space.sections, space.depth, space.width, space.kernel) == (5, (1, 2, 3), (3, 4, 6), (3, 5, 7))
    assert [round(224 * resolution) for resolution in space.resolution] == [160, 192, 224]
    architecture = parser.get_parsed_content("architecture")
    assert (architecture.stem, architecture.first) == (16, 16)


def test_a_bundle_is_for_classification_by_its_name(retinal):
    """MONAI Label reads the type of a task from it."""
    assert retinal.folder.name.endswith("_classification")
