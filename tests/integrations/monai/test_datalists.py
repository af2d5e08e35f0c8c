"""A bundle's cases: nnU-Net's folds, halves that never meet, everything checked before."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

if find_spec("monai") is None or find_spec("ignite") is None:
    pytest.skip('needs MONAI and ignite: pip install "prox-monai[monai]"', allow_module_level=True)

from prox_monai.data import read_decathlon, write_synthetic_decathlon
from prox_monai.integrations.monai import datalists
from prox_monai.integrations.monai.datalists import decathlon_split

LABELS = ("background", "head", "tail")
HIPPOCAMPUS = ("background", "anterior hippocampus", "posterior hippocampus")
TUMOUR = ("background", "edema", "non-enhancing tumour", "enhancing tumour")
SEQUENCES = ("FLAIR", "T1w", "T1gd", "T2w")
SIZE = (12, 12, 12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_synthetic_decathlon(tmp_path_factory.mktemp("data") / "Task99_Synthetic", cases=11, size=SIZE)


def split(folder, **options):
    return decathlon_split(folder, **{"channels": 1, "labels": LABELS} | options)


def names(items):
    return [item["case"] for item in items]


def check_halves(parts, all_names):
    unseen = sorted(names(parts["tuning"]) + names(parts["reporting"]))
    assert sorted(names(parts["training"]) + unseen) == sorted(all_names)
    assert len(set(unseen)) == len(unseen)
    assert 0 <= len(parts["tuning"]) - len(parts["reporting"]) <= 1


@pytest.mark.parametrize("folds", [2, 5])
def test_folds_are_nnunets(folder, folds):
    nnunet = pytest.importorskip("nnunetv2.utilities.crossval_split")
    cases = sorted(name for name, _, _ in read_decathlon(folder).cases)
    for fold, theirs in enumerate(nnunet.generate_crossval_split(cases, n_splits=folds)):
        parts = split(folder, fold=fold, folds=folds)
        assert names(parts["training"]) == theirs["train"]
        assert sorted(names(parts["tuning"]) + names(parts["reporting"])) == theirs["val"]


def test_every_case_is_unseen_in_one_fold_and_the_halves_never_meet(folder):
    cases = [name for name, _, _ in read_decathlon(folder).cases]
    unseen = []
    for fold in range(5):
        parts = split(folder, fold=fold)
        check_halves(parts, cases)
        unseen += names(parts["tuning"]) + names(parts["reporting"])
    assert sorted(unseen) == sorted(cases)


def test_items_are_files_of_their_case(folder):
    for items in split(folder).values():
        for item in items:
            assert Path(item["image"]) == folder / "imagesTr" / f"{item['case']}.nii.gz"
            assert Path(item["label"]) == folder / "labelsTr" / f"{item['case']}.nii.gz"


def test_the_split_is_of_the_names_not_of_their_order(folder, tmp_path):
    shuffled = tmp_path / "data"
    shuffled.mkdir()
    content = json.loads((folder / "dataset.json").read_text())
    content["training"].reverse()
    (shuffled / "dataset.json").write_text(json.dumps(content))
    for part in ("imagesTr", "labelsTr"):
        (shuffled / part).symlink_to(folder / part)
    ours, theirs = split(folder), split(shuffled)
    assert {part: names(items) for part, items in ours.items()} == {part: names(theirs[part]) for part in ours}


def test_all_cases_train_and_it_is_said(folder, caplog):
    parts = split(folder, fold="all")
    assert [len(names(parts[part])) for part in ("training", "tuning", "reporting")] == [11, 11, 11]
    assert "no case is unseen" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fold": 5}, r"fold must be in 0 \.\.\. 4, or 'all', got 5"),
        ({"fold": -1}, r"fold must be in 0 \.\.\. 4, or 'all', got -1"),
        ({"fold": "0"}, r"fold must be in 0 \.\.\. 4, or 'all', got '0'"),
        ({"folds": 1}, "folds must be an integer >= 2, got 1"),
        ({"folds": 6}, "11 cases cannot be split into 6 folds with a tuning and a reporting half: give fewer folds"),
        ({"channels": 4}, r"has 1 channels \(synthetic\), not 4"),
        ({"channels": SEQUENCES}, "has channels synthetic; this network is for FLAIR, T1w, T1gd, T2w"),
        ({"channels": ["MRI"]}, "has channels synthetic; this network is for MRI"),
        ({"labels": LABELS[:2]}, "has labels background, head, tail; this network is for background, head"),
        ({"labels": HIPPOCAMPUS}, "has labels background, head, tail; this network is for background, anterior"),
        ({"labels": ("background", "tail", "head")}, "has labels background, head, tail; this network is for backgr"),
    ],
)
def test_what_does_not_fit_is_refused(folder, options, message):
    with pytest.raises(ValueError, match=message):
        split(folder, **options)


def renamed(folder: Path, other: Path, **fields) -> Path:
    """The same data under another `dataset.json`."""
    other.mkdir()
    for part in ("imagesTr", "labelsTr"):
        (other / part).symlink_to(folder / part)
    (other / "dataset.json").write_text(json.dumps(json.loads((folder / "dataset.json").read_text()) | fields))
    return other


@pytest.mark.parametrize(
    ("names", "wanted", "fits"),
    [
        (("Anterior", "Posterior"), HIPPOCAMPUS[1:], True),
        (("Posterior", "Anterior"), HIPPOCAMPUS[1:], False),
        (("pancreas", "cancer"), HIPPOCAMPUS[1:], False),
        (("liver", "cancer"), HIPPOCAMPUS[1:], False),
        (("edema", "non-enhancing tumor", "enhancing tumour"), TUMOUR[1:], True),
        (("Peritumoral_oedema", "necrotic and non-enhancing tumor core", "GD-enhancing tumor"), TUMOUR[1:], True),
        (("edema", "enhancing tumour", "non-enhancing tumour"), TUMOUR[1:], False),
        (("necrotic core", "edema", "enhancing tumour"), TUMOUR[1:], False),
        (("1", "2", "3"), TUMOUR[1:], False),
        (("FLAIR", "T1w", "t1gd", "T2w"), SEQUENCES, True),
        (("T1w", "FLAIR", "T1gd", "T2w"), SEQUENCES, False),
        (("FLAIR", "T1w", "T1gd"), SEQUENCES, False),
    ],
)
def test_names_tell_tasks_and_orders_apart(names, wanted, fits):
    assert datalists._fit(names, wanted) is fits


def test_a_label_is_known_by_a_part_of_its_name(folder, tmp_path):
    """The background by its value alone."""
    other = renamed(folder, tmp_path / "data", labels={"0": "clear", "1": "Anterior", "2": "Posterior"})
    for parts in zip(split(other, labels=HIPPOCAMPUS).values(), split(folder).values(), strict=True):
        assert names(parts[0]) == names(parts[1])


@pytest.mark.parametrize("kind", ["absent", "a file", "empty"])
def test_a_folder_that_is_none_is_refused(tmp_path, kind):
    folder = tmp_path / "data"
    if kind == "a file":
        folder.write_text("")
    if kind == "empty":
        folder.mkdir()
    message = {"empty": "has no dataset.json"}.get(kind, "dataset_dir must be a folder in the Decathlon layout, .* --d")
    with pytest.raises(ValueError, match=message):
        split(folder)


def test_files_are_checked_before(tmp_path):
    folder = write_synthetic_decathlon(tmp_path / "data", cases=11, size=SIZE)
    image = folder / "imagesTr" / "synthetic_003.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.float32), np.eye(4)), image)
    with pytest.raises(ValueError, match="synthetic_003.*3, 4, 5"):
        split(folder)
    image.unlink()
    with pytest.raises(ValueError, match="synthetic_003"):
        split(folder)


def test_a_download_is_made_when_asked_and_only_then(folder, tmp_path, monkeypatch):
    asked = []

    def download(task, root):
        asked.append((task, root))
        return folder

    monkeypatch.setattr(datalists, "download_decathlon", download)
    absent = tmp_path / "data" / "Task99_Synthetic"
    assert split(absent, download="Task99_Synthetic") == split(folder)
    assert asked == [("Task99_Synthetic", tmp_path / "data")]
    split(folder, download="Task99_Synthetic")
    with pytest.raises(ValueError, match="--download true"):
        split(absent)
    assert len(asked) == 1


def test_real_data(data_folder):
    folder = data_folder / "Task04_Hippocampus"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    parts = split(folder, labels=HIPPOCAMPUS)
    check_halves(parts, [name for name, _, _ in read_decathlon(folder).cases])
    assert len(parts["training"]) == 160
    slabs = data_folder / "Task01_BrainTumour_slabs"
    with pytest.raises(ValueError, match=r"has 4 channels \(FLAIR, T1w, .*\), not 1"):
        split(slabs, fold="all", labels=TUMOUR)
    assert split(slabs, fold="all", channels=SEQUENCES, labels=TUMOUR)["training"]
