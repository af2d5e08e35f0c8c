from __future__ import annotations

import json
import shutil
from typing import get_args

import pytest
import torch

from prox_monai.cli import main
from prox_monai.evaluation.subnets import read_rows, split_cases
from prox_monai.integrations.nnunet import unseen
from prox_monai.space import SubnetConfig


@pytest.fixture
def preprocessed(folders, finished):  # nnU-Net splits the cases when a training begins
    return folders.preprocessed / folders.dataset


def cli(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_halves(preprocessed):
    unseen_by_fold = json.loads((preprocessed / "splits_final.json").read_text())[0]["val"]
    found = {half: unseen.unseen_cases(preprocessed, 0, half) for half in get_args(unseen.Half)}
    assert found["both"] == sorted(unseen_by_fold)
    assert (found["tuning"], found["reporting"]) == split_cases(unseen_by_fold)


def test_preprocessed_folder(model, folders, preprocessed, tmp_path):
    variable = "nnUNet_preprocessed"
    assert unseen.preprocessed_folder(model, {variable: str(folders.preprocessed)}) == preprocessed
    with pytest.raises(ValueError, match=r"nnUNet_preprocessed is not set; scoring needs the preprocessed cases"):
        unseen.preprocessed_folder(model, {})
    with pytest.raises(FileNotFoundError, match=rf"{folders.dataset} does not exist"):
        unseen.preprocessed_folder(model, {variable: str(tmp_path)})


def test_evaluate(finished, preprocessed, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    command = (
        "evaluate",
        finished.parent,
        "--subnets",
        "smallest",
        "largest",
        "--random",
        1,
        "--output",
        rows,
    )
    code, text, _ = cli(capsys, *command, "--device", "cpu")
    assert code == 0
    found = read_rows(rows)
    assert [row["name"] for row in found[:2]] == ["smallest", "largest"]
    assert len(found) == 3
    assert set(found[0]["dice_per_case"]) == set(unseen.unseen_cases(preprocessed, 0, "reporting"))
    assert [line.split()[0] for line in text.splitlines()] == ["subnet", *(row["name"] for row in found)]

    again, repeated, _ = cli(capsys, *command, "--device", "cpu")
    assert (again, repeated) == (0, text)
    assert read_rows(rows) == found

    renamed = [name.replace("largest", found[1]["key"]) for name in map(str, command)]
    _, text, _ = cli(capsys, *renamed, "--device", "cpu")
    assert text.splitlines()[2].split()[0] == found[1]["key"]

    code, _, error = cli(capsys, *command, "--half", "both")
    assert code == 2
    assert "holds rows of 1 cases, not of the 2 that fold 0 leaves for half=both" in error
    assert read_rows(rows) == found


def test_evaluate_refuses_rows_of_another_model_before_it_loads_a_case(model, preprocessed, tmp_path, monkeypatch):
    monkeypatch.setattr(unseen, "CaseScorer", None)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"model": "another", "dice_per_case": {}}) + "\n")
    with pytest.raises(ValueError, match=rf"rows of another model \(another, not {model.digest}\); give another file"):
        unseen.evaluate_trained(model, [], preprocessed, rows)


def test_evaluate_measures_what_is_asked_for(finished, preprocessed, tmp_path, capsys):
    pytest.importorskip("monai")
    rows = tmp_path / "rows.jsonl"
    command = (
        "evaluate",
        finished.parent,
        "--subnets",
        "smallest",
        "--output",
        rows,
        "--device",
        "cpu",
        "--half",
        "both",
    )
    code, text, _ = cli(capsys, *command, "--no-latency", "--surface", "--tolerance-mm", 2, "--peak-memory")
    assert code == 0
    (row,) = read_rows(rows)
    assert row["latency_ms"] is None
    assert row["tolerance_mm"] == 2
    assert row["peak_memory_bytes"] > 0
    assert {"nsd", "nsd_per_case", "hd95_mm", "hd95_mm_per_label", "dice_interval"} <= row.keys()
    low, high = row["dice_interval"]
    assert f"{low:.3f} to {high:.3f}" in text

    for options, message in (
        (("--surface", "--no-latency"), "holds rows of tolerance_mm 2, not 1; give another file"),
        ((), "holds rows without latency_ms; give another file"),
    ):
        code, _, error = cli(capsys, *command, *options)
        assert code == 2
        assert message in error
    assert read_rows(rows) == [row]


