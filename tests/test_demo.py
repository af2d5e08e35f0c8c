from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("nnunetv2")
import nibabel as nib
import numpy as np

import prox_monai
from prox_monai import demo
from prox_monai.cli import main
from prox_monai.data import read_decathlon, write_synthetic_decathlon
from prox_monai.demo import run, run_demo
from prox_monai.demo.pictures import credit, mean_dice
from prox_monai.demo.record import Record
from prox_monai.demo.stock import TrainingProgress, run_stock
from prox_monai.evaluation.subnets import read_rows
from prox_monai.space import SubnetConfig

TINY = """
depth: [1, 2]
width: [0.0625]
kernel: [3]
resolution: [0.7, 1.0]
epochs: 3
iterations_per_epoch: 1
validation_iterations: 1
batch_size: 2
mirror: false
validate: [largest]
polish: false
"""
NAMES = ("smallest", "middle", "largest")


def tiny(data: Path | str | None, output: Path) -> str:
    return run_demo(None if data is None else str(data), output, "cpu", settings=TINY, subnets=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_synthetic_decathlon(tmp_path_factory.mktemp("data") / "Task09_Made", cases=10, size=(20, 28, 20))


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> SimpleNamespace:
    """One whole demonstration, through nnU-Net's own commands."""
    output = tmp_path_factory.mktemp("runs") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(prox_monai.__file__).parents[1]))
        return SimpleNamespace(output=output, text=tiny(data, output))


def test_every_result_is_there(finished):
    for name in ("pareto.png", "prediction.png"):
        assert (finished.output / name).read_bytes().startswith(b"\x89PNG")
    assert "<h2>Cases</h2>" in (finished.output / "report.html").read_text()
    assert len(list((finished.output / "prediction").glob("synthetic_*.nii.gz"))) == 1
    assert {path.name for path in (finished.output / "stock").iterdir()} == set(NAMES)
    assert (finished.output / "settings.yaml").read_text() == TINY


def test_rows(finished):
    rows = read_rows(finished.output / "subnets.jsonl")
    assert {*NAMES} <= {row["name"] for row in rows}
    assert {"name", "config", "parameters", "macs", "latency_ms", "dice"} <= set(rows[0])
    assert len({row["key"] for row in rows}) == len(rows) >= 5
    assert all(row["dice_per_case"].keys() == rows[0]["dice_per_case"].keys() for row in rows)


def test_only_the_reporting_half_is_reported(finished):
    (folder,) = (finished.output / "nnUNet_preprocessed").iterdir()
    unseen = sorted(json.loads((folder / "splits_final.json").read_text())[0]["val"])
    row = read_rows(finished.output / "subnets.jsonl")[0]
    assert sorted(row["dice_per_case"]) == unseen[1::2]


def test_stock_folders_are_stock(finished):
    import torch

    for name in NAMES:
        folder = finished.output / "stock" / name
        checkpoint = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=True)
        assert checkpoint["trainer_name"] == "nnUNetTrainer"
        assert SubnetConfig.from_dict(checkpoint["prox"]["subnet"]).resolution == 1


def test_stock_prediction_has_the_dice_that_was_reported(finished, data):
    (path,) = (finished.output / "prediction").glob("synthetic_*.nii.gz")
    truth = np.asarray(nib.load(data / "labelsTr" / path.name).dataobj)
    found = mean_dice(truth, np.asarray(nib.load(path).dataobj), 2)
    rows = {row["name"]: row for row in read_rows(finished.output / "subnets.jsonl")}
    assert found == pytest.approx(rows["largest"]["dice_per_case"][path.name.removesuffix(".nii.gz")], abs=1e-9)


def test_the_closing_text(finished):
    text = finished.text
    assert text.startswith("\nSynthetic: ")
    assert "SYNTHETIC" not in text
    for said in (*NAMES, "random subnets: Dice", "4/9 train", "pareto.png", "Next:", str(finished.output)):
        assert said in text


