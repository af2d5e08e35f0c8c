"""Images to predict: found, grouped into cases, and checked before any work."""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from tqdm import tqdm

from prox_monai.data.problems import raise_for_problems
from prox_monai.export.description import file_digest
from prox_monai.integrations.nnunet.deployed import Deployed
from prox_monai.integrations.nnunet.windows import window_starts

logger = logging.getLogger(__name__)

_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


@dataclass(frozen=True, slots=True)
class Case:
    """An image to predict.

    Args:
        name: of the case, and of the label map that it is given.
        files: one per channel, in the channels' order.
    """

    name: str
    files: tuple[Path, ...]

    @property
    def digest(self) -> str:
        """Of the content of its files, the first digits."""
        return hashlib.sha256("".join(map(file_digest, self.files)).encode()).hexdigest()[:12]


def find_cases(source: str | Path, file_ending: str, channels: int) -> list[Case]:
    """Find the cases of a folder, or of one file.

    Files are called as nnU-Net wants it, ``CASE_0000.nii.gz``, ``CASE_0001.nii.gz`` for the second channel; an image
    of the only channel may be called anything. Four digits are a channel if the network has so many, or if there is
    a file of channel 0 beside it. Of one file, other channels are looked for beside it.

    Args:
        source: a folder of images, or one image.
        file_ending: of images, such as ``.nii.gz``.
        channels: number of channels that the network takes.

    Raises:
        FileNotFoundError: When the source does not exist, or holds no image.
        ValueError: When a file has another ending, or a case lacks a channel before its last one, has more than there
            are, or two files of the same; all such cases are named.
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist; give an image or a folder of images.")
    if source.is_file() and not source.name.endswith(file_ending):
        raise ValueError(f"{source} must end in {file_ending}, as the images that the model was trained on.")
    folder = source if source.is_dir() else source.parent
    candidates = [source] if source.is_file() and channels == 1 else folder.iterdir()
    named = (path for path in candidates if path.name.endswith(file_ending) and not path.name.startswith("."))
    files = sorted(path for path in named if path.is_file())
    groups = _grouped({path.name[: -len(file_ending)]: path for path in files}, channels)
    if source.is_file():
        groups = {case: group for case, group in groups.items() if source in (path for _, path in group)}
    if not groups:
        raise FileNotFoundError(f"{folder} holds no image *{file_ending}.")
    problems = [
        f"{case}: has {', '.join(path.name for _, path in group)}; wanted {_wanted(case, file_ending, channels)}"
        for case, group in groups.items()
        if [channel for channel, _ in group] != list(range(len(group))) or len(group) > channels
    ]
    raise_for_problems(folder, problems)
    return [Case(name, tuple(path for _, path in group)) for name, group in groups.items()]


def _grouped(files: Mapping[str, Path], channels: int) -> dict[str, list[tuple[int, Path]]]:
    """Return the channels of each case in order, with their files; two files of one channel are both kept.

    Args:
        files: by name without the ending.
        channels: number of channels that the network takes.
    """
    groups: dict[str, list[tuple[int, Path]]] = {}
    for name, path in files.items():
        match, case, channel = _CHANNEL.fullmatch(name), name, 0
        if match and (int(match["channel"]) < channels or f"{match['case']}_0000" in files):
            case, channel = match["case"], int(match["channel"])
        groups.setdefault(case, []).append((channel, path))
    return {case: sorted(group) for case, group in groups.items()}


def _wanted(case: str, file_ending: str, channels: int) -> str:
    return ", ".join(f"{case}_{channel:04d}{file_ending}" for channel in range(channels))


def check_cases(cases: Sequence[Case], deployed: Deployed, *, count_windows: bool = False) -> int:
    """Read every case once and refuse what cannot be predicted, all of it named.

    Args:
        cases: what will be predicted.
        deployed: what will predict.
        count_windows: also see how many windows the largest case needs.

    Returns:
        The number of windows of the largest case, 0 if not counted.

    Raises:
        ValueError: When a file is no image, has not three dimensions, or a case is empty, has another number of
            channels, a channel that is constant, or values that are not finite.
    """
    problems, most = [], 0
    for case in tqdm(cases, desc="checking", disable=None, leave=False):
        try:
            for path in case.files:
                _check_nifti(path, flat_too=len(deployed.configuration.patch_size) == 2)
            image, properties = read_case(case, deployed)
        except ValueError as error:
            problems.append(str(error))
            continue
        if count_windows:
            most = max(most, _windows(image, properties, deployed))
    if problems:
        raise_for_problems(cases[0].files[0].parent, problems)
    return most


def read_case(case: Case, deployed: Deployed) -> tuple[np.ndarray, dict[str, Any]]:
    """Read the image of a case as ``(C, z, y, x)``, and what nnU-Net's reader says of its geometry.

    Raises:
        ValueError: When it cannot be predicted, see :func:`check_cases`.
    """
    reader = deployed.plans_manager.image_reader_writer_class()
    said = io.StringIO()
    try:
        with redirect_stdout(said):  # a reader prints what it finds wrong, then raises without a word
            image, properties = reader.read_images([str(path) for path in case.files])
    except Exception as error:  # every library behind a reader has its own
        reason = " ".join((str(error) or said.getvalue()).split())[:300] or type(error).__name__
        raise ValueError(f"{case.name}: cannot be read as an image: {reason}") from error
    if warned := " ".join(said.getvalue().split()):
        logger.warning("%s: nnU-Net's reader says: %s", case.name, warned)
    natural = isinstance(reader, NaturalImage2DIO)  # colours are channels of one file there
    if not natural and len(image) != len(case.files):
        raise ValueError(f"{case.name}: is 4-D; wanted one 3-D image per channel ({deployed.channels})")
    if len(image) != deployed.channels:
        wanted = "" if natural else f": wanted {_wanted(case.name, deployed.file_ending, deployed.channels)}"
        raise ValueError(f"{case.name}: has {len(image)} channels, the model takes {deployed.channels}{wanted}")
    if not image.size:
        raise ValueError(f"{case.name}: is empty, its size is {list(image.shape[1:])} voxels")
    if not np.isfinite(image).all():
        raise ValueError(f"{case.name}: holds {np.count_nonzero(~np.isfinite(image))} values that are not finite")
    for number, channel in enumerate(image):
        if channel.min() == channel.max():
            raise ValueError(f"{case.name}: channel {number} is constant, every voxel is {channel.flat[0]:g}")
    return image, properties


def _check_nifti(path: Path, *, flat_too: bool) -> None:
    """Refuse what ITK, behind nnU-Net's reader, repairs in silence: a file that was cut off, values that are no number.

    Args:
        path: of a file, which is looked into if its name says that it is NIfTI.
        flat_too: whether it may also have two dimensions.

    Raises:
        ValueError: When the file is either of them, is empty, or has other dimensions.
    """
    if not path.name.endswith((".nii", ".nii.gz")):
        return
    try:
        values = np.asanyarray(nibabel.load(path).dataobj)
    except Exception as error:  # of the file system, gzip, the header
        raise ValueError(f"{path.name}: cannot be read as an image: {' '.join(str(error).split())[:300]}") from error
    if values.dtype.fields:
        raise ValueError(f"{path.name}: holds colours ({', '.join(values.dtype.fields)}); wanted one number per voxel")
    if not values.size:
        raise ValueError(f"{path.name}: is empty, its size is {list(values.shape)} voxels")
    if values.ndim != 3 and not (flat_too and values.ndim == 2):
        wanted = "2 or 3" if flat_too else "3"
        raise ValueError(
            f"{path.name}: has {values.ndim} dimensions, its size is {list(values.shape)}; wanted {wanted}"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{path.name}: holds {np.count_nonzero(~np.isfinite(values))} values that are not finite")


def _windows(image: np.ndarray, properties: dict[str, Any], deployed: Deployed) -> int:
    """Return the number of windows over a case as nnU-Net's preprocessing leaves it."""
    forward, target = deployed.plans_manager.transpose_forward, list(deployed.configuration.spacing)
    cropped, _, _ = crop_to_nonzero(image.transpose(0, *(axis + 1 for axis in forward)))
    spacing = [properties["spacing"][axis] for axis in forward]
    target = [*spacing[: len(spacing) - len(target)], *target]
    shape = compute_new_shape(cropped.shape[1:], spacing, target)
    return len(window_starts([int(n) for n in shape], deployed.configuration.patch_size))
