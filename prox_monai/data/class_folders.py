"""Images in one folder per class, such as retinal OCT of Kermany et al. 2018: read, check, weigh, list."""

from __future__ import annotations

import csv
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from prox_monai.data.problems import raise_for_problems

logger = logging.getLogger(__name__)

SUFFIXES = (".jpeg", ".jpg", ".png")
FORMATS = ("JPEG", "PNG")
GREY = "L"  # Pillow's mode of one channel of 8 bits, which is what OCT devices export
COLUMNS = ("file", "class", "patient")


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image, what it shows and whom it is of.

    Attributes:
        path: the file.
        label: index of the class.
        class_name: name of the class.
        patient: images of one patient stay on one side of every split.
        split: ``train``, ``test`` or the number of a fold, where the manifest has such a column.
    """

    path: Path
    label: int
    class_name: str
    patient: str
    split: str | None = None


def read_class_folders(folder: str | PathLike[str], classes: Sequence[str]) -> tuple[LabelledImage, ...]:
    """List the images of a folder in order of label and name; none is opened, see ``check_class_folders``.

    Args:
        folder: holds a folder per class with .jpeg, .jpg and .png files; hidden files and ``._*`` are ignored. A
            ``manifest.csv`` with the columns ``file`` (relative to the folder), ``class`` and ``patient`` decides
            which of them there are; its column ``split`` is optional, further columns are ignored.
        classes: names of the classes in order of their label, as the folders are called.

    Raises:
        ValueError: When ``folder`` is no folder, its folders are not ``classes``, a class has no image, or the
            manifest is malformed, names a missing file or another class than the file's folder, or has one patient
            on both sides of its split. All problems are counted, the first ten are listed.

    Without a manifest the patient is read from names of the form ``CLASS-<patient>-<number>.jpeg``; an image with
    another name is a patient of its own, and the number of these is logged. A patient may have images of several
    classes.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give one that holds the folders {', '.join(classes)}.")
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise ValueError(f"classes must be at least two different names, not {', '.join(classes) or 'none'}.")
    raise_for_problems(folder, _folder_problems(folder, classes))
    manifest = folder / "manifest.csv"
    read = _from_manifest if manifest.is_file() else _from_names
    images, problems = read(folder, classes)
    raise_for_problems(folder, problems)
    source = "is not in manifest.csv" if manifest.is_file() else f"has no {_either(SUFFIXES)} file"
    present = {image.class_name for image in images}
    raise_for_problems(folder, [f"class {name} {source}" for name in classes if name not in present])
    return tuple(sorted(images, key=lambda image: (image.label, image.path.as_posix())))


def check_class_folders(images: Sequence[LabelledImage]) -> None:
    """Check that all images are grey JPEG or PNG files, by content and not by name.

    Args:
        images: as ``read_class_folders`` returns them.

    Raises:
        ValueError: When there is no image, or one is unreadable or cut off, is neither JPEG nor PNG, or is not of
            one channel of 8 bits. All problems are counted, the first ten are listed.
        ImportError: When Pillow is not installed.

    Any size is allowed: scans differ in width, and training resizes them. Colour is refused even where its
    channels agree, as it would be read as three channels. Each image is decoded once, which an epoch does too:
    a JPEG that is cut off has a good header.
    """
    if not images:
        raise ValueError("images must not be empty.")
    logger.info("checking %d images", len(images))
    with ThreadPoolExecutor() as pool:  # Pillow decodes without the interpreter's lock
        problems = [problem for problem in pool.map(_image_problem, [image.path for image in images]) if problem]
    raise_for_problems(images[0].path.parent.parent, problems)


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _image_files(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()]


def _folder_problems(folder: Path, classes: Sequence[str]) -> list[str]:
    found = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")}
    shown = ", ".join(found) or "none"
    problems = [f"class folder {name} is missing; folders here: {shown}" for name in classes if name not in found]
    strangers = [name for name, path in found.items() if name not in classes and _image_files(path)]
    return problems + [f"folder {name} holds images, but is no class of {', '.join(classes)}" for name in strangers]


