"""Every command of the bundles' texts runs, parsed as `python -m monai.bundle` parses it, at a tiny size."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

if any(find_spec(name) is None for name in ("monai", "ignite", "fire", "tensorboard")):
    pytest.skip('needs MONAI and what its bundles need: pip install "prox-monai[monai]"', allow_module_level=True)

import fire
from monai import bundle as monai_bundle

from prox_monai.cli import main
from prox_monai.plugin_files import copy_bundle

pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")  # that configurations are code

BUNDLES = Path(__file__).parents[2] / "bundles"
NAMES = {
    "hippocampus": "hippocampus_mri_prox_segmentation",
    "brats": "brats_mri_prox_segmentation",
    "retinal": "retinal_oct_prox_classification",
}


def commands(bundle: str) -> list[list[str]]:
    blocks = re.findall(r"```\n(.*?)```", (BUNDLES / bundle / "docs" / "README.md").read_text(), re.DOTALL)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines() if line]


CASES = [(short, words) for short, bundle in NAMES.items() for words in commands(bundle)]


def tiny(trained, words: list[str], folder: Path) -> list[str]:
    """The arguments of a command of MONAI, with data in its places and everything small."""
    trains = "inference.json" not in " ".join(words)
    begins = trains and not {"evaluate.json", "search.json"} & set(re.findall(r"\w+\.json", " ".join(words)))
    override = trained.override if trains else trained.network
    override = {key: value for key, value in override.items() if key not in ("bundle_root", "dataset_dir", "ckpt_dir")}
    override |= {"output_dir": str(folder / "eval"), "buckets": 1} | ({"epochs": 6} if trains else {})
    if not begins:
        override["ckpt_dir"] = trained.override["ckpt_dir"]
    data = trained.override["dataset_dir"] if trains else images_of(trained)
    known = json.loads((trained.folder / "configs" / ("train.json" if trains else "inference.json")).read_text())
    given = {key: value for key, value in override.items() if key.split("::")[0] in known}
    arguments = [data if word.startswith("<") else word for word in words]
    if "50" in arguments:  # milliseconds
        arguments[arguments.index("50")] = "1000000"
    return arguments + [word for key, value in given.items() for word in (f"--{key}", repr(value))]


def images_of(trained) -> str:
    """The folder of the images that a bundle was trained on."""
    folder = Path(trained.override["dataset_dir"])
    return str(folder / "imagesTr" if (folder / "imagesTr").is_dir() else folder)


def files(folder: Path) -> set[tuple[Path, int]]:
    """The files of a folder, and when they were written."""
    return {(path, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("short", "words"), CASES, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_command(short, words, request, tmp_path, monkeypatch):
    trained = request.getfixturevalue(f"trained_{short}")
    models = shutil.copytree(trained.override["ckpt_dir"], tmp_path / "models")
    trained = trained.but(ckpt_dir=str(models))
    folder = copy_bundle(NAMES[short], tmp_path / "bundle")
    monkeypatch.chdir(folder)
    if words[0] == "torchrun":
        assert words[3:7] == ["-m", "monai.bundle", "run", "--config_file"]  # run by test_two_processes.py
        return
    if "--max_latency_ms" in words:
        trained.run("train", "train.json", "search.json", per_bucket=0, output_dir=str(tmp_path / "eval"))
    if words[0] == "prox-monai":
        inference = folder / "configs" / "inference.json"
        tiny_network = folder / "configs" / "tiny.json"
        tiny_network.write_text(json.dumps(trained.network))
        assert inference.exists()
        places = {"<folder>": str(tmp_path / "plain"), "<images>": images_of(trained)}
        words = [places.get(word, word) for word in words[1:]]
        options = ["--ckpt-dir", trained.override["ckpt_dir"], "--config", str(tiny_network)]
        assert main([*words, *options]) == 0
        return
    assert words[:4] == ["python", "-m", "monai.bundle", "run"]
    before = files(tmp_path)
    fire.Fire({"run": monai_bundle.run}, command=tiny(trained, words[3:], tmp_path), name="monai.bundle")
    assert files(tmp_path) - before, "every command writes something"
