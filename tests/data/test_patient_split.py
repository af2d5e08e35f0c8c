from __future__ import annotations

import logging
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from prox_monai.data.class_folders import LabelledImage, read_class_folders
from prox_monai.data.patient_split import grouped_folds, halves

CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")


def cohort(*patients, counts=(1, 2, 3)):
    """Images of so many patients per class, who have 1, 2 or 3 images in turn."""
    return tuple(
        LabelledImage(Path(f"{name}/{name}-{patient}-{number}.jpeg"), label, name, f"{name}{patient}")
        for label, (name, of_class) in enumerate(zip(CLASSES, patients, strict=False))
        for patient in range(of_class)
        for number in range(counts[patient % len(counts)])
    )


def with_splits(images, splits):
    """The images with a split per patient, in order of appearance."""
    patients = list(dict.fromkeys(image.patient for image in images))
    split = dict(zip(patients, splits, strict=True))
    return tuple(replace(image, split=split[image.patient]) for image in images)


def patients(images):
    return {image.patient for image in images}


def classes(images):
    return {image.class_name for image in images}


@pytest.fixture
def sklearn():
    return pytest.importorskip("sklearn", reason='needs pip install "prox-monai[monai]"')


@pytest.fixture
def real_oct(data_folder):
    folder = data_folder / "oct2017_subset"
    if not folder.is_dir():
        pytest.skip(f"no oct2017_subset in {data_folder}")
    return read_class_folders(folder, CLASSES)


def check_folds(images, folds, seed):
    """No patient on both sides, every image unseen once, and every class on both sides."""
    pairs = [grouped_folds(images, folds, fold, seed) for fold in range(folds)]
    for training, unseen in pairs:
        assert not patients(training) & patients(unseen)
        assert sorted(training + unseen, key=images.index) == list(images)
        assert classes(training) == classes(unseen) == classes(images)
    assert Counter(image for _, unseen in pairs for image in unseen) == Counter(images)
    return pairs


def test_folds_keep_patients_together_and_classes_apart(sklearn):
    images = cohort(6, 3, 4, 9)
    pairs = check_folds(images, 3, seed=0)
    everywhere = Counter(image.class_name for image in images)
    for _, unseen in pairs:
        counts = Counter(image.class_name for image in unseen)
        assert all(abs(counts[name] - everywhere[name] / 3) <= 2 for name in CLASSES)


def test_seed_decides_the_folds(sklearn):
    images = cohort(6, 6, 6, 6)
    assert grouped_folds(images, 3, 0, seed=0) == grouped_folds(images, 3, 0, seed=0)
    assert len({grouped_folds(images, 3, 0, seed) for seed in range(4)}) > 1


@pytest.mark.parametrize(
    ("folds", "fold", "message"),
    [
        (1, 0, "folds must be at least 2, not 1"),
        (3, 3, "fold must be 0 to 2, not 3"),
        (3, -1, "fold must be 0 to 2, not -1"),
        (4, 0, "at most the number of patients of each class, not 4: DME has 3, DRUSEN has 2"),
    ],
)
def test_bad_folds(folds, fold, message):
    with pytest.raises(ValueError, match=message):
        grouped_folds(cohort(6, 3, 3 if folds < 4 else 2), folds, fold, seed=0)


def test_given_numbers_are_the_folds():
    images = with_splits(cohort(3, 3), "012201")
    for fold in range(3):
        training, unseen = grouped_folds(images, 3, fold, seed=fold)
        assert {image.split for image in unseen} == {str(fold)}
        assert set(training) == set(images) - set(unseen)


def test_given_train_and_test_are_one_fold():
    images = with_splits(cohort(2, 2), ["train", "test", "train", "test"])
    training, unseen = grouped_folds(images, 1, 0, seed=0)
    assert patients(training) == {"CNV0", "DME0"}
    assert patients(unseen) == {"CNV1", "DME1"}


@pytest.mark.parametrize(
    ("splits", "folds", "fold", "message"),
    [
        (["train", "test"] * 2, 5, 0, "folds must be 1, as the column split of the manifest says, not 5"),
        ("0101", 5, 0, "folds must be 2, as the column split"),
        ("0101", 2, 2, "fold must be 0 to 1, not 2"),
        ("0011", 2, 1, "images to train on in fold 1 have none of DME"),
    ],
)
def test_given_splits_that_do_not_fit(splits, folds, fold, message):
    with pytest.raises(ValueError, match=message):
        grouped_folds(with_splits(cohort(2, 2), splits), folds, fold, seed=0)


def test_a_class_that_is_not_measured_is_logged(caplog):
    images = with_splits(cohort(2, 2), ["train", "test", "train", "train"])
    with caplog.at_level(logging.WARNING):
        grouped_folds(images, 1, 0, seed=0)
    assert "unseen images of fold 0 have none of DME" in caplog.text


@pytest.mark.parametrize("of_class", [(4, 2, 2, 6), (1, 1, 2), (2, 0), (1, 3, 1, 1)])
def test_halves_share_no_patient_and_all_classes_that_can_be_shared(sklearn, of_class):
    images = cohort(*of_class)
    tuning, reporting = halves(images, seed=0)
    assert sorted(tuning + reporting, key=images.index) == list(images)
    assert not patients(tuning) & patients(reporting)
    shared = {name for name, count in zip(CLASSES, of_class, strict=False) if count > 1}
    assert shared <= classes(tuning)
    assert shared <= classes(reporting)


def test_halves_are_a_function_of_images_and_seed(sklearn):
    images = cohort(6, 6)
    assert halves(images, seed=3) == halves(images, seed=3)
    assert len({halves(images, seed) for seed in range(6)}) > 1


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ((), "at least 2 patients to be halved, not 0"),
        (cohort(1, counts=(5,)), "at least 2 patients to be halved, not 1"),
        (cohort(1, 1), "a class of at least 2 images to be halved; each has 1"),
    ],
)
def test_what_cannot_be_halved(images, message):
    with pytest.raises(ValueError, match=message):
        halves(images, seed=0)


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.model_selection", None)
    with pytest.raises(ImportError, match=r'by patient needs scikit-learn: pip install "prox-monai\[monai\]"'):
        grouped_folds(cohort(2, 2), 2, 0, seed=0)


@pytest.mark.parametrize("seed", range(5))
def test_real_oct_in_five_folds(sklearn, real_oct, seed):
    for _, unseen in check_folds(real_oct, 5, seed):
        tuning, reporting = halves(unseen, seed)
        assert not patients(tuning) & patients(reporting)
        assert min(len(tuning), len(reporting)) >= 10