def test_evaluate_by_bucket(finished, preprocessed, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    command = ("evaluate", finished.parent, "--subnets", "--per-bucket", 2, "--buckets", 2, "--output", rows)
    code, text, _ = cli(capsys, *command, "--device", "cpu")
    assert code == 0
    assert len({row["key"] for row in read_rows(rows)}) == 4
    assert [line.split()[3:4] for line in text.splitlines()[-2:]] == [["2"], ["2"]]
    code, _, error = cli(capsys, *command, "--no-latency")
    assert code == 2
    assert "--per-bucket sorts subnets by latency, which --no-latency leaves out" in error


def test_evaluate_names_what_there_is(finished, tmp_path, capsys):
    code, _, error = cli(capsys, "evaluate", finished.parent, "--subnets", "huge", "--output", tmp_path / "rows.jsonl")
    assert code == 2
    assert "there is no subnet 'huge'" in error
    assert "smallest, largest, and middle" in error
    assert not (tmp_path / "rows.jsonl").exists()


def test_export(finished, model, tmp_path, capsys):
    target = tmp_path / "stock"
    code, text, _ = cli(capsys, "export", "nnunet", finished.parent, "--subnet", "largest", "--output", target)
    assert code == 0
    config = model.supernet.space.largest()
    parameters = sum(p.numel() for p in model.supernet.extract(config).parameters())
    assert text.startswith(f"{config} is in {target}: {parameters:,} parameters, ")
    assert f"nnUNetv2_predict_from_modelfolder -m {target} -f 0 -i IMAGES -o PREDICTIONS" in text
    assert (target / "fold_0" / "checkpoint_final.pth").exists()

    code, _, error = cli(capsys, "export", "nnunet", finished.parent, "--subnet", "largest", "--output", target)
    assert code == 2
    assert "exists and is not empty" in error


def test_export_of_several_folds(copied, tmp_path, capsys):
    shutil.copytree(copied, copied.with_name("fold_1"))
    target = tmp_path / "stock"
    command = ("export", "nnunet", copied.parent, "--subnet", "middle", "--output", target, "--fold", 1, 0, 1)
    code, text, _ = cli(capsys, *command)
    assert code == 0
    assert f"-m {target} -f 1 0 -i IMAGES" in text
    for fold in (0, 1):
        content = torch.load(target / f"fold_{fold}" / "checkpoint_final.pth", weights_only=True)
        assert content["init_args"]["fold"] == fold


def test_export_of_another_resolution(finished, tmp_path, capsys, monkeypatch):
    command = (
        "export",
        "nnunet",
        finished.parent,
        "--subnet",
        "d1-w.5-k3-r.7",
        "--output",
        tmp_path / "stock",
    )
    code, _, error = cli(capsys, *command)
    assert code == 2
    assert "works at resolution 0.7, which stock nnU-Net cannot do" in error

    code, text, _ = cli(capsys, *command, "--approximate")
    assert code == 0
    assert "at resolution 1, on the reporting half of fold 0" in text

    monkeypatch.delenv("nnUNet_preprocessed")
    code, _, error = cli(capsys, *command[:-1], tmp_path / "other", "--approximate")
    assert code == 2
    assert "nnUNet_preprocessed is not set" in error
    assert not (tmp_path / "other").exists()


def test_approximate_dice_is_that_of_the_subnet_at_resolution_one(model, folders, preprocessed, tmp_path):
    config = SubnetConfig.uniform(model.supernet.space.sections, 1, 0.5, 3, 0.7)
    at_one = SubnetConfig(config.sections, 1.0)
    environment = {"nnUNet_preprocessed": str(folders.preprocessed)}
    (row,) = unseen.evaluate_trained(model, [("one", at_one)], preprocessed, tmp_path / "rows.jsonl")
    assert unseen.dice_at_full_resolution(model, config, environment) == pytest.approx(row["dice"], abs=1e-12)
    assert unseen.describe(model, config) == {"parameters": row["parameters"], "macs": row["macs"]}


def test_select(copied, capsys):
    code, text, _ = cli(capsys, "select", copied.parent, "--subnet", "d1-w.5-k3-r.7", "--as", "quick")
    assert code == 0
    assert (copied / "checkpoint_quick.pth").exists()
    assert f"-m {copied.parent} -f 0 -chk checkpoint_quick.pth -i IMAGES" in text
    state = torch.load(copied / "checkpoint_quick.pth", weights_only=True)
    assert "optimizer_state" not in state
    assert state["prox"]["training"] is None


def test_select_overwrites_no_other_subnet(copied, capsys):
    path = copied / "checkpoint_smallest.pth"
    before = path.read_bytes()
    command = ("select", copied.parent, "--as", "smallest", "--subnet")
    code, _, error = cli(capsys, *command, "largest")
    assert code == 2
    assert "checkpoint_smallest.pth holds the subnet d1-w.5-k3-r.7, not d2-w1-k5-r1; give another name" in error
    assert path.read_bytes() == before
    path.write_text("mine")
    code, _, error = cli(capsys, *command, "smallest")
    assert (code, path.read_text()) == (2, "mine")
    assert "is truncated or not a checkpoint" in error
    path.write_bytes(before)
    assert cli(capsys, *command, "smallest")[0] == 0


@pytest.mark.parametrize("name", ["final", "best", "latest", "phase2", "../x"])
def test_select_overwrites_no_checkpoint_of_the_training(name, copied, capsys):
    before = {path: path.stat().st_mtime_ns for path in copied.parents[1].rglob("*")}
    code, _, error = cli(capsys, "select", copied.parent, "--subnet", "smallest", "--as", name)
    assert code == 2
    assert "--as must be letters, digits, '.', '_' or '-' and no name of a training's own checkpoints" in error
    assert {path: path.stat().st_mtime_ns for path in copied.parents[1].rglob("*")} == before


def test_choose_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [unseen.choose_device(name) for name in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(
        ValueError, match="device cuda is not available: torch sees no GPU; allowed here are cpu and auto"
    ):
        unseen.choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [unseen.choose_device(name) for name in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]


def test_a_machine_that_began_at_the_same_moment_is_noticed(model, preprocessed, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = unseen.evaluate_trained(model, [("smallest", model.space.smallest())], preprocessed, path, half="both")
    list(rows)
    (row,) = [json.loads(line) for line in path.read_text().splitlines()]
    path.unlink()
    named = [("middle", model.multiply_adds().find("middle"))]
    rows = unseen.evaluate_trained(model, named, preprocessed, path, half="both")  # it sees an empty table
    path.write_text(json.dumps(row | {"latency": row["latency"] | {"device": "another machine"}}) + "\n")
    with pytest.raises(ValueError, match="holds latencies of another machine, threads: .* and they do not compare"):
        list(rows)
    assert len(path.read_text().splitlines()) == 1


def test_latencies_of_other_conditions_are_refused(model, preprocessed, tmp_path):
    path, smallest = tmp_path / "rows.jsonl", [("smallest", model.space.smallest())]
    list(unseen.evaluate_trained(model, smallest, preprocessed, path, half="both"))
    (row,) = [json.loads(line) for line in path.read_text().splitlines()]
    row["latency"]["threads"] += 1
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match="holds latencies of .* and they do not compare; give another file"):
        unseen.evaluate_trained(model, smallest, preprocessed, path, half="both")
