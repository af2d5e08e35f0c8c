"""A package of MONAI's that is not installed is named, with the extra that brings it, before anything is done."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("monai") is None or find_spec("ignite") is None:
    pytest.skip('needs MONAI and ignite: pip install "prox-monai[monai]"', allow_module_level=True)

from prox_monai.integrations import monai as integration

ROOT = Path(__file__).parents[3]
TRAIN = """
import sys
sys.modules[sys.argv[1]] = None  # as if it were not installed
from monai.bundle import run
run(config_file="configs/train.json", dataset_dir="/absent")
"""


@pytest.mark.parametrize(("module", "package"), integration._NEEDED.items())
def test_what_is_missing_is_named(module, package, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find_spec(name))
    spec = importlib.util.spec_from_file_location("imported_again", integration.__file__)
    with pytest.raises(ImportError) as error:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert str(error.value) == f'MONAI bundles need {package}: pip install "prox-monai[monai]".'


@pytest.mark.parametrize(
    ("bundle", "module", "package"),
    [
        ("hippocampus_mri_prox_segmentation", "nibabel", "nibabel"),
        ("brats_mri_prox_segmentation", "scipy", "scipy"),
        ("retinal_oct_prox_classification", "sklearn", "scikit-learn"),
    ],
)
def test_a_bundle_says_so_before_it_looks_for_data(bundle, module, package):
    command = [sys.executable, "-c", TRAIN, module]
    done = subprocess.run(command, cwd=ROOT / "bundles" / bundle, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f'MONAI bundles need {package}: pip install "prox-monai[monai]".' in done.stderr


def test_the_extra_brings_them():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    brought = {line.split(">")[0] for line in project["optional-dependencies"]["monai"]}
    assert set(integration._NEEDED.values()) <= brought
