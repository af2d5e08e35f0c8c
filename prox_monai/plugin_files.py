"""Where the files that hosts read are: in an installed wheel, or in the checkout of an editable install."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def plugin_folder(name: str) -> Path:
    """Find the folder of one host's plugin files.

    Args:
        name: folder below ``plugins/`` of the repository, for example ``"nnunet"``.

    Raises:
        ValueError: When there is no folder of that name.
        FileNotFoundError: When the installation holds no plugin files.
    """
    package = Path(str(files("prox_monai")))
    roots = (package / "_plugins", package.parent / "plugins")
    root = next((root for root in roots if root.is_dir()), None)
    if root is None:
        raise FileNotFoundError(
            f"the prox_monai in {package} holds no plugin files; install it again: "
            "pip install --force-reinstall --no-deps prox-monai"
        )
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and path.name != "__pycache__")
    if name not in names:
        raise ValueError(f"plugin folder must be one of {', '.join(names)}, not {name!r}.")
    return root / name
