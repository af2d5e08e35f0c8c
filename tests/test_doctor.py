from __future__ import annotations

import os
import shutil
import sys
from collections import namedtuple
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from prox_monai import doctor
from prox_monai.doctor import (
    CHECKS,
    Environment,
    Finding,
    Level,
    check_disk,
    check_folder,
    check_gpu,
    check_monai,
    check_nnunet,
    check_python,
    check_settings,
    check_torch,
    check_trainer,
    examine,
    table,
)
from prox_monai.plugin_files import plugin_folder

OURS = str(plugin_folder("nnunet"))


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """An installation that lacks nothing."""
    variables = {"nnUNet_extTrainer": OURS}
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        variables[name] = str(tmp_path / name)
    versions = {"torch": "2.8.0+cu128", "nnunetv2": "2.8.0", "monai": "1.6.0", "setuptools": "80.0"}
    free_space(monkeypatch, 100)
    return Environment((3, 12, 1), versions, variables, ("NVIDIA H200",), lambda: object)


def free_space(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(0, 0, int(gib * 2**30)))


def with_versions(environment: Environment, **versions: str | None) -> Environment:
    merged = {**environment.versions, **versions}
    return replace(environment, versions={name: found for name, found in merged.items() if found})


def with_variables(environment: Environment, **variables: str) -> Environment:
    return replace(environment, variables={**environment.variables, **variables})


def test_nothing_to_mend(good):
    findings = examine(good)
    assert len(findings) == len(CHECKS)
    assert {(finding.level, finding.mend) for finding in findings} == {(Level.OK, "")}


def test_bare_machine_gets_a_mending_line_for_every_problem():
    findings = examine(Environment((3, 10, 0), {}, {}, (), lambda: object))
    bad = [finding for finding in findings if finding.level is not Level.OK]
    assert {finding.check for finding in bad} == {f.check for f in findings} - {"PROX_CONFIG"}
    assert all(finding.mend for finding in bad)


def test_python(good):
    old = check_python(replace(good, python=(3, 10, 14)))
    assert (old.level, old.message) == (Level.FAIL, "3.10.14; 3.11 or newer is needed")
    assert check_python(replace(good, python=(3, 11, 0))).level is Level.OK


@pytest.mark.parametrize(("python", "level"), [((3, 12, 0), Level.FAIL), ((3, 11, 9), Level.OK)])
def test_planning_needs_distutils(good, python, level):
    finding = check_python(replace(with_versions(good, setuptools=None), python=python))
    assert finding.level is level
    assert finding.mend == ("pip install setuptools" if level is Level.FAIL else "")


@pytest.mark.parametrize(
    ("found", "level", "message"),
    [
        (None, Level.FAIL, "not installed; 2.6 or newer is needed"),
        ("2.5.1", Level.FAIL, "2.5.1; 2.6 or newer is needed"),
        ("2.6.0+cpu", Level.OK, "2.6.0+cpu"),
        ("2.9.1", Level.WARN, "2.9.1 runs 3-D convolutions in mixed precision 4 times slower"),
        ("2.10.0", Level.OK, "2.10.0"),
    ],
)
def test_torch(good, found, level, message):
    finding = check_torch(with_versions(good, torch=found))
    assert finding.level is level
    assert finding.message.startswith(message)
    assert finding.mend == ("" if level is Level.OK else 'pip install "torch>=2.6,!=2.9.*"')


@pytest.mark.parametrize(
    ("found", "level", "message"),
    [
        (None, Level.FAIL, "not installed"),
        ("2.7.9", Level.FAIL, "2.7.9 knows no external trainers"),
        ("2.8.1", Level.OK, "2.8.1"),
        ("3.0", Level.WARN, "3.0 is newer than"),
    ],
)
def test_nnunet(good, found, level, message):
    finding = check_nnunet(with_versions(good, nnunetv2=found))
    assert finding.level is level
    assert finding.message.startswith(message)
    assert finding.mend == ("" if level is Level.OK else 'pip install "nnunetv2>=2.8.0,<3"')


@pytest.mark.parametrize(("found", "level"), [(None, Level.WARN), ("1.5.2", Level.WARN), ("1.6.1", Level.OK)])
def test_monai_is_never_a_failure(good, found, level):
    assert check_monai(with_versions(good, monai=found)).level is level


@pytest.mark.parametrize("value", [OURS, f"{OURS}/", f"/elsewhere{os.pathsep}{OURS}", os.path.relpath(OURS)])
def test_trainer_found(good, value):
    finding = check_trainer(with_variables(good, nnUNet_extTrainer=value))
    assert finding == Finding("nnUNet_extTrainer", Level.OK, f"ProXTrainer found in {OURS}")


def test_trainer_variable_unset(good):
    finding = check_trainer(with_variables(good, nnUNet_extTrainer=""))
    assert finding.level is Level.FAIL
    assert finding.message == "not set, so nnU-Net does not know ProXTrainer"
    assert finding.mend == 'export nnUNet_extTrainer="$(prox-monai nnunet-path)"'


def test_trainer_variable_of_somebody_else_is_kept(good):
    finding = check_trainer(with_variables(good, nnUNet_extTrainer="/elsewhere"))
    assert finding.level is Level.FAIL
    assert finding.message == f"/elsewhere does not contain {OURS}"
    assert finding.mend == 'export nnUNet_extTrainer="$nnUNet_extTrainer:$(prox-monai nnunet-path)"'


