"""README.md is true: its code runs, its commands exist, its table is what the command writes."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from prox_monai.cli import build_parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("console") for line in block.splitlines() if line.strip()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_python_code_runs():
    for code in blocks("python"):
        exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("words", [w for w in commands() if w[0] == "prox-monai"], ids=" ".join)
def test_our_commands_parse(words):
    assert callable(build_parser().parse_args(words[1:]).run)


@pytest.mark.parametrize("words", [w for w in commands() if w[0] == "make"], ids=" ".join)
def test_make_targets_exist(words):
    assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("target", ["test", "demo", "bench", "bench-deploy", "bench-compression", "bench-processes"])
def test_a_users_folders_reach_only_what_measures_a_trained_model(tmp_path, target):
    for name in ("python", "prox-monai"):
        (tmp_path / name).write_text('#!/bin/sh\necho "folder:$nnUNet_preprocessed"\n')
        (tmp_path / name).chmod(0o755)
    made = ("make", "--silent", target, f"BIN={tmp_path}", f"INSTALLED={tmp_path}/python")
    environment = {**os.environ, "nnUNet_preprocessed": "mine"}
    said = subprocess.run(made, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    assert said == f"folder:{'mine' * (target in ('bench-deploy', 'bench-compression', 'bench-processes'))}\n"


@pytest.mark.parametrize("words", [w for w in commands() if w[0].startswith("nnUNetv2")], ids=" ".join)
def test_nnunet_commands_exist(words):
    importlib.util.find_spec("nnunetv2") or pytest.skip("nnU-Net is not installed")
    scripts = importlib.metadata.entry_points(group="console_scripts")
    assert words[0] in {script.name for script in scripts}


@pytest.mark.parametrize("words", [w for w in commands() if w[0] == "python"], ids=" ".join)
def test_bundle_commands_name_files_and_settings_that_exist(words):
    """They are run at a tiny size by tests/bundles."""
    assert words[1:4] == ["-m", "monai.bundle", "run"]
    options = dict(zip(words[4::2], words[5::2], strict=True))
    files = re.findall(r"[\w./]+\.json", options.pop("--config_file"))
    settings = {}
    for file in files:
        settings |= json.loads((ROOT / "bundles" / "hippocampus_mri_prox_segmentation" / file).read_text())
    assert {name.removeprefix("--") for name in options} <= set(settings)


def test_every_command_is_of_a_kind_that_is_checked():
    kinds = {words[0] for words in commands()} - {"export", "pip", "cd", "python"}
    assert kinds <= {"make", "prox-monai", *(k for k in kinds if k.startswith("nnUNetv2"))}


def test_settings_are_accepted():
    settings = pytest.importorskip("prox_monai.integrations.nnunet.settings")
    (text,) = blocks("yaml")
    settings.ProXSettings(**yaml.safe_load(text))


def test_results_are_what_the_command_writes(monkeypatch):
    path = ROOT / "benchmarks" / "update_readme.py"
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location("update_readme", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = README.partition(module.BEGIN)[2].partition(module.END)[0]
    assert written.strip() == module.table().strip()
    assert module.PAGE.read_text() == module.results_page()


def test_the_demo_in_the_table_is_the_one_that_is_shipped():
    result = json.loads((ROOT / "benchmarks" / "results" / "demo_hippocampus.json").read_text())
    shipped = (ROOT / "prox_monai" / "demo" / "settings.yaml").read_text()
    assert yaml.safe_load(result["settings"]) == yaml.safe_load(shipped)


@pytest.mark.parametrize("page", ["README.md", "benchmarks/RESULTS.md"])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        if not target.startswith("http"):
            assert (ROOT / page).parent.joinpath(target).exists(), target
