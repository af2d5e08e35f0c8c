"""From limits to the best subnet as a file: one command."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest

from prox_monai.cli import main
from prox_monai.commands import deploy as commands
from prox_monai.evaluation.subnets import read_rows
from prox_monai.export.exported import load_exported
from prox_monai.integrations.nnunet import calibration, device

pytest.importorskip("optuna")


@pytest.fixture
def cli(model, monkeypatch, capsys):
    """The command on two subnets of the finished model, measured with few repetitions."""
    space = model.space.restrict(depth=(1,), width=(1.0,), kernel=(3,), resolution=(0.7, 1.0))
    small = replace(model, space=space)
    monkeypatch.setattr("prox_monai.integrations.nnunet.trained.load_trained", lambda *arguments: small)
    monkeypatch.setattr("prox_monai.search.latency._SECONDS", 0.0)
    monkeypatch.setattr(calibration, "CALIBRATION_PATCHES", 4)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["deploy", "folder", *map(str, arguments)], commands=commands.COMMANDS)
        return code, *capsys.readouterr()

    return run


def test_a_limit_in_milliseconds(cli, tmp_path):
    if any(find_spec(name) is None for name in ("openvino", "nncf")):
        pytest.skip('needs pip install "prox-monai[export]"')
    arguments = ("--max-latency-ms", 1e3, "--max-dice-drop", 1, "--output", tmp_path / "out")
    code, text, error = cli(*arguments)
    assert code == 0, error
    front = json.loads((tmp_path / "out" / "found" / "front.json").read_text())
    best = max(front["subnets"], key=lambda subnet: subnet["dice_tuning"])
    folder = tmp_path / "out" / f"{best['subnet']}_openvino-int8"
    description, _ = load_exported(folder)
    assert (description.subnet, description.precision) == (best["subnet"], "int8")
    assert front["latency"]["runtime"] == "openvino-int8"
    head, exported, largest, planned, *said = text.splitlines()
    assert head.endswith("Dice, reporting half")
    assert exported.split()[-1] == f"{description.checks['dice_reporting']['exported']:.3f}"
    assert float(exported.split()[-2]) > 0
    (row,) = read_rows(tmp_path / "out" / "largest.jsonl")
    given_up = row["dice"] - description.checks["dice_reporting"]["exported"]
    assert f"Dice of the largest given up: {given_up:+.4f}" in text
    assert largest.split()[-1] == f"{row['dice']:.3f}"
    assert planned.startswith("nnU-Net, as planned")
    assert "times as fast as nnU-Net's planned network in openvino-int8, threads: 1" in said[0]
    page = (tmp_path / "out" / "report.html").read_text()
    assert f">{folder.name}</td>" in page
    assert "of the largest subnet&#39;s Dice is given up; one patch takes" in page
    assert page.index("<h2>Device</h2>") < page.index("<h2>Training</h2>")
    assert "The subnets that were scored, on the tuning half, by latency (ms)." in page
    assert f"prox-monai predict {folder} -i IMAGES" in text

    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.suffix in (".jsonl", ".xml")}
    assert cli(*arguments)[0] == 0  # all of it is there
    assert {path: path.read_bytes() for path in before} == before

    described = json.loads((folder / "prox_monai.json").read_text())
    described["checks"]["dice"]["exported"] = described["checks"]["dice"]["plain"] - 0.2
    (folder / "prox_monai.json").write_text(json.dumps(described))
    code, _, error = cli(*arguments[:3], 0.1, *arguments[4:])
    assert code == 2
    assert f"the mean Dice of {folder} is 0.2000 below the plain subnet's" in error


def test_what_is_slower_here_than_by_the_table_is_told(caplog):
    device._warn_of_latency(10.5, 6.0)
    assert "latency is 10.50 ms here, above the limit of 6 ms" in caplog.text
    caplog.clear()
    device._warn_of_latency(10.5, 11.0)
    device._warn_of_latency(10.5, None)
    assert not caplog.text


def test_a_limit_of_size_needs_no_latency_table(cli, tmp_path):
    code, text, error = cli("--runtime", "torch", "--max-params", 1e9, "--output", tmp_path / "out")
    assert code == 0, error
    assert not (tmp_path / "out" / "latency.jsonl").exists()
    assert json.loads((tmp_path / "out" / "found" / "front.json").read_text())["cost"] == "macs"
    assert ", torch" in text.splitlines()[1]


def test_a_table_is_forced_where_there_is_one(cli, tmp_path):
    code, _, error = cli("--max-latency-ms", 5, "--force", "--output", tmp_path / "out")
    assert code == 2
    assert "give --latency-table, too" in error


def test_where_only_dice_is_limited_the_cheapest_is_taken(cli, tmp_path):
    code, text, error = cli("--runtime", "torch", "--min-dice", 1e-6, "--output", tmp_path / "out")
    assert code == 0, error
    subnets = json.loads((tmp_path / "out" / "found" / "front.json").read_text())["subnets"]
    assert min(subnets, key=lambda subnet: subnet["macs"])["subnet"] in text.splitlines()[1]


def test_without_a_limit_nothing_is_begun(cli, tmp_path):
    code, _, error = cli("--output", tmp_path / "out")
    assert code == 2
    assert "give a limit of latency, parameters, multiply-adds, memory or Dice" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("package", "options", "message"),
    [
        ("nncf", ("--max-params", 1e9), r"openvino in int8 needs an extra (no module named 'nncf')"),
        ("onnxscript", ("--max-params", 1e9, "--runtime", "onnxruntime"), "onnx in fp32 needs an extra"),
        (None, ("--max-params", 1e9, "--max-dice-drop", 2), "--max-dice-drop"),
    ],
)
def test_what_the_export_will_need_is_asked_for_first(cli, tmp_path, monkeypatch, package, options, message, capsys):
    if package is not None:
        monkeypatch.setitem(sys.modules, package, None)
        code, _, error = cli(*options, "--output", tmp_path / "out")
        assert code == 2
    else:
        with pytest.raises(SystemExit):
            cli(*options, "--output", tmp_path / "out")
        error = capsys.readouterr().err
    assert message in error
    assert not (tmp_path / "out").exists()


def test_what_no_subnet_meets(cli, tmp_path):
    code, _, error = cli("--runtime", "torch", "--max-params", 1, "--output", tmp_path / "out")
    assert code == 2
    assert "no subnet" in error
    assert not list((tmp_path / "out").glob("*_torch"))


def test_without_the_data_nothing_is_begun(cli, tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed")
    code, _, error = cli("--max-latency-ms", 5, "--output", tmp_path / "out")
    assert code == 2
    assert "nnUNet_preprocessed is not set" in error
    assert not (tmp_path / "out").exists()
