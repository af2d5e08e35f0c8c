"""What every bundle's metadata and texts say is what its configurations do."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

if any(find_spec(name) is None for name in ("monai", "ignite", "fire", "tensorboard")):
    pytest.skip('needs MONAI and what its bundles need: pip install "prox-monai[monai]"', allow_module_level=True)

from monai.bundle import ConfigParser

from prox_monai.space import SearchSpace

BUNDLES = sorted((Path(__file__).parents[2] / "bundles").iterdir())


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda folder: folder.name)
def test_space_and_subnets(bundle):
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    for name in ("train.json", "inference.json"):
        parser = ConfigParser()
        parser.read_config(bundle / "configs" / name)
        space = parser.get_parsed_content("space")
        assert SearchSpace.from_dict(metadata["search_space"]) == space
        assert metadata["subnets"]["smallest"] == space.smallest().name
        assert metadata["subnets"]["largest"] == space.largest().name


def test_all_evaluate_alike():
    """With the same settings; the classifier keeps statistics beside."""
    contents = [json.loads((bundle / "configs" / "evaluate.json").read_text()) for bundle in BUNDLES]
    for content in contents:
        content.pop("validate::sampling::statistics", None)
    assert contents[0] == contents[1] == contents[2]


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda folder: folder.name)
def test_texts_are_there(bundle):
    for name in ("LICENSE", "docs/README.md", "docs/data_license.txt", "configs/logging.conf"):
        assert (bundle / name).stat().st_size > 0
    for name in ("evaluate", "search", "quick", "published_space", "multi_gpu_train"):
        assert json.loads((bundle / "configs" / f"{name}.json").read_text())
    assert not (bundle / "scripts").exists()
