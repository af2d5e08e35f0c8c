"""What every bundle's metadata and texts say is what its configurations do."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

if any(find_spec(name) is None for name in ("monai", "ignite", "fire", "tensorboard")):
    pytest.skip('needs MONAI and what its bundles need: pip install "prox-monai[monai]"', allow_module_level=True)

from monai.bundle import ConfigParser

from prox_monai.elastic import Supernet
from prox_monai.evaluation.multiply_adds import ALIASES, MultiplyAdds
from prox_monai.space import SearchSpace

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
BUNDLES = sorted((Path(__file__).parents[2] / "bundles").iterdir())


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda folder: folder.name)
def test_space_and_subnets(bundle):
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    image = metadata["network_data_format"]["inputs"]["image"]
    for name in ("train.json", "inference.json"):
        parser = ConfigParser()
        parser.read_config(bundle / "configs" / name)
        space, architecture = (parser.get_parsed_content(key) for key in ("space", "architecture"))
        assert SearchSpace.from_dict(metadata["search_space"]) == space
        size = parser["patch" if "patch" in parser else "size"]
        costs = MultiplyAdds(Supernet(architecture, space), (image["num_channels"], *size))
        assert metadata["subnets"] == {alias: costs.find(alias).name for alias in ALIASES}


def test_metrics_are_those_that_were_measured():
    """Of what was measured on unseen cases: by benchmarks/bundles.py, and in five folds by benchmarks/oct.py."""
    measured, folds = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("bundles", "oct"))
    hippocampus, retinal = measured["hippocampus"], folds["methods"]["plus"]
    expected = {
        "hippocampus": {"mean_dice": (hippocampus["named"]["largest"]["score"], hippocampus["random"]["mean"])},
        "retinal": {"balanced_accuracy": (retinal["largest_pooled"]["balanced_accuracy"], retinal["random"]["mean"])},
        "brats": {},
    }
    for bundle in BUNDLES:
        said = json.loads((bundle / "configs" / "metadata.json").read_text())["eval_metrics"]
        assert said == {
            f"{metric}_{subnets}_quick_settings": round(value, 3)
            for metric, values in expected[bundle.name.split("_")[0]].items()
            for subnets, value in zip(("largest", "random_subnets"), values, strict=True)
        }


def test_all_evaluate_alike():
    """But for what the figures depend on: the classifier keeps statistics beside, and has no surfaces."""
    contents = [json.loads((bundle / "configs" / "evaluate.json").read_text()) for bundle in BUNDLES]
    for content in contents:
        content.pop("validate::sampling::statistics", None)
        content["validate::handlers"] = [each for each in content["validate::handlers"] if "Patient" not in str(each)]
        own = ("tolerance_mm", "resamples", "validate::sampling::settings", "validate::evaluator::additional_metrics")
        for name in own:
            content.pop(name, None)
    assert contents[0] == contents[1] == contents[2]


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda folder: folder.name)
def test_texts_are_there(bundle):
    for name in ("LICENSE", "docs/README.md", "docs/data_license.txt", "configs/logging.conf"):
        assert (bundle / name).stat().st_size > 0
    for name in ("evaluate", "search", "quick", "published_space", "multi_gpu_train"):
        assert json.loads((bundle / "configs" / f"{name}.json").read_text())
    assert not (bundle / "scripts").exists()
