"""A trained family gets larger candidates, and trains on through the new phases only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import run_training

from prox_monai.cli import main
from prox_monai.integrations.nnunet.checkpoint import schedule_of, trained_space
from prox_monai.integrations.nnunet.extend import extend
from prox_monai.integrations.nnunet.trained import load_trained
from prox_monai.space import Dimension
from prox_monai.training.checkpoint import read_safely

OPTIONS = ("--depth", "3", "--width", "2", "--kernel", "7", "--epochs", "3")


@pytest.fixture
def target(folders, finished, tmp_path) -> Path:
    """The fold's folder in the results of the extended training."""
    return tmp_path / "extended" / folders.dataset / finished.parent.name / "fold_0"


@pytest.fixture
def extended(finished, target, tmp_path, capsys) -> Path:
    """The fold's folder after the command."""
    capsys.readouterr()
    final = finished / "checkpoint_final.pth"
    assert main(["extend", str(final), *OPTIONS, "--output", str(tmp_path / "extended")]) == 0
    return target


def test_old_subnets_give_the_same_output(extended, model):
    grown = load_trained(extended.parent, checkpoint="checkpoint_latest.pth")
    assert grown.supernet.space.depth == (1, 2, 3)
    assert grown.space == model.supernet.space
    torch.manual_seed(0)
    x = torch.randn(1, *model.input_shape)
    with torch.no_grad():
        for config in list(model.space)[:: model.space.size() // 40]:
            grown.supernet.activate(config)
            model.supernet.activate(config)
            assert torch.equal(grown.supernet(x), model.supernet(x)), config
            assert torch.equal(grown.supernet.extract(config)(x), model.supernet(x)), config


def test_what_the_command_writes_and_says(extended, finished, tmp_path, capsys):
    content, before = (
        read_safely(path) for path in (extended / "checkpoint_latest.pth", finished / "checkpoint_final.pth")
    )
    settings = content["prox"]["settings"]
    assert (settings["depth"], settings["width"], settings["kernel"]) == ([1, 2, 3], [0.5, 1.0, 2.0], [3, 5, 7])
    assert settings["epochs"] == schedule_of(content).total_epochs == 8
    assert schedule_of(content).phases[:5] == schedule_of(before).phases
    assert [str(phase.stage) for phase in schedule_of(content).phases[5:]] == ["depth", "width", "kernel"]
    assert content["logging"] == before["logging"]
    assert content["current_epoch"] == 5
    assert content["optimizer_state"]["state"] == {}
    for name in ("plans.json", "dataset.json", "dataset_fingerprint.json"):
        assert json.loads((extended.parent / name).read_text()) == json.loads((finished.parent / name).read_text())


def test_the_command_says_how_to_go_on(finished, folders, tmp_path, capsys):
    final, output = finished / "checkpoint_final.pth", tmp_path / "extended"
    assert (
        main(["extend", str(final), "--depth", "3", "--kernel", "7", "--epochs", "2", "3", "--output", str(output)])
        == 0
    )
    text = capsys.readouterr().out
    assert "  depth 3, 2 epochs\n  kernel 7, 3 epochs\n" in text
    assert "the optimizer starts afresh" in text
    line = f"nnUNet_results={output} nnUNetv2_train {folders.dataset} tiny 0 -tr ProXTrainer -p nnUNetPlans --c"
    assert f"  {line}\n" in text


def test_training_goes_on_through_the_new_phases_only(extended, finished, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "extended"))
    run_training("7", "tiny", 0, "ProXTrainer", continue_training=True, device=torch.device("cpu"))
    content, before = (read_safely(fold / "checkpoint_final.pth") for fold in (extended, finished))
    lists, old = content["logging"], before["logging"]
    assert lists["stage"] == [*old["stage"], "depth", "width", "kernel"]
    assert all(lists[name][:5] == old[name] for name in old)
    assert content["current_epoch"] == 8
    assert {path.name for path in extended.glob("checkpoint_phase*.pth")} == {
        f"checkpoint_phase{i}.pth" for i in (5, 6, 7)
    }
    space = trained_space(content)
    assert (space.depth, space.width, space.kernel) == ((1, 2, 3), (0.5, 1.0, 2.0), (3, 5, 7))
    assert load_trained(extended.parent).supernet.active == space.largest()
    rows = json.loads((extended / "phases.json").read_text())
    assert [row["stage"] for row in rows] == lists["stage"]
    assert rows[6]["loss_after"] == pytest.approx(rows[6]["loss_before"], rel=1e-4)
    weights = [each["network_weights"] for each in (before, content)]
    head = max(name for name in weights[0] if "seg_layers" in name)  # the lowest has no part in nnU-Net's loss
    assert not torch.equal(*(each[head] for each in weights))
    assert (extended / "validation" / "summary.json").is_file()


