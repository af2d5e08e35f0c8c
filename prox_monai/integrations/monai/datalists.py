"""Lists of cases for a bundle: which train, which choose, which report."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from sklearn.model_selection import KFold

from prox_monai.data import DecathlonDataset, check_decathlon, download_decathlon, read_decathlon
from prox_monai.data.class_folders import SUFFIXES, LabelledImage, check_class_folders, read_class_folders
from prox_monai.data.patient_split import grouped_folds, halves
from prox_monai.data.problems import raise_for_problems
from prox_monai.evaluation.subnets import split_cases
from prox_monai.integrations.monai.ranks import of_first_rank

_NNUNET_SEED = 12345
_SPELLINGS = ((r"tumour", "tumor"), (r"oedema", "edema"), (r"\bnon[-_ ]", "non"))

logger = logging.getLogger(__name__)

Items = list[dict[str, Any]]


def decathlon_split(
    dataset_dir: str | Path,
    *,
    channels: int | Sequence[str],
    labels: Sequence[str],
    fold: int | str = 0,
    folds: int = 5,
    download: str | None = None,
) -> dict[str, Items]:
    """Split the cases of a folder in the Decathlon layout: ``training``, ``tuning`` and ``reporting``.

    The folds are nnU-Net's for the same case names. The unseen cases of a fold are halved by name: what is chosen is
    chosen on the tuning half, what is reported is measured on the reporting half. Everything is checked before: files,
    shapes, channels, labels with every value.

    Args:
        dataset_dir: the folder, with its ``dataset.json``.
        channels: names of the image channels that the network takes, or only their number.
        labels: names of the labels, the background first. A name of the data set fits if its words are among those of
            the name here or the other way round: "Anterior" is the "anterior hippocampus".
        fold: from 0; ``"all"`` trains on all cases, and then nothing is unseen.
        folds: number of folds.
        download: task of the Decathlon that is fetched, where ``dataset_dir`` does not exist, into the folder around
            it; None never does.

    Returns:
        Lists of ``{"image": path, "label": path, "case": name}``.

    Raises:
        ValueError: When the folder is not there, is not in order, is of another task, or has no such fold.
        RuntimeError: When a download fails.
    """
    folder = Path(dataset_dir)
    if download:
        folder = of_first_rank(lambda: _fetched(folder, download))
    if not folder.is_dir():
        raise ValueError(
            f"dataset_dir must be a folder in the Decathlon layout, with a dataset.json, got {folder}; give "
            f"--dataset_dir, or --download true where the official archive may be fetched."
        )
    dataset = read_decathlon(folder)
    check_decathlon(dataset)
    _check_task(dataset, channels, labels)
    _check_values(dataset)
    items = [{"image": str(image), "label": str(label), "case": name} for name, image, label in sorted(dataset.cases)]
    if fold == "all":
        logger.warning("fold 'all': no case is unseen; what is measured says how well the training is fitted.")
        return {"training": items, "tuning": items, "reporting": items}
    training, unseen = _fold(items, fold, folds)
    tuning, reporting = split_cases(item["case"] for item in unseen)
    halves = {"tuning": tuning, "reporting": reporting}
    return {"training": training} | {
        half: [item for item in unseen if item["case"] in names] for half, names in halves.items()
    }


def class_folder_split(
    dataset_dir: str | Path, *, classes: Sequence[str], fold: int | str = 0, folds: int = 5, seed: int = 0
) -> dict[str, Items]:
    """Split the images of class folders by patient: ``training``, ``tuning`` and ``reporting``.

    Stratified by class as well as patients allow. What is chosen is chosen on the tuning half of the unseen images,
    what is reported is measured on the reporting half. Everything is checked before: folders, manifest, every image.

    Args:
        dataset_dir: holds a folder per class with JPEG and PNG images, and perhaps a ``manifest.csv``.
        classes: names of the classes in order of their label, as the folders are called.
        fold: from 0; ``"all"`` trains on all images, and then nothing is unseen.
        folds: number of folds.
        seed: the split is a function of it and of the images.

    Returns:
        Lists of ``{"image": path, "label": index, "case": name, "patient": name}``.

    Raises:
        ValueError: When the folder is not there or not in order, an image cannot be read as one grey channel of 8 bits,
            or there is no such fold.
    """
    if not Path(dataset_dir).is_dir():
        raise ValueError(
            f"dataset_dir must be a folder that holds the folders {', '.join(classes)}, got {dataset_dir}; give "
            f"--dataset_dir."
        )
    if fold != "all" and not isinstance(fold, int):
        raise ValueError(f"fold must be in 0 ... {folds - 1}, or 'all', got {fold!r}.")
    images = read_class_folders(dataset_dir, classes)
    check_class_folders(images)
    if fold == "all":
        logger.warning("fold 'all': no image is unseen; what is measured says how well the training is fitted.")
        items = _labelled_items(images)
        return {"training": items, "tuning": items, "reporting": items}
    training, unseen = grouped_folds(images, folds, fold, seed)
    tuning, reporting = halves(unseen, seed)
    split = {"training": training, "tuning": tuning, "reporting": reporting}
    return {side: _labelled_items(part) for side, part in split.items()}


def balancing_weights(items: Iterable[dict[str, Any]]) -> list[float]:
    """Return a relative frequency per item, with which every label is drawn equally often.

    Args:
        items: with a ``"label"`` each.
    """
    labels = [item["label"] for item in items]
    counts = Counter(labels)
    return [1 / counts[label] for label in labels]


def grey_images_of(folder: str | Path) -> list[str]:
    """Return the images to predict: all JPEG and PNG files of a folder and of the folders in it.

    Raises:
        ValueError: When there is none, or one cannot be read as one grey channel of 8 bits.
    """
    images = sorted(
        path
        for pattern in ("*", "*/*")
        for path in Path(folder).glob(pattern)
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    if not images:
        raise ValueError(f"dataset_dir {folder} holds no {', '.join(SUFFIXES)} file, nor do the folders in it.")
    check_class_folders([LabelledImage(path, label=0, class_name="", patient=path.name) for path in images])
    return [str(path) for path in images]


def _labelled_items(images: Iterable[LabelledImage]) -> Items:
    return [
        {
            "image": str(image.path),
            "label": image.label,
            "case": f"{image.class_name}/{image.path.name}",
            "patient": image.patient,
        }
        for image in images
    ]


def _fetched(folder: Path, task: str) -> Path:
    """The folder of a task of the Decathlon, downloaded where it does not exist."""
    if folder.exists():
        return folder
    if folder.name != task:
        raise ValueError(f"dataset_dir must be a folder called {task} to be downloaded, got {folder}.")
    return download_decathlon(task, folder.parent)


def _check_task(dataset: DecathlonDataset, channels: int | Sequence[str], labels: Sequence[str]) -> None:
    """Refuse a data set of another task, or of the same with its channels or labels in another order."""
    found = dataset.channel_names
    if isinstance(channels, int):
        if len(found) != channels:
            raise ValueError(f"{dataset.folder} has {len(found)} channels ({', '.join(found)}), not {channels}.")
    elif not _fit(found, channels):
        raise ValueError(f"{dataset.folder} has channels {_listed(found)}; this network is for {_listed(channels)}.")
    if not _fit(dataset.labels[1:], labels[1:]):  # the background is 0 under any name
        raise ValueError(
            f"{dataset.folder} has labels {_listed(dataset.labels)}; this network is for {_listed(labels)}."
        )


def _fit(found: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether names stand for the same things in the same order."""
    pairs = [(_words(ours), _words(theirs)) for ours, theirs in zip(found, wanted, strict=False)]
    return len(found) == len(wanted) and all(a and b and (a <= b or b <= a) for a, b in pairs)


