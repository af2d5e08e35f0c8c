"""What Auto3DSeg's analysis would stumble over, said before it: MONAI analyses first, and fails without saying why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.auto3dseg.utils import datafold_read
from monai.bundle import ConfigParser

from prox_monai.data.problems import raise_for_problems
from prox_monai.integrations.auto3dseg.data import files_of, missing
from prox_monai.integrations.auto3dseg.planning import foreground_names, number_of_classes

_TOLERANCE = 5
"""Voxels by which MONAI lets a label differ from its image."""


def check_input(source: Mapping[str, Any] | str | Path) -> None:
    """Check all training cases of an input before an ``AutoRunner`` gets it; of NIfTI files also what is in them.

    Args:
        source: what ``AutoRunner`` takes as ``input``: a mapping or a YAML file.

    Raises:
        ValueError: When files are missing, images differ in channels, labels are not 0, 1, 2, ..., a class never
            occurs, there is one case only, or the input lacks a key; problems of files are counted, and the first ten
            listed.
    """
    source = source if isinstance(source, Mapping) else ConfigParser.load_config_file(str(source))
    names = foreground_names(source)
    check_keys(source)
    datalist, root = str(source["datalist"]), str(source["dataroot"])
    content = ConfigParser.load_config_file(datalist)
    if not isinstance(content, Mapping) or "training" not in content:
        got = ", ".join(content) if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise ValueError(f"{datalist} must have the key 'training', a list of cases, got {got}.")
    cases, _ = datafold_read(datalist, root, fold=-1)
    if content.get("validation") and not any("fold" in case for case in cases):  # else Auto3DSeg does not use them
        cases += datafold_read(datalist, root, fold=-1, key="validation")[0]
    if len(cases) < 2:
        raise ValueError(
            f"{datalist} must have at least two training cases, one of them to validate, got {len(cases)}."
        )
    raise_for_problems(Path(datalist), list(missing(cases)))
    channels: dict[int, str] = {}
    labels: set[float] = set()
    problems = [problem for case in cases for problem in _objections(case, channels, labels)]
    if len(channels) > 1:
        listed = ", ".join(f"{count} ({file})" for count, file in sorted(channels.items()))
        problems.insert(0, f"images must have as many channels all, they have {listed}.")
    raise_for_problems(Path(datalist), problems)
    if labels:
        number_of_classes(sorted(int(label) for label in labels), names)


def check_keys(source: Mapping[str, Any]) -> None:
    """Check that an input names what it must.

    Raises:
        ValueError: When a key is absent or empty.
    """
    if absent := [key for key in ("modality", "datalist", "dataroot") if not source.get(key)]:
        raise ValueError(f"the input must name modality, datalist and dataroot, it lacks {', '.join(absent)}.")


def _objections(case: Mapping[str, Any], channels: dict[int, str], labels: set[float]) -> Iterator[str]:
    """What is wrong with a case; its channels and labels are noted."""
    files = files_of(case["image"])
    if not all(_is_nifti(file) for file in (*files, case["label"])):
        return
    shapes, label = [nib.load(file).shape for file in files], nib.load(case["label"])
    count = len(files) if len(files) > 1 else (shapes[0][3] if len(shapes[0]) == 4 else 1)
    channels.setdefault(count, files[0])
    values = [float(value) for value in np.unique(np.asanyarray(label.dataobj))]
    labels.update(value for value in values if value.is_integer())
    if not all(value.is_integer() for value in values):  # NaN is none
        yield f"label {case['label']} has values that are no integers."
    for file, shape in zip(files, shapes, strict=True):
        if len(shape) < 3 or len(label.shape) < 3:
            yield f"image {file} must have three spatial axes, and so must its label."
        elif any(abs(n - m) > _TOLERANCE for n, m in zip(shape[:3], label.shape[:3], strict=True)):
            yield f"label {case['label']} has {label.shape[:3]} voxels, its image {file} {shape[:3]}."


def _is_nifti(file: str) -> bool:
    return file.endswith((".nii", ".nii.gz"))
