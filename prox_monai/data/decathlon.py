"""Folders in the layout of the Medical Segmentation Decathlon (Simpson et al. 2019, arXiv:1902.09063)."""

from __future__ import annotations

import json
import logging
import re
import tempfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from os.path import relpath
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from prox_monai.data.complete import complete_folder
from prox_monai.data.problems import raise_for_problems

logger = logging.getLogger(__name__)

UNREADABLE = (OSError, EOFError, zlib.error, ImageFileError, HeaderDataError)


@dataclass(frozen=True)
class DecathlonDataset:
    """What ``dataset.json`` of a folder says, with the training cases that lie in the folder.

    Attributes:
        folder: the folder that holds ``dataset.json``.
        name: name of the data set.
        channel_names: one name per image channel, in order; nnU-Net chooses the normalisation by them.
        labels: name of each label, in order of its value: 0 is the background.
        cases: identifier, image and label of each training case.
    """

    folder: Path
    name: str
    channel_names: tuple[str, ...]
    labels: tuple[str, ...]
    cases: tuple[tuple[str, Path, Path], ...]


def read_decathlon(folder: str | PathLike[str]) -> DecathlonDataset:
    """Read ``dataset.json`` of a folder; no image is opened, see ``check_decathlon``.

    Args:
        folder: holds ``dataset.json`` and the files that its ``training`` list names. Only listed files are
            read, so the ``._*`` files that macOS leaves behind are ignored.

    Raises:
        ValueError: When ``folder`` is no folder, or its ``dataset.json`` is absent, malformed or incomplete.

    A listed case of which neither image nor label exists is left out, as in a partial copy of the data set,
    and the number of these is logged. A case of which one exists stays in, for ``check_decathlon`` to refuse.
    """
    folder = Path(folder)
    content = _read_json(folder)
    raise_for_problems(folder, _json_problems(content))
    listed = tuple(
        (_identifier(entry["image"]), folder / entry["image"], folder / entry["label"]) for entry in content["training"]
    )
    cases = tuple(case for case in listed if case[1].exists() or case[2].exists())
    if len(cases) < len(listed):
        absent = len(listed) - len(cases)
        logger.warning("%s: %d of %d listed cases have no file here; left out.", folder, absent, len(listed))
    return DecathlonDataset(
        folder=folder,
        name=str(content.get("name") or folder.resolve().name),
        channel_names=_ordered(content.get("channel_names", content.get("modality"))),
        labels=_ordered(content["labels"]),
        cases=cases,
    )


def check_decathlon(dataset: DecathlonDataset) -> None:
    """Check that all files of a data set exist and fit each other; only the headers of images are read.

    Args:
        dataset: as ``read_decathlon`` returns it.

    Raises:
        ValueError: When there is no case, two cases have one identifier, a file is absent or unreadable,
            image and label have different shapes, or an image has not the declared number of channels. All
            problems are counted, the first ten are listed.
    """
    counts = Counter(identifier for identifier, _, _ in dataset.cases)
    problems = [f"case {name} is listed {n} times" for name, n in counts.items() if n > 1]
    if not dataset.cases:
        problems.append("training: no listed case has its image and label here")
    for case in dataset.cases:
        problems += _case_problems(dataset, *case)
    raise_for_problems(dataset.folder, problems)


