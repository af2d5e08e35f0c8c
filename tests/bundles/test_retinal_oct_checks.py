"""The files of the retinal bundle agree with each other and with what was published."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

if any(find_spec(name) is None for name in ("monai", "ignite", "fire", "tensorboard", "PIL")):
    pytest.skip('needs MONAI and what its bundles need: pip install "prox-monai[monai]"', allow_module_level=True)

from monai.bundle import ConfigParser

from prox_monai.elastic.resolution import check_resolutions
from prox_monai.integrations.monai.export import export_bundle
from prox_monai.plugin_files import copy_bundle

SUBNET = "smallest"  # works at half the resolution
WITHOUT_PLUGIN = """
import sys
sys.modules["prox_monai"] = None
from monai.bundle import run
device = "$torch.device('cpu')"
run(config_file="configs/inference.json", dataset_dir=sys.argv[1], output_dir=sys.argv[2], device=device)
"""


def parsed(bundle, *names: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(bundle.files(*names))
    parser.read_meta(bundle.files("metadata.json"))
    return parser


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit.:FutureWarning")
def test_a_subnet_predicts_the_same_without_this_package(trained_retinal, retinal_data, tmp_path):
    bundle = copy_bundle(trained_retinal.folder.name, tmp_path / "bundle")
    (bundle / "models").symlink_to(trained_retinal.override["ckpt_dir"])
    (bundle / "configs" / "tiny.json").write_text(json.dumps(trained_retinal.network))
    export_bundle(bundle, tmp_path / "plain", subnet=SUBNET, configs=[bundle / "configs" / "tiny.json"])
    images = retinal_data  # its folders hold them
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
    architecture = parser.get_parsed_content("architecture")
    described = parser["_meta_"]
    image, logits = (described["network_data_format"][side] for side in ("inputs", "outputs"))
    assert image["image"]["spatial_shape"] == parser["size"]
    assert image["image"]["num_channels"] == architecture.in_channels == 1
    assert list(logits["pred"]["channel_def"].values()) == parser["classes"]
    assert logits["pred"]["num_channels"] == architecture.out_channels == len(parser["classes"])


@pytest.mark.parametrize(
    "names", [("train.json",), ("train.json", "quick.json"), ("train.json", "published_space.json")]
)
def test_shipped_settings_make_a_schedule(retinal, names):
    """All resolutions differ, and the last epoch is validated and saved."""
    parser = parsed(retinal, *names)
    schedule, space, architecture = (parser.get_parsed_content(name) for name in ("schedule", "space", "architecture"))
    check_resolutions(space.resolution, parser["size"], architecture.stride)
    assert schedule.total_epochs % parser["val_interval"] == 0
    assert parser.get_parsed_content("save_interval") == parser["val_interval"]
    assert schedule.phases[-1].space == space
    assert {phase.stage for phase in schedule.phases} >= {"depth", "width", "kernel", "resolution"}


def test_inference_with_the_quick_settings_builds_what_they_train(retinal):
    training, inference = (parsed(retinal, name, "quick.json") for name in ("train.json", "inference.json"))
    network = inference.get_parsed_content("network_def")
    assert network.space == training.get_parsed_content("space")
    assert [round(inference["size"][0] * resolution) for resolution in network.space.resolution] == [96, 128]


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
