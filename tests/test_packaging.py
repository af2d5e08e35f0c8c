"""The wheel: what is in it, and that it works where nothing of this repository is to be seen."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import prox_monai

ROOT = Path(__file__).parents[1]


def run(command: list[str | Path], **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel as it is published: built from the source archive, which is built from the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT], cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """A fresh environment that holds the wheel and borrows torch and the hosts from the present one.

    The present site-packages come by a path file, whose folders' own path files are not read: an editable
    install of this checkout stays invisible.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python]
    run([*pip, "install", "--no-deps", "--no-index", "--disable-pip-version-check", wheel])
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site_packages = Path(run([python, "-c", code]).strip())
    borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site_packages / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return folder


@pytest.fixture
def variables() -> dict[str, str]:
    hidden = ("PYTHON", "nnUNet_", "PROX_")
    return {name: value for name, value in os.environ.items() if not name.startswith(hidden)}


def test_wheel_holds_the_package_and_the_plugin_files(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "prox_monai",
        f"prox_monai-{prox_monai.__version__}.dist-info",
    }
    found = (path.relative_to(ROOT) for path in (ROOT / "plugins").rglob("*") if path.is_file())
    plugins = {path for path in found if "__pycache__" not in path.parts}
    assert plugins
    assert {f"prox_monai/_plugins/{path.relative_to('plugins').as_posix()}" for path in plugins} == {
        name for name in names if name.startswith("prox_monai/_plugins/")
    }
    shipped = {path.relative_to(ROOT) for path in (ROOT / "bundles").rglob("*") if path.is_file()}
    bundles = {path for path in shipped if not {"models", "eval"} & set(path.parts)}
    assert {f"prox_monai/_bundles/{path.relative_to('bundles').as_posix()}" for path in bundles} == {
        name for name in names if name.startswith("prox_monai/_bundles/")
    }
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "prox_monai").rglob("*.py")}
    assert modules <= set(names)
    assert not [name for name in names if "__pycache__" in name]


def test_editable_install_copies_nothing(tmp_path):
    code = "import sys; from hatchling.build import build_editable; build_editable(sys.argv[1])"
    run([sys.executable, "-c", code, tmp_path], cwd=ROOT)
    (path,) = tmp_path.glob("*.whl")
    archive = zipfile.ZipFile(path)
    (name,) = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert name == "_prox_monai.pth"
    assert archive.read(name).decode().splitlines() == [str(ROOT)]


def test_wheel_is_used_from_another_folder(environment, variables, tmp_path):
    code = "import prox_monai; print(prox_monai.__file__); prox_monai.Supernet; print(prox_monai.__version__)"
    lines = run([environment / "bin" / "python", "-c", code], cwd=tmp_path, env=variables).splitlines()
    assert Path(lines[0]).is_relative_to(environment)
    assert lines[1] == prox_monai.__version__


def test_command_of_the_wheel(environment, variables, tmp_path):
    command = environment / "bin" / "prox-monai"
    assert run([command, "--version"], cwd=tmp_path, env=variables) == f"prox-monai {prox_monai.__version__}\n"
    folder = Path(run([command, "nnunet-path"], cwd=tmp_path, env=variables).rstrip("\n"))
    assert folder.is_relative_to(environment)
    assert (folder / "prox_trainer.py").is_file()


FIND = """
import pickle
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
trainer = recursive_find_trainer_class_by_name("ProXTrainer")
assert pickle.loads(pickle.dumps(trainer)) is trainer
import sys
print(sys.modules[trainer.__module__].__file__)
"""


def test_nnunet_finds_the_trainer_of_the_wheel(environment, variables, tmp_path):
    pytest.importorskip("prox_monai.integrations.nnunet.trainer")
    folder = run([environment / "bin" / "prox-monai", "nnunet-path"], cwd=tmp_path, env=variables).strip()
    variables["nnUNet_extTrainer"] = folder
    found = run([environment / "bin" / "python", "-c", FIND], cwd=tmp_path, env=variables).splitlines()[-1]
    trainer = Path(found)
    assert trainer.is_relative_to(environment)
    assert trainer.parts[-4:] == ("prox_monai", "integrations", "nnunet", "trainer.py")


def test_public_names():
    public = [name for name in prox_monai.__all__ if name != "__version__"]
    assert len(public) <= 15
    assert set(dir(prox_monai)) >= set(public)
    assert {name for name in public if getattr(prox_monai, name).__name__ != name} == set()


def test_unknown_name():
    with pytest.raises(AttributeError, match="module 'prox_monai' has no attribute 'Supernets'"):
        prox_monai.Supernets  # noqa: B018 the access is what is tested


def test_type_checkers_see_the_public_names():
    """The imports under ``TYPE_CHECKING`` say the same as the table that is used at run time."""
    tree = ast.parse(Path(prox_monai.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and len(node.names) == 1]
    seen = {node.names[0].asname: node.module for node in imports if node.names[0].asname}
    assert seen == {name: f"prox_monai.{home}" for name, home in prox_monai._HOME.items()}


def test_extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert set(extras) == {"nnunet", "monai", "auto3dseg", "search", "export", "dev", "all"}
    assert extras["all"] == ["prox-monai[nnunet,monai,auto3dseg,search,export]"]
    assert [line.split(">")[0] for line in project["dependencies"]] == ["torch"]
