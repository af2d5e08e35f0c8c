"""The measurement of ``prox`` in Auto3DSeg: its datalist, its Dice, what it refuses."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec

import nibabel as nib
import numpy as np
import pytest

if any(find_spec(name) is None for name in ("monai", "ignite", "fire", "yaml")):
    pytest.skip('needs pip install "prox-monai[auto3dseg]"', allow_module_level=True)

import auto3dseg as benchmark

from prox_monai.data import write_synthetic_decathlon


@pytest.fixture
def data(tmp_path):
    return write_synthetic_decathlon(tmp_path / benchmark.TASK, cases=12, size=(12, 14, 12))


def test_the_datalist_has_the_unseen_cases_in_fold_0(data, tmp_path):
    labels = benchmark.write_datalist(data, tmp_path / "datalist.json")
    content = json.loads((tmp_path / "datalist.json").read_text())
    unseen = [case for case in content["training"] if case["fold"] == 0]
    assert [len(content["training"]), len(unseen)] == [12, 3]
    assert {case["fold"] for case in content["training"]} == {0, 1}
    assert content["testing"] == [{"image": case["image"]} for case in unseen]
    assert labels.keys() == {case["image"].removeprefix("imagesTr/").removesuffix(".nii.gz") for case in unseen}
    assert list(labels.values()) == [str(data / case["label"]) for case in unseen]
    assert all((data / case[key]).is_file() for case in content["training"] for key in ("image", "label"))


def test_dice_of_each_label(tmp_path):
    label, predicted = np.zeros((2, 4, 4, 4), np.uint8)
    label[0], predicted[0, :2] = 1, 1  # half of it
    predicted[1] = 3  # which the label has not
    for name, volume in (("label", label), ("predicted", predicted[..., None])):  # saved with an axis of channels
        nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / f"{name}.nii.gz")
    files = tmp_path / "predicted.nii.gz", tmp_path / "label.nii.gz"
    one, two, three = benchmark.dice(*files, range(1, 4))
    assert one == pytest.approx(2 * 8 / (8 + 16))
    assert math.isnan(two)
    assert three == 0
    assert len(benchmark.dice(*files, range(1, 2))) == 1


def test_the_epochs_that_a_run_was_begun_with(tmp_path):
    assert benchmark.epochs_begun(tmp_path) is None
    (tmp_path / benchmark.BEGUN).write_text(json.dumps({"epochs": 7}))
    assert benchmark.epochs_begun(tmp_path) == 7


def test_data_that_are_not_there(tmp_path, capsys):
    assert benchmark.main(["--data", str(tmp_path)]) == 2
    assert f"error: {tmp_path} is no Task04_Hippocampus and holds none" in capsys.readouterr().err


def test_a_run_goes_on_with_its_own_epochs_only(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "measure", lambda *arguments: pytest.fail("measured"))
    output = tmp_path / "runs"
    output.mkdir()
    (output / benchmark.BEGUN).write_text(json.dumps({"epochs": 7}))
    assert benchmark.main(["--data", str(data.parent), "--output", str(output), "--epochs", "8"]) == 2
    assert f"error: --epochs must be 7, as {output} was begun with, or --output another" in capsys.readouterr().err


def test_templates_that_are_not_there(data, tmp_path, capsys):
    assert benchmark.main(["--data", str(data), "--beside", str(tmp_path)]) == 2
    assert f"error: {tmp_path} holds no segresnet" in capsys.readouterr().err