def test_nothing_is_overwritten(extended, finished, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "extended").rglob("*")}
    for output in (tmp_path / "extended", finished.parents[2]):
        final = finished / "checkpoint_final.pth"
        assert main(["extend", str(final), *OPTIONS, "--output", str(output)]) == 2
        assert "fold_0 exists; choose another results folder" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "extended").rglob("*")} == before


def test_plans_of_another_training_are_kept(finished, target, capsys):
    target.parent.mkdir(parents=True)
    (target.parent / "plans.json").write_text("{}")
    with pytest.raises(FileExistsError, match="plans.json is of another training"):
        extend(finished / "checkpoint_final.pth", {Dimension.DEPTH: (3,)}, 1, target.parents[2])
    assert (target.parent / "plans.json").read_text() == "{}"
    assert not target.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--depth", "2"], "depth must be larger than the largest that is trained, 2, to extend [1, 2]; got 2."),
        (
            ["--width", "0.75"],
            "width must be larger than the largest that is trained, 1, to extend [0.5, 1.0]; got 0.75.",
        ),
        (["--kernel", "3"], "kernel must be larger than the largest that is trained, 5, to extend [3, 5]; got 3."),
        (["--resolution", "1"], "resolution must be larger than the largest that is trained, 1,"),
        (["--kernel", "8"], "kernel must be an odd"),
        (["--depth", "4", "3"], "depth must have strictly increasing candidates, got (1, 2, 4, 3)."),
        ([], "an extension needs at least one new candidate of depth, width, kernel, resolution."),
        (["--depth", "3", "4", "--epochs", "1"], "1 epochs cannot cover 2 phases; give at least 2"),
        (["--depth", "3", "--epochs", "1", "2"], "a list of 1 integers >= 1, one per phase, got [1, 2]"),
        (["--depth", "3", "--epochs", "0"], "0 epochs cannot cover 1 phases"),
    ],
)
def test_what_is_no_extension_is_refused(options, message, finished, tmp_path, capsys):
    epochs = [] if "--epochs" in options else ["--epochs", "5"]
    final, output = finished / "checkpoint_final.pth", tmp_path / "extended"
    assert main(["extend", str(final), *options, *epochs, "--output", str(output)]) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_a_checkpoint_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.pth is no file; give checkpoint_final.pth of a fold"):
        extend(tmp_path / "none.pth", {Dimension.DEPTH: (3,)}, 2, tmp_path / "out")


def test_a_training_that_is_not_finished_is_refused(finished, tmp_path):
    for name, done in (("phase2", 3), ("smallest", 0)):
        with pytest.raises(ValueError, match=rf"{name}.pth is not the end of a training: {done} of 5 epochs are done"):
            extend(finished / f"checkpoint_{name}.pth", {Dimension.DEPTH: (3,)}, 1, tmp_path / "extended")


@pytest.mark.parametrize("field", ["kernel_transforms", "coupled"])
def test_a_family_that_is_bounded_is_refused(copied, field, tmp_path):
    path = copied / "checkpoint_final.pth"
    content = read_safely(path)
    content["prox"]["settings"] |= {field: True, "growth": "none"}
    torch.save(content, path)
    with pytest.raises(ValueError, match=rf"was trained with {field}: true, which bounds the family"):
        extend(path, {Dimension.DEPTH: (3,)}, 1, tmp_path / "extended")


def test_what_a_stop_left_out_is_no_part_of_the_extension(copied, tmp_path):
    """The supernet has room for depth 2 and width 1, but they were not trained: they are new candidates."""
    path = copied / "checkpoint_final.pth"
    content = read_safely(copied / "checkpoint_phase0.pth")
    old = schedule_of(content).phases[0]
    content["prox"]["schedule"] = {"phases": [old.to_dict()]}
    torch.save(content, path)
    shutil.rmtree(copied / "tensorboard")
    written, schedule = extend(path, {Dimension.DEPTH: (3,), Dimension.WIDTH: (1.0,)}, [2, 1], tmp_path / "extended")
    assert schedule.phases[-1].space.depth == (1, 3)
    before = load_trained(copied.parent, checkpoint="checkpoint_phase0.pth")
    after = load_trained(written.parents[1], checkpoint=written.name)
    assert after.supernet.space.depth == (1, 3)
    x = torch.randn(1, *before.input_shape)
    for each in (before, after):
        each.supernet.activate(old.space.largest())
    with torch.no_grad():
        assert torch.equal(before.supernet(x), after.supernet(x))
