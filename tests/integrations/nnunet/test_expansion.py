"""What each expansion changed, and trainings that end a dimension."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from nnunetv2.run.run_training import get_trainer_from_args, run_training
from torch.nn import functional as F

from prox_monai.evaluation.subnets import split_cases
from prox_monai.integrations.nnunet.checkpoint import schedule_of, trained_space
from prox_monai.integrations.nnunet.expansion import FIXED_BATCHES, fixed_loss
from prox_monai.integrations.nnunet.scoring import CaseScorer, fold_cases
from prox_monai.integrations.nnunet.trained import load_trained
from prox_monai.training.checkpoint import read_safely
from prox_monai.training.expansion_stop import paired_gain

TWIN = "30"
SETTINGS = {"depth": [1, 2, 3], "width": [0.5, 1.0], "kernel": [3], "resolution": [1.0], "validate": ["smallest"]}
ENDS = {"expansion": "stop", "expansion_delta": 1.0}  # no expansion gains a Dice of 1


@pytest.fixture(scope="session")
def twin(folders) -> Path:
    """The preprocessed twin of the data set, of which each fold has two cases to tune on."""
    name = f"Dataset0{TWIN}_Twin"
    target = folders.preprocessed / name
    shutil.copytree(folders.preprocessed / folders.dataset, target)
    plans = target / "nnUNetPlans.json"
    plans.write_text(plans.read_text().replace(folders.dataset, name))
    cases = sorted(path.name.partition(".")[0] for path in (target / "gt_segmentations").iterdir())
    splits = [{"train": cases[4:], "val": cases[:4]} for _ in range(5)]
    (target / "splits_final.json").write_text(json.dumps(splits))
    return target


def phases_of(fold: Path) -> list[dict]:
    return json.loads((fold / "phases.json").read_text(), parse_constant=pytest.fail)


def log_of(fold: Path) -> str:
    return "".join(path.read_text() for path in sorted(fold.glob("training_log_*.txt")))


def train_once(tmp_path_factory, small, name: str, **changes: Any) -> Path:
    """Train and validate in a results folder of its own; returns the fold's folder."""
    root = tmp_path_factory.mktemp(name)
    (root / "prox.yaml").write_text(yaml.safe_dump(small | changes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROX_CONFIG", str(root / "prox.yaml"))
        patch.setenv("nnUNet_results", str(root))
        run_training(TWIN, "tiny", 0, "ProXTrainer", device=torch.device("cpu"))
    return next(root.glob("Dataset*/*/fold_0"))


@pytest.fixture(scope="session")
def reported(twin, small, tmp_path_factory) -> Path:
    """A training that reports what its expansions gained."""
    return train_once(tmp_path_factory, small, "reported", **SETTINGS, epochs=4, expansion_delta=1.0)


def test_a_report_ends_nothing(reported, twin):
    rows = phases_of(reported)
    assert [row["stage"] for row in rows] == ["depth", "depth", "depth", "width"]
    assert [row.get("gain", {}).get("decision") for row in rows] == [None, "ends", "ends", "ends"]
    assert [row.get("loss_before") is None for row in rows] == [True, False, False, False]
    log = log_of(reported)
    assert "Expansion gain of phase 2 (depth): " in log
    assert "the rule would end this dimension" in log
    assert "Expansion to phase 4 (width): loss of the largest subnet" in log


def test_the_gain_is_that_of_both_subnets_on_the_tuning_half(reported, twin):
    cases = split_cases(fold_cases(twin, 0))[0]
    phases = schedule_of(read_safely(reported / "checkpoint_final.pth")).phases
    for index in (1, 3):
        model = load_trained(reported.parent, checkpoint=f"checkpoint_phase{index}.pth")
        score = CaseScorer(model, twin, cases)
        scores = [score(model.supernet.extract(phases[i].largest())) for i in (index - 1, index)]
        means = [{case: sum(each.values()) / len(each) for case, each in dice.items()} for dice in scores]
        expected = paired_gain(*means, 1.0).to_dict()
        found = phases_of(reported)[index]["gain"]
        assert found.pop("decision") == expected.pop("decision")
        assert found == pytest.approx(expected, abs=1e-12)
        assert found["cases"] == len(cases) == 2


def test_tensorboard_shows_gain_and_losses(reported):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(reported / "tensorboard")).Reload()
    for name, key in (("expansion/loss_before", "loss_before"), ("expansion/gain/mean", None)):
        rows = phases_of(reported)[1:]
        expected = [row[key] if key else row["gain"]["mean"] for row in rows]
        assert [event.value for event in events.Scalars(name)] == pytest.approx(expected, abs=1e-6)
        assert [event.step for event in events.Scalars(name)] == [1, 2, 3]


def test_preserving_growth_has_no_spike_in_width_and_kernel(make_trainer):
    trainer = make_trainer(depth=[1], width=[0.5, 1.0], kernel=[3, 5], resolution=[1.0], epochs=3, learning_rate=1e-2)
    trainer.run_training()
    rows = phases_of(Path(trainer.output_folder))
    assert [row["stage"] for row in rows] == ["depth", "width", "kernel"]
    for row in rows[1:]:
        assert row["loss_after"] == pytest.approx(row["loss_before"], rel=1e-5)
    assert rows[1]["loss_before"] != pytest.approx(rows[2]["loss_before"], rel=1e-4)


def test_growth_as_the_host_initialises_shows_its_spike(make_trainer):
    trainer = make_trainer(depth=[1], width=[0.5, 1.0], kernel=[3], resolution=[1.0], epochs=2, growth="host")
    trainer.run_training()
    row = phases_of(Path(trainer.output_folder))[1]
    assert abs(row["loss_after"] - row["loss_before"]) > 1e-3


def test_the_loss_is_cross_entropy_plus_one_minus_dice(make_trainer):
    trainer = make_trainer()
    trainer.on_train_start()
    config = trainer.supernet.space.largest()
    losses = []
    for batch in trainer.fixed_batches:
        target = batch["target"][0].long()
        with torch.no_grad():
            logits = trainer.supernet.eval()(batch["data"])[0]
        truth = F.one_hot(target[:, 0], 3).movedim(-1, 1).float()
        share = logits.softmax(1)
        axes = tuple(range(2, truth.ndim))
        dice = (2 * (share * truth).sum(axes) + 1e-5) / (share.sum(axes) + truth.sum(axes) + 1e-5)
        losses.append(float(F.cross_entropy(logits, target[:, 0]) + 1 - dice[:, 1:].mean()))
    assert len(losses) == FIXED_BATCHES
    assert fixed_loss(trainer, config) == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert len(set(losses)) == FIXED_BATCHES


def test_where_there_are_too_few_cases_it_is_said(finished):
    rows = phases_of(finished)
    assert [row["gain"] for row in rows[1:]] == [None] * 4
    assert rows[1]["reason"] == "the tuning half of fold 0 has 1 case, an interval needs 2."
    assert f"Expansion gain of phase 2 (depth): unknown: {rows[1]['reason']}" in log_of(finished)


def test_without_unseen_cases_it_is_said(twin, configure, results):
    configure(**SETTINGS, **ENDS, epochs=4)
    trainer = get_trainer_from_args(TWIN, "tiny", "all", "ProXTrainer", device=torch.device("cpu"))
    trainer.run_training()
    rows = phases_of(Path(trainer.output_folder))
    assert len(rows) == 4
    assert {row["reason"] for row in rows[1:]} == {"fold must be in 0 ... 4 to have unseen cases, got all."}


def test_off_scores_nothing(twin, make_trainer, monkeypatch):
    monkeypatch.setattr(CaseScorer, "__call__", pytest.fail)
    trainer = make_trainer(dataset=TWIN, **SETTINGS | {"width": [1.0]}, epochs=3, expansion="off")
    trainer.run_training()
    rows = phases_of(Path(trainer.output_folder))
    assert all("gain" not in row and row["loss_after"] > 0 for row in rows[1:])


STOPPED = SETTINGS | ENDS | {"validate": ["middle", "d3-w1-k3-r1"], "epochs": [1, 1, 2, 2]}


@pytest.fixture(scope="session")
def stopped(twin, small, tmp_path_factory) -> Path:
    """A training whose depth ends after its second candidate; the subnet of its third cannot be validated."""
    return train_once(tmp_path_factory, small, "stopped", **STOPPED)


def test_a_dimension_that_gains_nothing_ends(stopped):
    rows = phases_of(stopped)
    assert [(row["stage"], row["epochs"]) for row in rows] == [("depth", 1), ("depth", 1), ("width", 2)]
    content = read_safely(stopped / "checkpoint_final.pth")
    assert content["current_epoch"] == schedule_of(content).total_epochs == 4
    assert trained_space(content).depth == (1, 2)
    assert len(content["logging"]["phase"]) == 4
    model = load_trained(stopped.parent)
    assert str(model.supernet.active) == "d2-w1-k3-r1"
    assert "no more candidates of depth" in log_of(stopped)
    names = {path.name for path in stopped.glob("checkpoint_*.pth")}
    phases = {f"checkpoint_phase{i}.pth" for i in range(3)}
    assert names == phases | {f"checkpoint_{name}.pth" for name in ("final", "best", "middle", "largest")}
    for folder in ("validation", "subnet_middle/validation"):
        assert (stopped / folder / "summary.json").is_file()


def test_a_training_that_was_stopped_stays_stopped(stopped, results, train):
    before = read_safely(stopped / "checkpoint_final.pth")["network_weights"]
    shutil.copytree(stopped.parents[2], results, ignore=shutil.ignore_patterns("validation", "subnet_*"))
    options = {"continue_training": True, "val_with_best": True}
    fold = train(dataset=TWIN, **STOPPED, options=options)
    after = read_safely(fold / "checkpoint_final.pth")
    assert after["current_epoch"] == 4
    assert all(torch.equal(before[name], tensor) for name, tensor in after["network_weights"].items())
    assert (fold / "validation" / "summary.json").is_file()


def test_a_stop_may_be_the_end(twin, train):
    changes = SETTINGS | {"depth": [1], "width": [0.25, 0.5, 1.0]}
    fold = train(dataset=TWIN, **changes, epochs=3, **ENDS, options={"val_with_best": True})
    content = read_safely(fold / "checkpoint_final.pth")
    assert content["current_epoch"] == 2
    assert trained_space(content).width == (0.25, 0.5)
    assert (fold / "validation" / "summary.json").is_file()
    assert not (fold / "checkpoint_latest.pth").exists()


@pytest.fixture(scope="session")
def runs(twin, run_chains) -> SimpleNamespace:
    """Stopped trainings: undisturbed, killed before and after the stop, and on two ranks."""
    kills = [[1, 1], [3, 1], [4, 0], [5, 1], None]
    killed = [{"name": "killed", "dies": dies, "continued": i > 0} for i, dies in enumerate(kills)]
    chains = [[{"name": "undisturbed"}], killed, [{"name": "ranks", "ranks": 2}]]
    jobs = [[{**job, "dataset": TWIN} for job in chain] for chain in chains]
    done = run_chains(jobs, **SETTINGS, epochs=[2, 2, 2, 2], batch_size=2, **ENDS)
    done.fold = lambda name: next(done.output.parent.joinpath(name).glob("*/*/fold_0"))
    return done


def equal(a, b) -> bool:
    """Whether two structures are the same, bit by bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def test_a_training_goes_on_exactly_across_a_stop(runs):
    assert runs.codes[:2] == [[[0]], [[-signal.SIGKILL]] * 4 + [[0]]], runs.output.read_text()[-3000:]
    for name in ("phase0", "phase1", "phase2", "final"):
        contents = [read_safely(runs.fold(run) / f"checkpoint_{name}.pth") for run in ("undisturbed", "killed")]
        for part in ("network_weights", "optimizer_state", "prox", "current_epoch"):
            assert equal(*(content[part] for content in contents)), (name, part)
    assert contents[0]["prox"]["expansions"].keys() == {1, 2}
    assert contents[0]["current_epoch"] == 6


def test_all_ranks_stop_together(runs):
    assert runs.codes[2] == [[0, 0]], runs.output.read_text()[-3000:]
    content = read_safely(runs.fold("ranks") / "checkpoint_final.pth")
    assert content["current_epoch"] == 6
    assert content["prox"]["expansions"][1]["gain"]["cases"] == 2
    assert runs.record("ranks_0") == runs.record("ranks_1")
