"""What a bundle looks up and checks before long work starts."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from prox_monai.data.json_file import read_json
from prox_monai.elastic import Architecture, check_resolutions
from prox_monai.space import SearchSpace

FINAL = "model.pt"
ABOUT = "about.json"
logger = logging.getLogger(__name__)
_EPOCH = re.compile(r"checkpoint_epoch=(\d+)\.pt")


def check_bundle_root(bundle_root: str | Path, name: str | None = None) -> None:
    """Check that the configuration knows where its bundle is.

    Args:
        bundle_root: folder of the bundle.
        name: that the configuration's own metadata give the bundle; any bundle's folder will do where it is None.

    Raises:
        ValueError: When it does not, as in another working directory, or in the folder of another bundle.
    """
    metadata = Path(bundle_root, "configs", "metadata.json")
    if not metadata.is_file():
        raise ValueError(
            f"bundle_root must be the folder of the bundle, with configs/metadata.json, got {str(bundle_root)!r} in "
            f"{Path.cwd()}; run in the bundle's folder, or give --bundle_root."
        )
    found = read_json(metadata).get("name")
    if name is not None and found != name:
        raise ValueError(
            f"bundle_root must be the folder of the bundle {name!r}, got {str(bundle_root)!r} in {Path.cwd()}, which "
            f"is that of {found!r}; run in the bundle's folder, or give --bundle_root."
        )


def check_patch(patch: Sequence[int], architecture: Architecture, space: SearchSpace) -> None:
    """Check that a network that goes down and up again takes a patch, at every resolution of a space.

    Args:
        patch: its size in voxels per spatial axis.
        architecture: of the network; its stride counts.
        space: its resolutions count.

    Raises:
        ValueError: When the patch is not made of whole strides, two resolutions lead to the same size, or one leaves a
            single voxel at the bottleneck.
    """
    stride = tuple(architecture.stride)
    if len(patch) != len(stride) or any(n < 1 or n % s for n, s in zip(patch, stride, strict=False)):
        raise ValueError(
            f"patch must be multiples of {list(stride)}, the product of strides per axis, got {list(patch)}."
        )
    check_resolutions(space.resolution, patch, stride)


def check_unfinished(
    ckpt_dir: str | Path, *, resume: bool, overwrite: bool, about: Mapping[str, Any] | None = None
) -> None:
    """Check that a training overwrites nothing that it was not told to, and write down what it is of.

    Args:
        ckpt_dir: folder of the model; that of a training's checkpoints is ``training`` in it.
        resume: go on with the training there.
        overwrite: begin anew; the model and the checkpoints of the old training are removed.
        about: what later runs must agree with, as JSON values: fold, size of the patch, architecture.

    Raises:
        ValueError: When there is a training and neither was asked for, or both, or there is none to go on with, or it
            is about something else.
    """
    folder = Path(ckpt_dir)
    there = [path.name for path in (*folder.glob("training/checkpoint_epoch=*.pt"), folder / FINAL) if path.exists()]
    if resume and overwrite:
        raise ValueError("resume and overwrite were both given; give one.")
    if resume:
        latest_checkpoint(folder / "training")
        check_about(folder, about or {})
        return
    if there and not overwrite:
        raise ValueError(
            f"{folder} holds a training already ({', '.join(there)}): go on with --resume true, begin anew with "
            f"--overwrite true, or give another --ckpt_dir."
        )
    shutil.rmtree(folder / "training", ignore_errors=True)
    (folder / FINAL).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ABOUT).write_text(json.dumps(about or {}, indent=1), encoding="utf-8")


def check_trained(ckpt_dir: str | Path, about: Mapping[str, Any] | None = None) -> None:
    """Check that there is a trained model, and that it is about the same.

    Args:
        ckpt_dir: folder of the model.
        about: what must agree with its training.

    Raises:
        ValueError: When there is none, or something differs.
    """
    if not Path(ckpt_dir, FINAL).is_file():
        raise ValueError(f"{Path(ckpt_dir, FINAL)} does not exist; train first, or give --ckpt_dir.")
    check_about(ckpt_dir, about or {})


def check_about(ckpt_dir: str | Path, about: Mapping[str, Any]) -> None:
    """Check that a run agrees with the training whose model it uses; a model that came alone says nothing.

    Raises:
        ValueError: When something differs: another fold would call training cases unseen.
    """
    path = Path(ckpt_dir, ABOUT)
    stored = read_json(path) if path.exists() else {}
    for name, given in about.items():
        if name in stored and stored[name] != json.loads(json.dumps(given)):
            raise ValueError(
                f"{name} is {given}, but the model in {ckpt_dir} was trained with {stored[name]}: give the options and "
                f"the configuration files that its training had."
            )


def latest_checkpoint(folder: str | Path) -> str:
    """Return the checkpoint of the latest epoch in a folder; one that was not written to its end does not count.

    Raises:
        ValueError: When there is none.
    """
    found = {int(m[1]): path for path in Path(folder).glob("*.pt") if (m := _EPOCH.fullmatch(path.name))}
    for epoch in sorted(found, reverse=True):
        if is_zipfile(found[epoch]):
            return str(found[epoch])
        logger.warning("%s was not written to its end; an earlier one is taken.", found[epoch])
    raise ValueError(f"there is no training to resume in {folder}: it holds no complete checkpoint_epoch=<n>.pt.")


def images_of(folder: str | Path) -> list[str]:
    """Return the images to predict: all NIfTI files of a folder, or those of its ``imagesTs``, else ``imagesTr``.

    Raises:
        ValueError: When there is none.
    """
    for candidate in (Path(folder), Path(folder, "imagesTs"), Path(folder, "imagesTr")):
        images = sorted(
            str(path)
            for path in candidate.glob("*.nii*")
            if path.name.endswith((".nii", ".nii.gz")) and not path.name.startswith(".")
        )
        if images:
            return images
    raise ValueError(f"dataset_dir {folder} holds no NIfTI file, nor do imagesTs and imagesTr in it.")
