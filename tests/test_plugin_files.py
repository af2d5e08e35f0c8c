from __future__ import annotations

from pathlib import Path

import pytest

from prox_monai import plugin_files
from prox_monai.plugin_files import bundle_folder, copy_bundle, plugin_folder

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


def test_bundles(package):
    (package / "_bundles" / "one_segmentation").mkdir(parents=True)
    assert bundle_folder("one_segmentation") == package / "_bundles" / "one_segmentation"
    with pytest.raises(ValueError, match="bundle folder must be one of one_segmentation, not 'two'."):
        bundle_folder("two")


def test_copy_of_a_bundle_leaves_out_what_a_training_left(package, tmp_path):
    source = package / "_bundles" / "one"
    for name in ("configs/train.json", "docs/README.md", "LICENSE", "models/model.pt", "eval/subnets.jsonl"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    copy = copy_bundle("one", tmp_path / "work" / "copy")
    copied = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
    assert copied == {"configs/train.json", "docs/README.md", "LICENSE"}
    with pytest.raises(FileExistsError, match="copy exists and is not overwritten"):
        copy_bundle("one", copy)


@pytest.mark.parametrize("bundle", sorted(path.name for path in (ROOT / "bundles").iterdir()))
def test_every_bundle_has_what_a_copy_takes(bundle, tmp_path):
    copy = copy_bundle(bundle, tmp_path / "copy")
    assert (copy / "configs" / "metadata.json").is_file()
    assert (copy / "docs" / "README.md").is_file()