def to_nnunet_raw(dataset: DecathlonDataset, destination: str | PathLike[str], dataset_id: int) -> Path:
    """Write a data set in nnU-Net's raw format; ``check_decathlon`` comes first.

    Args:
        dataset: a checked data set.
        destination: nnU-Net's folder of raw data sets, the value of ``nnUNet_raw``; made when absent.
        dataset_id: nnU-Net's number of the data set, 1 to 999.

    Returns:
        The folder ``Dataset<id>_<name>`` in ``destination``; it appears when it is complete. 3-D images and
        integer labels are symbolic links, 4-D images are split by channel, floating-point labels are
        rewritten as uint8.

    Raises:
        ValueError: When ``dataset_id`` is out of range, or a floating-point label has an undeclared value.
        FileExistsError: When ``destination`` has a data set of this number.

    nnU-Net's own ``convert_msd_dataset`` wants an ``imagesTs`` folder, a ``test`` list and a folder name
    with one underscore, takes all files instead of the listed ones, and keeps labels that are floats.
    """
    if not 1 <= dataset_id <= 999:
        raise ValueError(f"dataset_id must be 1 to 999, not {dataset_id}.")
    destination = Path(destination)
    for existing in destination.glob(f"Dataset{dataset_id:03d}_*"):
        raise FileExistsError(f"{existing} exists and is not overwritten; remove it or take another id.")
    target = destination / f"Dataset{dataset_id:03d}_{re.sub(r'[^0-9A-Za-z]+', '_', dataset.name)}"
    with complete_folder(target) as partial:
        for folder in ("imagesTr", "labelsTr"):
            (partial / folder).mkdir(parents=True)
        for identifier, image, label in dataset.cases:
            _write_image(image, partial / "imagesTr", identifier)
            _write_label(label, partial / "labelsTr" / f"{identifier}.nii.gz", dataset.labels)
        (partial / "dataset.json").write_text(json.dumps(_nnunet_json(dataset), indent=1), encoding="utf-8")
    return target


def download_decathlon(task: str, root: str | PathLike[str]) -> Path:
    """Download an official archive through MONAI, verify its checksum and extract it.

    Args:
        task: folder name of the task, such as ``Task04_Hippocampus``.
        root: where the archive and the folder are put; made when absent.

    Returns:
        The task's folder in ``root``. When it exists, nothing is downloaded.

    Raises:
        ImportError: When MONAI is not installed.
        ValueError: When MONAI knows no such task.
        RuntimeError: When the archive cannot be downloaded, verified or extracted.
    """
    try:
        from monai.apps import DecathlonDataset as MonaiDecathlon
        from monai.apps import download_and_extract
    except ImportError as error:
        raise ImportError('Downloading needs MONAI: pip install "prox-monai[monai]".') from error
    if task not in MonaiDecathlon.resource:
        raise ValueError(f"task must be one of {', '.join(MonaiDecathlon.resource)}, not {task}.")
    root = Path(root)
    folder = root / task
    if folder.exists():
        logger.info("%s exists; nothing is downloaded.", folder)
        return folder
    root.mkdir(parents=True, exist_ok=True)
    url = MonaiDecathlon.resource[task]
    with tempfile.TemporaryDirectory(prefix=".partial_", dir=root) as partial:
        try:
            download_and_extract(url, root / f"{task}.tar", partial, hash_val=MonaiDecathlon.md5[task], hash_type="md5")
        except Exception as error:  # without a network MONAI 1.6 raises a bare Exception
            raise RuntimeError(
                f"{task} could not be downloaded from {url}: {error} "
                "Without internet access, give a folder in the Decathlon layout instead."
            ) from error
        (Path(partial) / task).rename(folder)
    return folder