def _words(name: str) -> set[str]:
    name = name.casefold()
    for pattern, spelling in _SPELLINGS:
        name = re.sub(pattern, spelling, name)
    return set(re.findall(r"[^\W_]+", name))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _check_values(dataset: DecathlonDataset) -> None:
    """Read every label map: one with a value that is not declared would end a training in its middle."""

    def others(case: tuple[str, Path, Path]) -> str | None:
        values = np.unique(np.asanyarray(nib.load(case[2]).dataobj))
        wrong = [value for value in values.tolist() if value not in range(len(dataset.labels))]
        return f"{case[2]} has the label {wrong[0]:g}, not 0 to {len(dataset.labels) - 1}" if wrong else None

    with ThreadPoolExecutor() as pool:
        raise_for_problems(dataset.folder, [problem for problem in pool.map(others, dataset.cases) if problem])


def _fold(items: Items, fold: int | str, folds: int) -> tuple[Items, Items]:
    if not isinstance(folds, int) or folds < 2:
        raise ValueError(f"folds must be an integer >= 2, got {folds!r}.")
    if not isinstance(fold, int) or not 0 <= fold < folds:
        raise ValueError(f"fold must be in 0 ... {folds - 1}, or 'all', got {fold!r}.")
    if len(items) < 2 * folds:
        raise ValueError(
            f"{len(items)} cases cannot be split into {folds} folds with a tuning and a reporting half: give fewer "
            f"folds, or --fold all, which has no unseen case."
        )
    splits = KFold(folds, shuffle=True, random_state=_NNUNET_SEED).split(items)
    training, unseen = list(splits)[fold]
    return [items[i] for i in training], [items[i] for i in unseen]
