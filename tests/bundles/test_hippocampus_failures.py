"""What the hippocampus bundle refuses, before training starts: the cause says what is wrong."""

from __future__ import annotations

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

if any(find_spec(name) is None for name in ("monai", "ignite", "fire", "tensorboard")):
    pytest.skip('needs MONAI and what its bundles need: pip install "prox-monai[monai]"', allow_module_level=True)

from prox_monai.evaluation.subnets import read_rows

TRAIN = ("train", "train.json")
EVALUATE = ("train", "train.json", "evaluate.json")
SEARCH = ("train", "train.json", "search.json")
INFER = ("infer", "inference.json")


@pytest.fixture
def data(hippocampus_data, tmp_path) -> Path:
    """A copy of the data to be damaged."""
    return Path(shutil.copytree(hippocampus_data, tmp_path / "data"))


def describe(folder: Path, **fields) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def four_channels(folder: Path) -> None:
    for path in (folder / "imagesTr").iterdir():
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.stack([image.get_fdata(dtype=np.float32)] * 4, axis=-1), image.affine), path)
    describe(folder, modality={str(i): name for i, name in enumerate(("FLAIR", "T1w", "T1gd", "T2w"))})


def a_label_too_many(folder: Path) -> None:
    describe(folder, labels={"0": "background", "1": "head", "2": "tail", "3": "hilus"})


def another_task(folder: Path) -> None:
    """With as many channels and labels."""
    describe(folder, labels={"0": "background", "1": "pancreas", "2": "cancer"})


def another_value(folder: Path) -> None:
    for path in (folder / "labelsTr").iterdir():
        label = nib.load(path)
        values = np.asarray(label.dataobj).copy()
        values[0, 0, 0] = 7
        nib.save(nib.Nifti1Image(values, label.affine), path)


def a_file_gone(folder: Path) -> None:
    next((folder / "labelsTr").iterdir()).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (four_channels, r"has 4 channels \(FLAIR, T1w, T1gd, T2w\), not 1"),
        (a_label_too_many, "has labels background, head, tail, hilus; this network is for background, anterior hipp"),
        (another_task, "has labels background, pancreas, cancer; this network is for background, anterior hippocampus"),
        (another_value, r"labelsTr/synthetic_\d+\.nii\.gz has the label 7, not 0 to 2"),
        (a_file_gone, r"labelsTr/synthetic_\d+\.nii\.gz"),
    ],
)
def test_data_of_another_task(hippocampus, data, refusal, damage, message):
    damage(data)
    assert re.search(message, refusal(lambda: hippocampus.run(*TRAIN, dataset_dir=str(data))))
    assert not hippocampus.model.exists()


def test_no_data(hippocampus, refusal, tmp_path):
    text = refusal(lambda: hippocampus.run(*TRAIN, dataset_dir=str(tmp_path / "none")))
    assert re.search(
        r"dataset_dir must be a folder in the Decathlon layout, .*none; give --dataset_dir, or --dow", text
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"fold": 2}, r"fold must be in 0 ... 1, or 'all', got 2"),
        ({"folds": 3}, "4 cases cannot be split into 3 folds"),
        ({"epochs": 3}, "3 epochs cannot cover 6 phases|6"),
        ({"preset": "plusplus"}, "preset must be one of plus, paper.*got 'plusplus'"),
    ],
)
def test_settings_that_do_not_fit(hippocampus, refusal, override, message):
    assert re.search(message, refusal(lambda: hippocampus.run(*TRAIN, **override)))
    assert not hippocampus.model.exists()


def test_another_folder(hippocampus, refusal, tmp_path, monkeypatch):
    """Every configuration; with `--bundle_root` it works from anywhere."""
    monkeypatch.chdir(tmp_path)
    for names in (TRAIN, EVALUATE, SEARCH, INFER):
        text = refusal(lambda names=names: hippocampus.begin(*names, bundle_root="."))
        assert text.startswith("bundle_root must be the folder of the bundle, with configs/metadata.json, got '.' in ")
        assert str(tmp_path) in text
    hippocampus.begin(*TRAIN)


def test_the_folder_of_another_bundle(hippocampus, refusal):
    for names in (TRAIN, EVALUATE, SEARCH, INFER):
        other = str(hippocampus.folder.with_name("brats_mri_prox_segmentation"))
        text = refusal(lambda names=names, other=other: hippocampus.begin(*names, bundle_root=other))
        assert text.startswith("bundle_root must be the folder of the bundle 'Hippocampus MRI, elastic U-Net (ProX)'")
        assert "which is that of 'Brain tumour MRI" in text


def test_a_training_that_is_there(hippocampus, refusal):
    training = Path(hippocampus.override["ckpt_dir"], "training")
    assert "no training to resume" in refusal(lambda: hippocampus.begin(*TRAIN, resume=True))
    training.mkdir(parents=True)
    (training / "checkpoint_epoch=3.pt").write_text("")
    text = refusal(lambda: hippocampus.begin(*TRAIN))
    assert "holds a training already (checkpoint_epoch=3.pt): go on with --resume true, begin anew with" in text
    assert "give one" in refusal(lambda: hippocampus.begin(*TRAIN, resume=True, overwrite=True))
    assert (training / "checkpoint_epoch=3.pt").exists()


