"""The files of each segmentation bundle agree with each other."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

if any(find_spec(name) is None for name in ("monai", "ignite", "fire", "tensorboard")):
    pytest.skip('needs MONAI and what its bundles need: pip install "prox-monai[monai]"', allow_module_level=True)

from monai.bundle import ConfigParser

from prox_monai.elastic.resolution import check_resolutions, scaled_size


@pytest.fixture(params=["hippocampus", "brats"])
def bundle(request):
    return request.getfixturevalue(request.param)


def parsed(bundle, *names) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(bundle.files(*names))
    parser.read_meta(bundle.files("metadata.json"))
    return parser


def test_training_and_inference_agree(bundle):
    training, inference = (parsed(bundle, name) for name in ("train.json", "inference.json"))
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


def test_steps_of_inference_prepare_images_as_training_does(bundle):
    """All but what concerns labels."""
    training, inference = (parsed(bundle, name) for name in ("train.json", "inference.json"))

    def of_images(steps):
        for step in steps:
            if step["keys"] == "label" or step["_target_"] == "prox_monai.integrations.monai.CheckChannelsd":
                continue
            mode = step.get("mode")
            yield {**step, "keys": "image"} | ({} if mode is None else {"mode": mode if type(mode) is str else mode[0]})

    assert list(of_images(training["deterministic_transforms"])) == list(
        of_images(inference["preprocessing"]["transforms"])
    )


@pytest.mark.parametrize(
    "names", [("train.json",), ("train.json", "quick.json"), ("train.json", "published_space.json")]
)
def test_shipped_settings_make_a_schedule(bundle, names):
    """The patch tells all resolutions apart, and an epoch goes to every phase."""
    parser = parsed(bundle, *names)
    schedule, space, architecture = (parser.get_parsed_content(name) for name in ("schedule", "space", "architecture"))
    check_resolutions(space.resolution, parser["patch"], architecture.stride)
    epochs = parser["epochs"]
    assert schedule.total_epochs == (epochs if isinstance(epochs, int) else sum(epochs))
    assert schedule.total_epochs % parser["val_interval"] == 0  # the last epoch is validated
    save_interval = parser.get_parsed_content("save_interval")
    assert schedule.total_epochs % save_interval == 0  # and saved
    assert save_interval < schedule.total_epochs  # so that a training can go on
    assert schedule.phases[-1].space == space


@pytest.mark.parametrize(
    ("name", "preset", "epochs", "sizes"),
    [("hippocampus", "paper", [10] * 5, [48, 64, 80]), ("brats", "paper_mr", [15] * 3, [80, 96, 112])],
)
def test_the_published_space(name, preset, epochs, sizes, request):
    """Written out: no elastic depth, two widths and kernels, three resolutions, sixteen channels at most at first."""
    parser = parsed(request.getfixturevalue(name), "train.json", "published_space.json")
    assert parser["preset"] == preset
    schedule, architecture = (parser.get_parsed_content(key) for key in ("schedule", "architecture"))
    assert [phase.epochs for phase in schedule.phases] == epochs
    space = schedule.phases[-1].space
    assert (space.depth, space.width, space.kernel) == ((1,), (0.5, 1), (3, 5))
    assert [scaled_size(parser["patch"], architecture.stride, r) for r in space.resolution] == [(n,) * 3 for n in sizes]
    assert [round(width * architecture.channels[0]) for width in space.width] == [8, 16]


@torch.no_grad()
def test_inference_with_the_quick_settings_runs_what_they_train(bundle):
    training, inference = (parsed(bundle, name, "quick.json") for name in ("train.json", "inference.json"))
    assert training.get_parsed_content("space") == inference.get_parsed_content("space")
    network = inference.get_parsed_content("network_def").eval()
    assert network.space == inference.get_parsed_content("space")
    x = torch.rand(1, network.architecture.in_channels, *inference["patch"])
    network.choose("smallest")
    assert network(x).shape == (1, network.architecture.out_channels, *x.shape[2:])


def test_a_bundle_is_for_segmentation_by_its_name(bundle):
    """MONAI Label reads the type of a task from it."""
    assert bundle.folder.name.endswith("_segmentation")
