"""Split labelled images by patient: folds, and the two halves of what a fold leaves unseen."""

from __future__ import annotations

import logging
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence

from prox_monai.data.class_folders import LabelledImage

logger = logging.getLogger(__name__)

Side = tuple[LabelledImage, ...]


def grouped_folds(images: Sequence[LabelledImage], folds: int, fold: int, seed: int) -> tuple[Side, Side]:
    """Split images by patient into training and unseen ones, stratified by class.

    Args:
        images: as ``read_class_folders`` returns them.
        folds: number of folds; each image is unseen in one of them.
        fold: which fold, from 0.
        seed: the drawn folds are a function of it and of the images.

    Returns:
        The training images and the unseen ones, each in the order given.

    Raises:
        ValueError: When ``folds`` or ``fold`` is out of range, a class has fewer patients than folds, or training
            lacks a class.
        ImportError: When scikit-learn is not installed.

    A split that the manifest gives is used as it is: ``train`` and ``test`` are one fold, numbers are the folds.
    """
    given = {image.split for image in images} - {None}
    if given:
        count = 1 if given == {"train", "test"} else len(given)
        if folds != count:
            raise ValueError(f"folds must be {count}, as the column split of the manifest says, not {folds}.")
    elif folds < 2:
        raise ValueError(f"folds must be at least 2, not {folds}.")
    if not 0 <= fold < folds:
        raise ValueError(f"fold must be 0 to {folds - 1}, not {fold}.")
    if given:
        held_out = "test" if folds == 1 else str(fold)
        training = tuple(image for image in images if image.split != held_out)
        unseen = tuple(image for image in images if image.split == held_out)
    else:
        _refuse_too_few_patients(images, folds)
        training, unseen = _stratified_by_patient(images, folds, fold, seed)
    if absent := _absent_classes(images, training):
        raise ValueError(f"images to train on in fold {fold} have none of {absent}; split otherwise.")
    if absent := _absent_classes(images, unseen):
        logger.warning("The unseen images of fold %d have none of %s.", fold, absent)
    return training, unseen


def halves(images: Sequence[LabelledImage], seed: int) -> tuple[Side, Side]:
    """Split unseen images by patient into a tuning half and a reporting half.

    Args:
        images: the unseen images of a fold.
        seed: the halves are a function of it and of the images.

    Returns:
        The two halves, each in the order given, stratified by class as well as the patients allow: a class of
        one patient is in one half only.

    Raises:
        ValueError: When there are fewer than two patients, or no class has two images.
        ImportError: When scikit-learn is not installed.
    """
    patients = {image.patient for image in images}
    if len(patients) < 2:
        raise ValueError(f"images must be of at least 2 patients to be halved, not {len(patients)}.")
    if max(Counter(image.label for image in images).values()) < 2:
        raise ValueError("images must have a class of at least 2 images to be halved; each has 1.")
    return _stratified_by_patient(images, 2, 1, seed)


def _refuse_too_few_patients(images: Sequence[LabelledImage], folds: int) -> None:
    patients = defaultdict(set)
    for image in images:
        patients[image.class_name].add(image.patient)
    few = ", ".join(f"{name} has {len(found)}" for name, found in patients.items() if len(found) < folds)
    if few:
        raise ValueError(f"folds must be at most the number of patients of each class, not {folds}: {few}.")


def _stratified_by_patient(images: Sequence[LabelledImage], folds: int, fold: int, seed: int) -> tuple[Side, Side]:
    try:
        from sklearn.model_selection import StratifiedGroupKFold
    except ImportError as error:
        raise ImportError('splitting by patient needs scikit-learn: pip install "prox-monai[monai]"') from error
    labels, patients = [image.label for image in images], [image.patient for image in images]
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # it warns of a class with a single image, which a half may have
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        pairs = list(splitter.split(labels, labels, patients))
    training, unseen = pairs[fold]
    return tuple(images[index] for index in training), tuple(images[index] for index in unseen)


def _absent_classes(images: Sequence[LabelledImage], side: Side) -> str:
    return ", ".join(sorted({image.class_name for image in images} - {image.class_name for image in side}))
