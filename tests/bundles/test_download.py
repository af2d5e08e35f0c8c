"""``--download true`` of the segmentation bundles: the archive is fetched once, where there is none."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

import pytest

if any(find_spec(name) is None for name in ("monai", "ignite", "fire", "tensorboard")):
    pytest.skip('needs MONAI and what its bundles need: pip install "prox-monai[monai]"', allow_module_level=True)

from prox_monai.integrations.monai import datalists


@pytest.mark.parametrize(
    ("name", "data", "task"),
    [("hippocampus", "hippocampus_data", "Task04_Hippocampus"), ("brats", "tumours", "Task01_BrainTumour")],
)
def test_a_bundle_downloads_when_asked_and_only_then(name, data, task, request, refusal, tmp_path, monkeypatch):
    downloads = []

    def download(wanted, root):
        downloads.append(wanted)
        return shutil.copytree(request.getfixturevalue(data), root / wanted)

    monkeypatch.setattr(datalists, "download_decathlon", download)
    bundle = request.getfixturevalue(name).but(dataset_dir=str(tmp_path / "fetched" / task))
    assert "give --dataset_dir, or --download true" in refusal(lambda: bundle.begin("train", "train.json"))
    cases = [len(bundle.begin("train", "train.json", download=True).parser.get_parsed_content("split")["training"])]
    cases.append(len(bundle.begin("train", "train.json", download=True).parser.get_parsed_content("split")["training"]))
    assert cases == [2, 2]
    assert downloads == [task]
