"""What a bundle checks before long work starts."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

FINAL = "model.pt"
_EPOCH = re.compile(r"checkpoint_epoch=(\d+)\.pt")


def check_bundle_root(bundle_root: str | Path) -> None:
    """Check that the configuration knows where its bundle is.

    Raises:
        ValueError: When it does not, as in another working directory.
    """
    if not Path(bundle_root, "configs", "metadata.json").is_file():
        raise ValueError(
            f"bundle_root must be the folder of the bundle, with configs/metadata.json, got {str(bundle_root)!r} in "
            f"{Path.cwd()}; run in the bundle's folder, or give --bundle_root."
        )


def check_unfinished(ckpt_dir: str | Path, *, resume: bool, overwrite: bool) -> None:
    """Check that a training overwrites nothing that it was not told to.

    Args:
        ckpt_dir: folder of the model; that of a training's checkpoints is ``training`` in it.
        resume: go on with the training there.
        overwrite: begin anew; checkpoints of the old training are removed.

    Raises:
        ValueError: When there is a training and neither was asked for, or both, or there is none to go on with.
    """
    folder = Path(ckpt_dir)
    there = [path.name for path in (folder / "training", folder / FINAL) if path.exists()]
    if resume and overwrite:
        raise ValueError("resume and overwrite were both given; give one.")
    if resume:
        latest_checkpoint(folder / "training")
    elif overwrite:
        shutil.rmtree(folder / "training", ignore_errors=True)
    elif there:
        raise ValueError(
            f"{folder} holds a training already ({', '.join(there)}): go on with --resume true, begin anew with "
            f"--overwrite true, or give another --ckpt_dir."
        )


def check_trained(ckpt_dir: str | Path) -> None:
    """Check that there is a trained model.

    Raises:
        ValueError: When there is none.
    """
    if not Path(ckpt_dir, FINAL).is_file():
        raise ValueError(f"{Path(ckpt_dir, FINAL)} does not exist; train first, or give --ckpt_dir.")


def latest_checkpoint(folder: str | Path) -> str:
    """Return the checkpoint of the latest epoch in a folder.

    Raises:
        ValueError: When there is none.
    """
    found = {int(m[1]): path for path in Path(folder).glob("*.pt") if (m := _EPOCH.fullmatch(path.name))}
    if not found:
        raise ValueError(f"there is no training to resume in {folder}: it holds no checkpoint_epoch=<n>.pt.")
    return str(found[max(found)])


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