def failing_search() -> type:
    raise ModuleNotFoundError("No module named 'theirs'")


def test_trainer_search_fails(good):
    finding = check_trainer(replace(good, find_trainer=failing_search))
    assert finding.level is Level.FAIL
    assert "finds no ProXTrainer" in finding.message
    assert finding.message.endswith("ModuleNotFoundError: No module named 'theirs'")
    assert finding.mend == 'pip install "prox-monai[nnunet]"'


def test_trainer_search_fails_because_nnunet_is_old(good):
    finding = check_trainer(with_versions(replace(good, find_trainer=failing_search), nnunetv2="2.6.2"))
    assert finding.mend == 'pip install "nnunetv2>=2.8.0,<3"'


def test_folder_unset(good):
    finding = check_folder("nnUNet_raw", False, with_variables(good, nnUNet_raw=""))
    assert finding == Finding("nnUNet_raw", Level.FAIL, "not set", 'export nnUNet_raw="$HOME/nnUNet_raw"')


def test_folder_missing(good, tmp_path):
    missing = tmp_path / "missing"
    finding = check_folder("nnUNet_results", True, with_variables(good, nnUNet_results=str(missing)))
    assert (finding.level, finding.message) == (Level.FAIL, f"{missing} is not a folder")
    assert finding.mend == f'mkdir -p "{missing}"'


@pytest.mark.parametrize(("written", "level"), [(True, Level.FAIL), (False, Level.OK)])
def test_folder_read_only(good, written, level, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    finding = check_folder("nnUNet_preprocessed", written, good)
    assert finding.level is level
    assert ("is not writable" in finding.message) is written


def test_each_of_the_three_folders_is_checked():
    folders = [check for check in CHECKS if isinstance(check, partial)]
    assert {check.args for check in folders} == {
        ("nnUNet_raw", False),
        ("nnUNet_preprocessed", True),
        ("nnUNet_results", True),
    }


@pytest.mark.parametrize(("gib", "level"), [(19.9, Level.WARN), (20.1, Level.OK)])
def test_free_disk(good, gib, level, monkeypatch):
    free_space(monkeypatch, gib)
    finding = check_disk(good)
    assert finding.level is level
    assert finding.message.startswith(f"{gib:.1f} GiB" if level is Level.WARN else "20 GiB")


def test_settings_file(good, tmp_path):
    path = tmp_path / "prox.yaml"
    finding = check_settings(with_variables(good, PROX_CONFIG=str(path)))
    assert (finding.level, finding.message) == (Level.FAIL, f"{path} is not a file")
    path.touch()
    assert check_settings(with_variables(good, PROX_CONFIG=str(path))).level is Level.OK


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kernel: [4]", "kernel must be a list of odd integers, got (4,)."),
        ("epoch: 3", "unknown field 'epoch' (did you mean 'epochs'?)"),
        ("depth: [1\nwidth: [", "is not valid YAML"),
    ],
)
def test_settings_are_read_as_the_trainer_will(good, tmp_path, text, said):
    pytest.importorskip("yaml")
    path = tmp_path / "prox.yaml"
    path.write_text(text)
    environment = with_variables(good, PROX_CONFIG=str(path))
    finding = check_settings(environment)
    assert (finding.level, finding.mend) == (Level.FAIL, f'"${{EDITOR:-vi}}" "{path}"')
    assert finding.message.startswith(str(path))
    assert said in finding.message
    assert "\n" not in finding.message
    assert check_settings(with_versions(environment, nnunetv2=None)).level is Level.OK


def test_settings_cannot_be_read_without_yaml(good, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "prox_monai.integrations.nnunet.settings", None)
    (tmp_path / "prox.yaml").touch()
    finding = check_settings(with_variables(good, PROX_CONFIG=str(tmp_path / "prox.yaml")))
    assert (finding.level, finding.mend) == (Level.FAIL, 'pip install "prox-monai[nnunet]"')


def test_gpu(good):
    assert check_gpu(good).message == "NVIDIA H200"
    none = check_gpu(replace(good, gpus=()))
    assert (none.level, none.mend) == (Level.WARN, "nnUNetv2_train ... -device cpu")


def test_table():
    findings = [
        Finding("torch", Level.OK, "2.15.0"),
        Finding("nnUNet_raw", Level.FAIL, "not set", "export X=1"),
    ]
    assert table(findings).splitlines() == [
        "OK    torch       2.15.0",
        "FAIL  nnUNet_raw  not set",
        "                  -> export X=1",
    ]


def test_current_environment(monkeypatch):
    monkeypatch.setenv("PROX_CONFIG", "given.yaml")
    monkeypatch.setattr(doctor, "DISTRIBUTIONS", ("pytest", "no-such-distribution"))
    environment = Environment.current()
    assert environment.versions == {"pytest": pytest.__version__}
    assert environment.variables["PROX_CONFIG"] == "given.yaml"


def test_current_search_is_nnunets_own(monkeypatch, capsys):
    trainer = pytest.importorskip("prox_monai.integrations.nnunet.trainer")
    monkeypatch.setenv("nnUNet_extTrainer", OURS)
    assert Environment.current().find_trainer() is trainer.ProXTrainer
    assert capsys.readouterr().out == ""
