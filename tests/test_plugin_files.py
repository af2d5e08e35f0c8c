from __future__ import annotations

from pathlib import Path

import pytest

from prox_monai import plugin_files
from prox_monai.plugin_files import plugin_folder

ROOT = Path(__file__).parents[1]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty package folder that stands for an installed ``prox_monai``."""
    folder = tmp_path / "site-packages" / "prox_monai"
    folder.mkdir(parents=True)
    monkeypatch.setattr(plugin_files, "files", lambda name: folder)
    return folder


def test_checkout():
    assert plugin_folder("nnunet") == ROOT / "plugins" / "nnunet"


def test_installed_files_come_before_a_neighbour_called_plugins(package):
    (package.parent / "plugins" / "nnunet").mkdir(parents=True)
    (package / "_plugins" / "nnunet").mkdir(parents=True)
    assert plugin_folder("nnunet") == package / "_plugins" / "nnunet"


def test_unknown_name_says_which_there_are(package):
    for name in ("nnunet", "auto3dseg", "__pycache__"):
        (package / "_plugins" / name).mkdir(parents=True)
    with pytest.raises(ValueError, match="plugin folder must be one of auto3dseg, nnunet, not 'nnUNet'."):
        plugin_folder("nnUNet")


def test_installation_without_plugin_files(package):
    with pytest.raises(FileNotFoundError, match="holds no plugin files; install it again: pip install"):
        plugin_folder("nnunet")
