"""The brain tumour bundle from training to label maps: four channels, overlapping regions, labels of the Decathlon."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

if any(find_spec(name) is None for name in ("monai", "ignite", "fire", "tensorboard")):
    pytest.skip('needs MONAI and what its bundles need: pip install "prox-monai[monai]"', allow_module_level=True)

from monai.bundle import ConfigParser

from prox_monai.evaluation.subnets import read_rows

BUNDLES = Path(__file__).parents[2] / "bundles"


@pytest.fixture(scope="module")
def data(tumours):
    return tumours


@pytest.fixture(scope="module")
def trained(trained_brats):
    return trained_brats


def test_evaluation_has_a_dice_per_region(trained, tmp_path):
    trained.run("train", "train.json", "evaluate.json", output_dir=str(tmp_path), subnets=["largest"])
    (row,) = read_rows(tmp_path / "subnets.jsonl")
    assert len(row["per_class"]["val_mean_dice"]) == 3
    assert row["score"] == pytest.approx(np.mean(row["per_class"]["val_mean_dice"]))


def test_regions_of_the_decathlons_labels(trained, data, tmp_path):
    """Tumour core {2, 3}, whole tumour {1, 2, 3}, enhancing tumour {3}."""
    parser = trained.begin("train", "train.json", ckpt_dir=str(tmp_path)).parser
    regions = parser.get_parsed_content("validate::dataset")[0]["label"]
    truth = np.asarray(nib.load(sorted((data / "labelsTr").iterdir())[0]).dataobj)
    expected = [np.isin(truth, values) for values in ((2, 3), (1, 2, 3), (3,))]
    assert np.array_equal(np.asarray(regions), np.stack(expected))


def test_predictions_are_labels_again(trained, data, tmp_path):
    images = data / "imagesTr"
    trained.run("infer", "inference.json", dataset_dir=str(images), output_dir=str(tmp_path))
    for path in images.iterdir():
        label = nib.load(tmp_path / path.name.replace(".nii.gz", "_seg.nii.gz"))
        assert label.shape == nib.load(path).shape[:3]
        assert set(np.unique(np.asarray(label.dataobj))) <= {0, 1, 2, 3}


def test_regions_of_a_perfect_prediction_give_the_truth(trained, data, tmp_path):
    """Through the bundle's own chain: labels to regions, logits of them, regions to labels."""
    train, infer = trained.begin("train", "train.json", ckpt_dir=str(tmp_path)).parser, ConfigParser()
    infer.read_config(trained.files("inference.json")[0])
    regions = train.get_parsed_content("validate::dataset")[0]["label"]
    for step in ("0", "2", "3"):  # sigmoid, threshold, labels; 1 and 4 are about grids and files
        transform = infer.get_parsed_content(f"postprocessing::transforms::{step}")
        regions = transform({"pred": (regions * 2.0 - 1.0) * 9 if step == "0" else regions})["pred"]
    truth = np.asarray(nib.load(sorted((data / "labelsTr").iterdir())[0]).dataobj)
    assert np.array_equal(np.asarray(regions)[0], truth)


def test_a_training_that_was_broken_off_goes_on(brats, trained):
    """To the same weights as one that was not."""
    brats.run("train", "train.json", save_interval=1, **{"train::trainer::max_epochs": 5})
    first = torch.load(brats.model, weights_only=True)
    brats.run("train", "train.json", save_interval=1, resume=True)
    ours, theirs = (torch.load(bundle.model, weights_only=True) for bundle in (brats, trained))
    assert any(not torch.equal(tensor, theirs[name]) for name, tensor in first.items() if name != "_extra_state")
    assert [name for name, tensor in theirs.items() if not torch.equal(ours[name], tensor)] == []


def test_train_and_inference_agree(trained):
    train, infer, metadata = (
        json.loads(Path(file).read_text()) for file in trained.files("train.json", "inference.json", "metadata.json")
    )
    for key in ("architecture", "space", "patch"):
        assert train[key] == infer[key]
    image = metadata["network_data_format"]["inputs"]["image"]
    assert image["num_channels"] == train["architecture"]["in_channels"]
    assert all(axis == "16*n" for axis in image["spatial_shape"])
    assert all(axis % 16 == 0 for axis in train["patch"])


def test_what_the_segmentation_bundles_share():
    """Evaluation, search and several processes are the same in both."""
    folders = [BUNDLES / f"{name}_mri_prox_segmentation" / "configs" for name in ("hippocampus", "brats")]
    for name in ("evaluate.json", "search.json", "multi_gpu_train.json", "logging.conf"):
        assert len({(folder / name).read_text() for folder in folders}) == 1


def test_a_wrong_label_is_found_before_training_also_without_a_cache(trained, data, refusal, tmp_path):
    shutil.copytree(data, tmp_path / "Task98_Tumours")
    path = sorted((tmp_path / "Task98_Tumours" / "labelsTr").iterdir())[0]
    label = np.asarray(nib.load(path).dataobj).copy()
    label[0, 0, 0] = 4
    nib.save(nib.Nifti1Image(label, np.eye(4)), path)
    other = {"dataset_dir": str(tmp_path / "Task98_Tumours"), "ckpt_dir": str(tmp_path / "models"), "cache_rate": 0.0}
    assert "has the label 4, not 0 to 3" in refusal(lambda: trained.begin("train", "train.json", **other))


def test_a_choice_that_cannot_be(trained, refusal, tmp_path):
    infer, evaluate = ("infer", "inference.json"), ("train", "train.json", "evaluate.json")
    for names, choice in ((infer, {"subnet": "d3-w1-k3-r1"}), (evaluate, {"subnets": ["d3-w1-k3-r1"]})):
        text = refusal(lambda names=names, choice=choice: trained.run(*names, output_dir=str(tmp_path), **choice))
        assert "depth 3" in text
    table = shutil.copytree(trained.override["ckpt_dir"], tmp_path / "models") / "subnets.jsonl"
    searched = trained.but(ckpt_dir=str(table.parent), output_dir=str(tmp_path / "eval"))
    searched.run("train", "train.json", "search.json", per_bucket=0)
    fastest = min(read_rows(table), key=lambda row: row["latency_ms"])
    for names in (infer, evaluate):
        text = refusal(lambda names=names: searched.run(*names, max_latency_ms=1e-4))
        assert "no known subnet has a latency <= 0.0001 ms; the fastest, " in text
        assert f"{fastest['key']}, takes {fastest['latency_ms']:.1f} ms on" in text


def test_bad_input(trained, data, refusal, tmp_path):
    description = json.loads((data / "dataset.json").read_text())
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / name).symlink_to(data / name)
    (tmp_path / "dataset.json").write_text(json.dumps(description | {"modality": {"0": "T1w"}}))
    other = {"dataset_dir": str(tmp_path), "ckpt_dir": str(tmp_path / "models")}
    message = refusal(lambda: trained.run("train", "train.json", **other))
    assert "image has 4 channels; dataset.json declares T1w" in message
    fold = refusal(lambda: trained.run("train", "train.json", fold=0, ckpt_dir=str(tmp_path / "models")))
    assert "2 cases cannot be split into 5 folds" in fold
    assert "--fold all" in fold