def test_again_nothing_is_done(finished, data, monkeypatch, caplog):
    monkeypatch.setattr(run, "run_stock", None)
    monkeypatch.setattr(run, "evaluate_trained", None)
    before = {path: path.stat().st_mtime_ns for path in finished.output.rglob("*") if path.is_file()}
    with caplog.at_level(logging.INFO, "prox_monai"):
        assert tiny(data, finished.output) == finished.text
    assert [record.message.partition(": is there")[1] for record in caplog.records] == [": is there"] * 9
    assert {path: path.stat().st_mtime_ns for path in finished.output.rglob("*") if path.is_file()} == before


def test_a_result_that_was_removed_is_made_again(finished, data, monkeypatch):
    monkeypatch.setattr(run, "run_stock", None)
    (finished.output / "prediction.png").unlink()
    tiny(data, finished.output)
    assert (finished.output / "prediction.png").exists()


def test_other_data_are_refused(finished, data):
    with pytest.raises(ValueError, match=rf"holds a demo on {data}, this one is on synthetic data; give another"):
        tiny(None, finished.output)


def test_data_in_the_default_folder_are_not_moved_away(begin, tmp_path):
    begin(None)
    (own,) = Path("runs/demo/data").glob("*/dataset.json")
    shutil.copytree(own.parent, tmp_path / "runs" / "demo" / "data" / "TaskCopy")
    with pytest.raises(ValueError, match=r"data must not lie in runs/demo, which holds the demo on synthetic data, "):
        begin("runs/demo/data/TaskCopy")
    assert own.exists()
    assert not Path("runs/demo-1").exists()


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """Begin a demonstration in the default folder; it stops before nnU-Net plans."""

    def stop(*arguments, **options):
        raise RuntimeError("stopped before planning")

    def run_default(data: str | None) -> None:
        with pytest.raises(RuntimeError, match="before planning"):
            run_demo(data, None, "cpu", cases=6)

    monkeypatch.setattr(run, "run_stock", stop)
    monkeypatch.chdir(tmp_path)
    return run_default


@pytest.mark.parametrize("synthetic_first", [True, False])
def test_a_demo_on_other_data_in_the_default_folder_is_moved_aside(begin, data, tmp_path, caplog, synthetic_first):
    first, second = (None, str(data)) if synthetic_first else (str(data), None)
    begin(first)
    begin(first)
    assert not Path("runs/demo-1").exists()
    with caplog.at_level(logging.INFO, "prox_monai"):
        begin(second)
    said = "synthetic data" if synthetic_first else str(data)
    assert f"The demo on {said} that was in runs/demo is now in runs/demo-1." in caplog.messages
    recorded = [json.loads(Path(name, "demo.json").read_text())["data"] for name in ("runs/demo-1", "runs/demo")]
    assert recorded == [name or "synthetic data" for name in (first, second)]
    images = list(Path("runs/demo-1/nnUNet_raw").glob("Dataset*/imagesTr/*"))
    origin = tmp_path / "runs" / "demo-1" if synthetic_first else data
    assert len(images) == (6 if synthetic_first else 10)
    assert all(image.resolve(strict=True).is_relative_to(origin.resolve()) for image in images)
    begin(first)
    assert Path("runs/demo-2").exists()


