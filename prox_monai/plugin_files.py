"""Where the files that hosts read are: in an installed wheel, or in the checkout of an editable install."""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path

_SHIPPED = ("LICENSE", "configs", "docs")


def plugin_folder(name: str) -> Path:
    """Find the folder of one host's plugin files.

    Args:
        name: folder below ``plugins/`` of the repository, for example ``"nnunet"``.

    Raises:
        ValueError: When there is no folder of that name.
        FileNotFoundError: When the installation holds no plugin files.
    """
    return _folder("plugin", name)


def bundle_folder(name: str) -> Path:
    """Find the folder of a MONAI bundle.

    Args:
        name: folder below ``bundles/`` of the repository, for example ``"hippocampus_mri_prox_segmentation"``.

    Raises:
        ValueError: When there is no folder of that name.
        FileNotFoundError: When the installation holds no bundles.
    """
    return _folder("bundle", name)


def copy_bundle(name: str, destination: str | Path) -> Path:
    """Copy a MONAI bundle to where it is worked with; what a training left in the original stays there.

    Args:
        name: of :func:`bundle_folder`.
        destination: a folder that does not exist.

    Raises:
        ValueError: When there is no bundle of that name.
        FileExistsError: When the destination exists.
        FileNotFoundError: When the installation holds no bundles.
    """
    source, destination = bundle_folder(name), Path(destination)
    if destination.exists():
        raise FileExistsError(f"{destination} exists and is not overwritten; give a new folder.")
    for entry in _SHIPPED:
        (shutil.copytree if (source / entry).is_dir() else _copy)(source / entry, destination / entry)
    return destination


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def _folder(kind: str, name: str) -> Path:
    package = Path(str(files("prox_monai")))
    roots = (package / f"_{kind}s", package.parent / f"{kind}s")
    root = next((root for root in roots if root.is_dir()), None)
    if root is None:
        raise FileNotFoundError(
            f"the prox_monai in {package} holds no {kind} files; install it again: "
            "pip install --force-reinstall --no-deps prox-monai"
        )
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and path.name != "__pycache__")
    if name not in names:
        raise ValueError(f"{kind} folder must be one of {', '.join(names)}, not {name!r}.")
    return root / name