def _from_names(folder: Path, classes: Sequence[str]) -> tuple[list[LabelledImage], list[str]]:
    pattern = re.compile(rf"(?:{'|'.join(map(re.escape, classes))})-([^-]+)-\d+")
    images, unnamed = [], 0
    for label, name in enumerate(classes):
        for path in _image_files(folder / name):
            match = pattern.fullmatch(path.stem)
            unnamed += not match
            images.append(LabelledImage(path, label, name, match[1] if match else f"{name}/{path.name}"))
    if unnamed:
        form = "CLASS-<patient>-<number>"
        logger.warning(
            "%s: %d of %d images are not named %s; each is its own patient.", folder, unnamed, len(images), form
        )
    return images, []


def _from_manifest(folder: Path, classes: Sequence[str]) -> tuple[list[LabelledImage], list[str]]:
    rows, problems = _manifest_rows(folder / "manifest.csv")
    images = []
    for number, row in rows:
        if problem := _row_problem(folder, classes, row):
            problems.append(f"manifest.csv, line {number}: {problem}")
        else:
            label, path = classes.index(row["class"]), folder / row["file"]
            images.append(LabelledImage(path, label, row["class"], row["patient"], row.get("split") or None))
    counts = Counter(image.path for image in images)
    problems += [f"manifest.csv lists {path.parent.name}/{path.name} {n} times" for path, n in counts.items() if n > 1]
    ignored = sum(path not in counts for name in classes for path in _image_files(folder / name))
    if ignored and not problems:
        logger.warning("%s: %d images are not in manifest.csv; left out.", folder, ignored)
    return images, problems + _split_problems(images)


def _manifest_rows(path: Path) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    """Rows with the number of their line, and what is wrong with the columns."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            absent = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if absent:
                return [], [
                    f"manifest.csv has no column {', '.join(absent)}; it has {', '.join(reader.fieldnames or ['none'])}"
                ]
            wanted = {*COLUMNS, "split"} & set(reader.fieldnames or ())
            return [(reader.line_num, {key: (row[key] or "").strip() for key in wanted}) for row in reader], []
    except (UnicodeDecodeError, csv.Error) as error:
        return [], [f"manifest.csv cannot be read as CSV in UTF-8: {error}"]


def _row_problem(folder: Path, classes: Sequence[str], row: dict[str, str]) -> str | None:
    empty = [column for column in COLUMNS if not row[column]]
    if empty:
        return f"{', '.join(empty)} is empty"
    path = folder / row["file"]
    if row["class"] not in classes:
        return f"class must be {_either(classes)}, not {row['class']}"
    if path.parent.name != row["class"]:
        return f"{row['file']} is of class {row['class']}, but not in a folder of this name"
    if path.suffix.lower() not in SUFFIXES:
        return f"{row['file']} is no {_either(SUFFIXES)} file"
    return None if path.is_file() else f"{row['file']} does not exist"


def _split_problems(images: Sequence[LabelledImage]) -> list[str]:
    splits = defaultdict(set)
    for image in images:
        splits[image.patient].add(image.split or "")
    found = set().union(*splits.values())
    if found <= {""}:
        return []
    if found != {"train", "test"} and (len(found) < 2 or found != {str(number) for number in range(len(found))}):
        given = ", ".join(repr(value) for value in sorted(found))
        return [f"manifest.csv: split must be train and test, or 0, 1, 2 ... without a gap, in every row, not {given}"]
    sides = ((patient, sorted(sides)) for patient, sides in splits.items())
    return [
        f"manifest.csv: patient {patient} is on both sides of the split: {', '.join(names)}"
        for patient, names in sides
        if len(names) > 1
    ]


def _image_problem(path: Path) -> str | None:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('reading images needs Pillow: pip install "prox-monai[monai]"') from error
    shown = f"{path.parent.name}/{path.name}"
    try:
        with Image.open(path) as image:
            kind, mode = image.format, image.mode
            image.verify()
        with Image.open(path) as image:  # verify reads a PNG's checksums, but lets a cut JPEG pass
            image.load()
    except Exception as error:  # Pillow's readers raise what they please: OSError, SyntaxError, struct.error ...
        return f"{shown} cannot be read: {error}"
    if kind not in FORMATS:
        return f"{shown} is {kind} by content, not {_either(FORMATS)}"
    return None if mode == GREY else f"{shown} has Pillow's mode {mode}, not {GREY} (grey, 8 bits); convert it"