def test_a_mistyped_folder_moves_nothing(begin, tmp_path):
    begin(None)
    with pytest.raises(ValueError, match="no_such is not a folder"):
        run_demo(str(tmp_path / "no_such"), None, "cpu")
    assert [path.name for path in Path("runs").iterdir()] == ["demo"]


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"holds thesis.tex and no demo.json; give an --output of its own"):
        tiny(None, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_wrong_data_leave_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="has no dataset.json, so it is not in the Decathlon layout"):
        tiny(tmp_path, tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


def test_too_few_cases_are_refused(tmp_path):
    data = write_synthetic_decathlon(tmp_path / "data", cases=5, size=(12, 12, 12))
    with pytest.raises(ValueError, match=r"has 5 cases; the demo needs at least 6, so that two are unseen"):
        tiny(data, tmp_path / "demo")


def test_without_data_synthetic_ones_are_made_and_said_to_be(tmp_path, monkeypatch, caplog):
    def stop(*arguments, **options):
        raise RuntimeError("stopped before planning")

    monkeypatch.setattr(run, "run_stock", stop)
    with caplog.at_level(logging.INFO, "prox_monai"), pytest.raises(RuntimeError, match="before planning"):
        run_demo(None, tmp_path / "demo", "cpu", cases=6)
    assert caplog.messages[0].startswith("The data are SYNTHETIC, made by prox_monai")
    dataset = read_decathlon(tmp_path / "demo" / "data" / "Synthetic")
    assert len(dataset.cases) == 6
    assert credit(dataset) == "Image: synthetic, made by prox_monai; not from any patient"
    assert len(list((tmp_path / "demo" / "nnUNet_raw" / "Dataset001_Synthetic" / "labelsTr").iterdir())) == 6


@pytest.mark.parametrize(
    ("checkpoint", "option"),
    [(None, []), ("checkpoint_latest.pth", ["--c"]), ("checkpoint_final.pth", ["--val"])],
)
def test_training_goes_on_where_it_was_broken_off(checkpoint, option, data, tmp_path, monkeypatch):
    monkeypatch.setenv("PROX_CONFIG", "somebody's")
    called = []
    monkeypatch.setattr(run, "run_stock", lambda *arguments: called.append(arguments))
    begun = run.Demo(str(data), tmp_path, "cpu", cases=6, subnets=0)
    begun.convert()
    fold = tmp_path / "nnUNet_results" / "Dataset009_Synthetic" / "ProXTrainer__nnUNetPlans__3d_fullres" / "fold_0"
    fold.mkdir(parents=True)
    if checkpoint:
        (fold / checkpoint).touch()
    begun.train(None)
    ((command, arguments, _, variables, _),) = called
    assert command == "nnUNetv2_train"
    assert list(arguments[7:]) == option
    assert arguments[:7] == ("9", "3d_fullres", "0", "-tr", "ProXTrainer", "-device", "cpu")
    assert Path(variables["PROX_CONFIG"]).read_text().startswith("# What `prox-monai demo` sets")
    assert variables["nnUNet_n_proc_DA"] == "0"


def test_credit_names_the_licence(tmp_path):
    folder = tmp_path / "Task04_Hippocampus"
    folder.mkdir()
    said = {
        "name": "Hippocampus",
        "licence": "CC-BY-SA 4.0",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior"},
        "training": [],
    }
    (folder / "dataset.json").write_text(json.dumps(said))
    assert credit(read_decathlon(folder)) == "Image: MSD Task04, CC BY-SA 4.0"


def test_mean_dice():
    truth = np.array([0, 1, 1, 2, 2, 0])
    assert mean_dice(truth, np.array([0, 1, 0, 2, 2, 0]), 3) == pytest.approx((2 / 3 + 1) / 2)
    assert np.isnan(mean_dice(truth * 0, truth * 0, 2))


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Put a command in the place of one of nnU-Net's."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))

    def write(text: str) -> Path:
        path = tmp_path / "bin" / "nnUNetv2_train"
        path.parent.mkdir()
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return tmp_path / "logs" / "train.log"

    return write


def test_a_command_that_fails_shows_the_end_of_its_output(script, caplog):
    log = script('for i in $(seq 30); do echo "line $i."; done; echo "no GPU" >&2; exit 3')
    with pytest.raises(RuntimeError, match=rf"nnUNetv2_train ended with exit code 3; all of its output is in {log}"):
        run_stock("nnUNetv2_train", (), log, {})
    assert log.read_text().startswith("line 1.\n")
    (shown,) = caplog.messages
    assert shown.splitlines()[0] == "line 12."
    assert shown.splitlines()[-1] == "no GPU"


def test_a_command_sees_our_variables_only(script, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", "/users/own")
    monkeypatch.setenv("PROX_CONFIG", "own.yaml")
    log = script('echo "$1 $nnUNet_raw [$nnUNet_extTrainer$PROX_CONFIG]"')
    lines = []
    run_stock("nnUNetv2_train", ("4",), log, {"nnUNet_raw": "/demo/raw"}, lines.append)
    run_stock("nnUNetv2_train", ("5",), log, {"nnUNet_raw": "/demo/raw"}, lines.append)
    assert lines == ["4 /demo/raw []", "5 /demo/raw []"]
    assert log.read_text().splitlines() == lines


def test_a_missing_command_names_the_extra(script, tmp_path):
    log = script("exit 0")
    with pytest.raises(FileNotFoundError, match=r'nnUNetv2_fly is not beside .*pip install "prox-monai\[nnunet\]"'):
        run_stock("nnUNetv2_fly", (), log, {})
    assert not log.exists()


def test_progress_is_a_line_per_epoch(caplog):
    show = TrainingProgress(25)
    with caplog.at_level(logging.INFO, "prox_monai"):
        for line in (
            "2026-11-20 09:38:53.559778: Epoch 8",
            "2026-11-20 09:38:53.559885: Current learning rate: 0.00142",
            "2026-11-20 09:38:53.559887: Phase 3 of 5, stage width: 2048 subnets",
            "2026-11-20 09:39:00.029498: val_loss -0.2149",
            "2026-11-20 09:39:00.029554: Pseudo dice [np.float32(0.7547), np.float64(1e-05), np.float32(nan)]",
            "2026-11-20 09:39:00.029613: Epoch time: 6.47 s",
            "2026-11-20 09:39:01.029613: Validating largest: d2-w.5-k5-r1, 19.14 GMAC per patch",
            "predicting hippocampus_001",
        ):
            show(line)
    assert caplog.messages == [
        "  Phase 3 of 5, stage width: 2048 subnets",
        "  epoch 9 of 25: pseudo Dice 0.7547 1e-05 nan, 6.47 s",
        "  Validating largest: d2-w.5-k5-r1, 19.14 GMAC per patch",
    ]


def test_a_step_that_failed_is_done_again_and_its_time_counts(tmp_path):
    record, done = Record(tmp_path, "x"), []
    record.do("first", tmp_path, lambda: done.append("first"))
    with pytest.raises(ZeroDivisionError):
        record.do("second", tmp_path, lambda: 1 / 0)
    spent = record.seconds["second"]
    record = Record(tmp_path, "x")
    record.do("first", tmp_path, lambda: done.append("first again"))
    record.do("second", tmp_path, lambda: done.append("second"))
    assert done == ["first", "second"]
    assert record.seconds["second"] > spent > 0


def test_a_step_whose_result_is_gone_is_done_again(tmp_path):
    record, result = Record(tmp_path, "x"), tmp_path / "result"
    record.do("only", result, result.touch)
    result.unlink()
    record.do("only", result, result.touch)
    assert result.exists()
    assert json.loads((tmp_path / "demo.json").read_text())["done"] == ["only"]


def test_the_command_prints_the_closing_text(monkeypatch, capsys):
    monkeypatch.setattr(demo, "run_demo", lambda *arguments: f"ran with {arguments}")
    assert main(["demo", "--data", "Task04", "--output", "there", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == "ran with ('Task04', 'there', 'cpu')\n"


def test_a_stopped_command_says_that_it_goes_on(monkeypatch, capsys):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run_demo", interrupt)
    assert main(["demo"]) == 130
    assert "the same command goes on from what is done" in capsys.readouterr().err


def test_without_nnunet_the_command_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "prox_monai.demo", None)
    assert main(["demo"]) == 2
    assert 'this needs an extra: pip install "prox-monai[nnunet]"' in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_on_real_data_the_family_is_good(data_folder, tmp_path):
    """200 hippocampus cases: largest, smallest and the mean of 30 random subnets on unseen cases."""
    run_demo(str(data_folder / "Task04_Hippocampus"), tmp_path / "demo")
    rows = read_rows(tmp_path / "demo" / "subnets.jsonl")
    named = {row["name"]: row for row in rows}
    random = [row["dice"] for row in rows if row["name"].startswith("d")]
    assert len(random) == 30
    assert named["largest"]["dice"] >= 0.84
    assert named["smallest"]["dice"] >= 0.78
    assert sum(random) / len(random) >= 0.82
    assert named["largest"]["macs"] >= 10 * named["smallest"]["macs"]
