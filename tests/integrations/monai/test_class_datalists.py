"""Lists of labelled images: split by patient, balanced, checked before anything is trained."""

from __future__ import annotations

import logging
from collections import Counter

import pytest

pytest.importorskip("monai", reason='needs pip install "prox-monai[monai]"')
pytest.importorskip("sklearn", reason='needs pip install "prox-monai[monai]"')
pytest.importorskip("PIL", reason='needs pip install "prox-monai[monai]"')

from PIL import Image

from prox_monai.data.synthetic_classes import write_synthetic_classes
from prox_monai.integrations.monai import balancing_weights, class_folder_split, grey_images_of

CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")
SIDES = ("training", "tuning", "reporting")


@pytest.fixture
def folder(tmp_path):
    return write_synthetic_classes(tmp_path / "oct", patients=6, images_per_patient=2, size=(32, 40))


def split(folder, **options):
    return class_folder_split(folder, **{"classes": CLASSES, "folds": 3} | options)


def test_no_patient_is_on_two_sides_and_every_image_on_one(folder):
    for fold in range(3):
        sides = split(folder, fold=fold)
        assert tuple(sides) == SIDES
        patients = [{item["patient"] for item in items} for items in sides.values()]
        assert all(patients)
        assert sum(map(len, patients)) == len(set.union(*patients)) == 4 * 6
        assert len({item["case"] for items in sides.values() for item in items}) == 4 * 6 * 2
        for items in sides.values():
            assert {item["label"] for item in items} == {0, 1, 2, 3}


def test_folds_leave_every_image_unseen_once(folder):
    unseen = Counter(item["case"] for fold in range(3) for side in SIDES[1:] for item in split(folder, fold=fold)[side])
    assert len(unseen) == 48
    assert set(unseen.values()) == {1}


def test_items_are_what_monai_reads(folder):
    item = split(folder)["training"][0]
    assert set(item) == {"image", "label", "case", "patient"}
    assert item["image"] == str(folder / item["case"])
    assert item["case"].startswith(CLASSES[item["label"]])


def test_the_seed_decides(folder):
    assert split(folder) == split(folder)
    assert split(folder) != split(folder, seed=1)


def test_all_images(folder, caplog):
    with caplog.at_level(logging.WARNING):
        sides = split(folder, fold="all")
    assert {len(items) for items in sides.values()} == {48}
    assert "no image is unseen" in caplog.text


def test_a_manifest_splits(folder):
    manifest = folder / "manifest.csv"
    head, *rows = manifest.read_text().splitlines()
    sides = ["test" if row.split(",")[2].endswith(("1", "2")) else "train" for row in rows]
    manifest.write_text("\n".join([f"{head},split", *(f"{row},{side}" for row, side in zip(rows, sides, strict=True))]))
    assert {item["patient"][-1] for item in split(folder, folds=1)["training"]} == {"3", "4", "5", "6"}
    with pytest.raises(ValueError, match=r"folds must be 1, as the column split of the manifest says, not 3"):
        split(folder)


def test_every_label_is_drawn_equally_often():
    items = [{"label": label} for label in (0, 0, 0, 2, 1, 1)]
    weights = balancing_weights(items)
    shares = Counter()
    for item, weight in zip(items, weights, strict=True):
        shares[item["label"]] += weight / sum(weights)
    assert shares == pytest.approx({0: 1 / 3, 1: 1 / 3, 2: 1 / 3})


def test_images_to_predict(folder):
    assert grey_images_of(folder / "CNV") == sorted(map(str, (folder / "CNV").iterdir()))
    (folder / "NORMAL" / ".hidden.png").write_bytes(b"")
    assert len(grey_images_of(folder)) == 48


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "CNV/CNV-1001-1.jpeg").write_bytes(b"no image"), r"CNV/CNV-1001-1.jpeg cannot be read"),
        (
            lambda f: Image.new("RGB", (40, 40)).save(f / "DME/DME-2001-1.jpeg"),
            r"DME-2001-1.jpeg has Pillow's mode RGB",
        ),
        (lambda f: Image.new("I;16", (40, 40)).save(f / "CNV/a.png"), r"CNV/a.png has Pillow's mode I;16, not L"),
    ],
)
def test_images_that_are_not_grey(folder, damage, message):
    (folder / "manifest.csv").unlink()
    damage(folder)
    with pytest.raises(ValueError, match=message):
        split(folder)
    with pytest.raises(ValueError, match=message):
        grey_images_of(folder)


def lose_class(folder):
    for path in (folder / "DRUSEN").iterdir():
        path.unlink()
    (folder / "DRUSEN").rmdir()


def empty_class(folder):
    (folder / "manifest.csv").unlink()
    for path in (folder / "DRUSEN").iterdir():
        path.unlink()


def two_sides(folder):
    (folder / "manifest.csv").write_text(
        "file,class,patient,split\n"
        "CNV/CNV-1001-1.jpeg,CNV,7,train\nCNV/CNV-1001-2.jpeg,CNV,7,test\n"
        "DME/DME-2001-1.jpeg,DME,8,train\nDRUSEN/DRUSEN-3001-1.jpeg,DRUSEN,9,test\nNORMAL/NORMAL-4001-1.jpeg,NORMAL,1,test"
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_class, r"class folder DRUSEN is missing; folders here: CNV, DME, NORMAL"),
        (empty_class, r"class DRUSEN has no .jpeg, .jpg or .png file"),
        (lambda f: (f / "CNV/CNV-1001-1.jpeg").unlink(), r"manifest.csv, line 2: CNV/CNV-1001-1.jpeg does not exist"),
        (two_sides, r"patient 7 is on both sides of the split: test, train"),
    ],
)
def test_folders_that_are_not_in_order(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        split(folder)


def test_no_folder(tmp_path):
    with pytest.raises(ValueError, match=r"dataset_dir must be a folder that holds .*; give --dataset_dir"):
        split(tmp_path / "missing")
    with pytest.raises(ValueError, match=r"dataset_dir .* holds no .jpeg, .jpg, .png file, nor do the folders in it"):
        grey_images_of(tmp_path)


@pytest.mark.parametrize("fold", ["0", 1.0, None])
def test_a_fold_that_is_no_number(folder, fold):
    with pytest.raises(ValueError, match=rf"fold must be in 0 ... 2, or 'all', got {fold!r}"):
        split(folder, fold=fold)


def test_no_such_fold(folder):
    with pytest.raises(ValueError, match=r"fold must be 0 to 2, not 3"):
        split(folder, fold=3)


def test_the_real_images(data_folder):
    sides = split(data_folder / "oct2017_subset", folds=5)
    assert sum(map(len, sides.values())) == 208
    assert {item["label"] for item in sides["training"]} == {0, 1, 2, 3}