def test_a_wrong_setting_leaves_the_old_training_alone(hippocampus, refusal):
    """Also with leave to overwrite it."""
    training = Path(hippocampus.override["ckpt_dir"], "training")
    training.mkdir(parents=True)
    (training / "checkpoint_epoch=3.pt").write_text("")
    for wrong in (
        {"dataset_dir": "/nowhere"},
        {"epochs": 2},
        {"fold": 9},
        {"space::sections": 5},
        {"architecture::channels": [0, 8]},
        {"patch": [16, 16, 15]},
    ):
        refusal(lambda wrong=wrong: hippocampus.begin(*TRAIN, overwrite=True, **wrong))
        assert (training / "checkpoint_epoch=3.pt").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            {"patch": [16, 16, 15]},
            "patch must be multiples of [2, 2, 2], the product of strides per axis, got",
        ),
        ({"space::resolution": [0.99, 1.0]}, "resolution 1 and 0.99 both lead to an input of"),
        ({"space::resolution": [0.1, 1.0]}, "resolution 0.1 leaves a single voxel at the bottleneck"),
    ],
)
def test_a_patch_that_the_network_cannot_take(hippocampus, refusal, override, message):
    assert message in refusal(lambda: hippocampus.begin(*TRAIN, **override))


def test_cases_of_another_fold_are_not_unseen(trained_hippocampus, refusal):
    for names in (EVALUATE, SEARCH):
        assert "fold is 1, but the model" in refusal(lambda names=names: trained_hippocampus.begin(*names, fold=1))
    text = refusal(lambda: trained_hippocampus.begin(*INFER, patch=[32, 32, 32]))
    assert "patch is [32, 32, 32], but the model" in text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"epochs": 12}, "begun with other phases: 1, 1, 1, 1, 1, 1 epochs, .* now 2, 2, 2, 2, 3, 1 epochs"),
        ({"space::resolution": [1]}, "begun with other phases: .* 256 subnets, now .* 128 subnets"),
        ({"space::width": [0.5]}, "begun with other phases"),
        ({"seed": 1}, "seed is 1, but the training was begun with 0"),
    ],
)
def test_going_on_with_other_settings(trained_hippocampus, refusal, tmp_path, override, message):
    models = Path(shutil.copytree(trained_hippocampus.override["ckpt_dir"], tmp_path / "models"))
    bundle = trained_hippocampus.but(ckpt_dir=str(models), output_dir=str(tmp_path / "eval"))
    if "epochs" not in override and "seed" not in override:
        override = override | {"epochs": 6}
    assert re.search(message, refusal(lambda: bundle.run(*TRAIN, resume=True, **override)))
    ours, theirs = (torch.load(other.model, weights_only=True) for other in (bundle, trained_hippocampus))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize("names", [EVALUATE, SEARCH, INFER])
def test_no_model(hippocampus, refusal, names):
    text = refusal(lambda: hippocampus.begin(*names))
    assert text.endswith("model.pt does not exist; train first, or give --ckpt_dir.")


@pytest.mark.parametrize("subnet", ["tiny", "d3-w1-k3-r1", "d1-w.7-k3-r1"])
def test_a_subnet_outside_the_space(trained_hippocampus, refusal, tmp_path, subnet):
    bundle = trained_hippocampus.but(output_dir=str(tmp_path))
    for call in (
        lambda: bundle.run(*INFER, subnet=subnet),
        lambda: bundle.run(*EVALUATE, subnets=["largest", subnet]),
        lambda: bundle.run(*SEARCH, subnets=["largest", subnet]),
    ):
        text = refusal(call)
        assert subnet in text or re.search(r"depth 3|width 0\.7", text)
        assert "search space" in text or "must have the form 'd2.1-" in text
    assert not list(tmp_path.glob("*.nii.gz"))


def test_a_budget_below_the_fastest(trained_hippocampus, refusal, tmp_path):
    rows = read_rows(Path(trained_hippocampus.override["ckpt_dir"], "subnets.jsonl"))
    fastest = min(rows, key=lambda row: row["latency_ms"])
    bundle = trained_hippocampus.but(output_dir=str(tmp_path), max_latency_ms=1e-4)
    for names in (INFER, SEARCH, EVALUATE):
        text = refusal(lambda names=names: bundle.run(*names))
        assert text.startswith("no known subnet has a latency <= 0.0001 ms; the fastest, ")
        assert f"{fastest['key']}, takes {fastest['latency_ms']:.1f} ms on" in text


def test_a_budget_without_a_search(trained_hippocampus, refusal, tmp_path):
    (tmp_path / "models").mkdir()
    shutil.copy(trained_hippocampus.model, tmp_path / "models")
    bundle = trained_hippocampus.but(ckpt_dir=str(tmp_path / "models"), output_dir=str(tmp_path))
    text = refusal(lambda: bundle.run(*INFER, max_latency_ms=5))
    assert "no subnet is known yet" in text
    assert "configs/search.json" in text


def test_images_of_another_kind(trained_hippocampus, refusal, tmp_path):
    bundle = trained_hippocampus.but(output_dir=str(tmp_path / "eval"), dataset_dir=str(tmp_path))
    assert f"dataset_dir {tmp_path} holds no NIfTI file" in refusal(lambda: bundle.run(*INFER))
    nib.save(nib.Nifti1Image(np.zeros((18, 18, 18, 4), np.float32), np.eye(4)), tmp_path / "four.nii.gz")
    assert refusal(lambda: bundle.run(*INFER)).endswith("four.nii.gz has 4 channels, not 1.")