def _read_json(folder: Path) -> Any:
    path = folder / "dataset.json"
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give one in the Decathlon layout, with a dataset.json.")
    if not path.is_file():
        raise ValueError(f"{folder} has no dataset.json, so it is not in the Decathlon layout.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error


def _json_problems(content: Any) -> list[str]:
    if not isinstance(content, dict):
        return ["dataset.json must hold an object"]
    names = "channel_names" if "channel_names" in content else "modality"
    problems = [
        f"dataset.json: {key} is missing" + (" (or channel_names)" if key == "modality" else "")
        for key in (names, "labels", "training")
        if key not in content
    ]
    problems += [
        f'dataset.json: {key} must name 0, 1, 2 ... without a gap, as in {{"0": "..."}}, not {content[key]!r}'
        for key in (names, "labels")
        if key in content and not _ordered(content[key])
    ]
    labels = _ordered(content.get("labels"))
    if len(set(labels)) < len(labels):
        problems.append(f"dataset.json: labels must have different names, not {', '.join(labels)}")
    training = content.get("training", [])
    if not isinstance(training, list):
        return [*problems, f"dataset.json: training must be a list, not {training!r}"]
    return problems + [
        f'dataset.json: training[{i}] must be {{"image": "<file>", "label": "<file>"}}, not {entry!r}'
        for i, entry in enumerate(training)
        if not (isinstance(entry, dict) and all(isinstance(entry.get(k), str) for k in ("image", "label")))
    ]


def _ordered(names: Any) -> tuple[str, ...]:
    """Names by number, from ``{"0": name}`` (Decathlon) or ``{name: 0}`` (nnU-Net); else ``()``."""
    if not isinstance(names, Mapping):
        return ()
    numbered = {str(key): str(name) for key, name in names.items()}
    numbers = [str(number) for number in range(len(numbered))]
    if set(numbered) != set(numbers):
        numbered = {number: name for name, number in numbered.items()}
    return tuple(numbered[number] for number in numbers) if set(numbered) == set(numbers) else ()


def _case_problems(dataset: DecathlonDataset, identifier: str, *paths: Path) -> list[str]:
    problems, shapes = [], []
    for kind, path in zip(("image", "label"), paths, strict=True):
        shown = f"{kind} {relpath(path, dataset.folder)}"
        if not path.is_file():
            problems.append(f"case {identifier}: {shown} does not exist")
            continue
        try:
            shapes.append(nib.load(path).shape)
        except UNREADABLE as error:
            problems.append(f"case {identifier}: {shown} cannot be read: {error}")
    if problems:
        return problems
    image, label = shapes
    channels = image[3] if len(image) == 4 else 1
    if len(image) not in (3, 4):
        return [f"case {identifier}: image has {len(image)} axes, not 3, or 4 with the channels last"]
    if image[:3] != label:
        problems.append(f"case {identifier}: image of {image[:3]} voxels, label of {label}; they must agree")
    if channels != len(dataset.channel_names):
        declared = ", ".join(dataset.channel_names)
        problems.append(f"case {identifier}: image has {channels} channels; dataset.json declares {declared}")
    return problems


def _identifier(image: str) -> str:
    return Path(image).name.removesuffix(".gz").removesuffix(".nii")


def _nnunet_json(dataset: DecathlonDataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "channel_names": {str(channel): name for channel, name in enumerate(dataset.channel_names)},
        "labels": {name: value for value, name in enumerate(("background", *dataset.labels[1:]))},
        "numTraining": len(dataset.cases),
        "file_ending": ".nii.gz",
    }


def _write_image(path: Path, folder: Path, identifier: str) -> None:
    image = nib.load(path)
    if image.ndim == 3:
        _link_or_save(path, image, folder / f"{identifier}_0000.nii.gz")
        return
    for channel, volume in enumerate(nib.funcs.four_to_three(image)):
        nib.save(volume, folder / f"{identifier}_{channel:04d}.nii.gz")


def _write_label(path: Path, target: Path, labels: Sequence[str]) -> None:
    label = nib.load(path)
    if label.get_data_dtype().kind != "f":
        _link_or_save(path, label, target)
        return
    values = np.asanyarray(label.dataobj)
    undeclared = np.setdiff1d(values, range(len(labels)))
    if undeclared.size:
        raise ValueError(f"{path} has the value {undeclared[0]:g}, not 0 to {len(labels) - 1} as declared.")
    integers = nib.Nifti1Image(values.astype(np.uint8), label.affine, label.header)
    integers.set_data_dtype(np.uint8)
    nib.save(integers, target)


def _link_or_save(path: Path, image: nib.Nifti1Image, target: Path) -> None:
    if path.name.endswith(".nii.gz"):
        target.symlink_to(path.resolve())
    else:
        nib.save(image, target)
