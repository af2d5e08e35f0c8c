"""The brain tumour bundle from training to label maps: four channels, overlapping regions, labels of the Decathlon."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

if any(find_spec(name) is None for name in ("monai", "ignite", "fire", "tensorboard")):
    pytest.skip('needs MONAI and what its bundles need: pip install "prox-monai[monai]"', allow_module_level=True)

from monai.bundle import ConfigParser

from prox_monai.evaluation.subnets import read_rows

TINY = {
    "patch": [16, 16, 16],
    "architecture::channels": [4, 8],
    "architecture::strides": [[1, 1, 1], [2, 2, 2]],
    "space::sections": 3,
    "space::groups": "$unet_groups(2)",
    "space::width": [0.5, 1],
    "space::resolution": [0.5, 1],
}


def tumour(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Four channels and labels: a shell of edema around a core, half of which enhances."""
    grid = np.stack(np.meshgrid(*(np.arange(20.0),) * 3, indexing="ij"))
    radius = np.sqrt(((grid - rng.uniform(8, 12, size=(3, 1, 1, 1))) ** 2).sum(0))
    label = np.where(radius < 7, 1, 0)
    label[radius < 5] = 2
    label[(radius < 5) & (grid[0] > 10)] = 3
    image = rng.normal(10, 1, size=(20, 20, 20, 4)) + label[..., None] * np.array([4.0, -3.0, 5.0, 2.0])
    return image.astype(np.float32), label.astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tumours") / "Task98_Tumours"
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    training = []
    for case in range(2):
        image, label = tumour(np.random.default_rng(case))
        for name, volume in (("imagesTr", image), ("labelsTr", label)):
            nib.save(nib.Nifti1Image(volume, np.eye(4)), folder / name / f"case_{case}.nii.gz")
        training.append({"image": f"imagesTr/case_{case}.nii.gz", "label": f"labelsTr/case_{case}.nii.gz"})
    channels = {str(number): name for number, name in enumerate(("FLAIR", "T1w", "T1gd", "T2w"))}
    labels = {"0": "background", "1": "edema", "2": "non-enhancing tumour", "3": "enhancing tumour"}
    description = {"name": "Tumours", "modality": channels, "labels": labels, "training": training}
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory, bundle_of):
    folder = tmp_path_factory.mktemp("trained")
    override = {
        **TINY,
        "ckpt_dir": str(folder / "models"),
        "output_dir": str(folder / "eval"),
        "dataset_dir": str(data),
        "fold": "all",
        "epochs": [1, 1, 1, 1, 6, 1],
        "iterations_per_epoch": 4,
        "val_interval": 11,
        "num_workers": 0,
        "cache_rate": 1.0,
    }
    bundle = bundle_of("brats_mri_prox_segmentation", override)
    bundle.run("train", "train.json")
    return bundle


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
