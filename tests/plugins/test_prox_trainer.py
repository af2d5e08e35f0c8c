from __future__ import annotations

import ast

import pytest

from prox_monai.plugin_files import plugin_folder

FILE = plugin_folder("nnunet") / "prox_trainer.py"


def test_it_holds_no_logic():
    """A docstring, one import from the package, the name: nnU-Net forgets the module after the search."""
    docstring, re_export, names = ast.parse(FILE.read_text(encoding="utf-8")).body
    assert isinstance(docstring, ast.Expr)
    assert ast.unparse(re_export) == "from prox_monai.integrations.nnunet.trainer import ProXTrainer"
    assert ast.unparse(names) == "__all__ = ['ProXTrainer']"


def test_it_is_alone():
    """nnU-Net imports every module of the folder, so each costs every user."""
    assert [path.name for path in FILE.parent.iterdir() if path.name != "__pycache__"] == [FILE.name]


def test_nnunet_finds_the_class_of_the_package(monkeypatch):
    trainer = pytest.importorskip("prox_monai.integrations.nnunet.trainer")
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    monkeypatch.setenv("nnUNet_extTrainer", str(FILE.parent))
    assert recursive_find_trainer_class_by_name("ProXTrainer") is trainer.ProXTrainer
