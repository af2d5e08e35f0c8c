from __future__ import annotations

import json
import os
import random
import threading
from types import SimpleNamespace

import pytest
import yaml
from comparison import units as units_module
from comparison import workplace as workplace_module
from comparison.methods import Method
from comparison.results import distribution, stock_result
from comparison.units import Unit, check_units, random_subnets, tidy, train_unit
from comparison.workplace import Workplace

from prox_monai.space import SearchSpace

SETTINGS = {"epochs": 6, "iterations_per_epoch": 10}
PLUS, BASE = Method("plus", SETTINGS), Method("base", SETTINGS)
LONGER = Method("longer", SETTINGS, of="plus", match_seconds="base")
STOCK = Method("stock", {"epochs": 3}, "TimedTrainer", match_seconds="base")


@pytest.fixture
def unit(tmp_path):
    return lambda method, seed=0: Unit(method, seed, 0, tmp_path)


@pytest.fixture
def done(unit, result):
    def finish(method: Method, seconds: float, seed: int = 0) -> Unit:
        made = unit(method, seed)
        made.begin(made.settings(), 5, "cpu")
        made.finish(result(method.name, seconds=seconds, seed=seed))
        return made

    return finish


def test_a_unit_is_begun_once(unit):
    begun = unit(PLUS, 2)
    begun.begin(begun.settings(), 5, "cpu")
    assert begun.folder.parts[-3:] == ("plus", "seed2", "fold0")
    assert yaml.safe_load(begun.settings_file.read_text()) == {**SETTINGS, "seed": 2}
    begun.settings_file.write_text("kept: true")
    begun.begin(begun.settings(), 5, "cpu")
    assert begun.settings_file.read_text() == "kept: true"


def test_other_settings_are_refused_and_results_kept(done, unit):
    before = done(PLUS, 10.0).result
    other = unit(Method("plus", {**SETTINGS, "epochs": 7, "freeze": "depth"}))
    with pytest.raises(
        ValueError,
        match=r"was begun with other settings: subnets \(5 instead of 6\), freeze \(none instead of depth\), "
        r"epochs \(6 instead of 7\). What is there is kept; give another --output, or remove",
    ):
        other.begin(other.settings(), 6, "cpu")
    assert unit(PLUS).result == before


def test_other_settings_are_refused_before_anything_runs(done, unit):
    done(PLUS, 10.0)
    with pytest.raises(ValueError, match=r"epochs \(6 instead of 9\)"):
        check_units([unit(BASE), unit(Method("plus", {**SETTINGS, "epochs": 9}))], 5, "cpu")
    assert not unit(BASE).folder.exists()


def test_equal_time_is_refused_on_another_processor(done, unit, result, monkeypatch):
    base = done(BASE, 100.0)
    monkeypatch.setattr(units_module, "device_name", lambda device: "a processor")
    check_units([unit(STOCK)], 5, "cpu")
    monkeypatch.setattr(units_module, "device_name", lambda device: "another processor")
    said = "the time of base, seed 0, fold 0 was measured on a processor, this is another processor: no other method"
    with pytest.raises(RuntimeError, match=said):
        check_units([unit(STOCK)], 5, "cpu")
    finished = unit(STOCK)
    finished.begin(finished.settings(), 5, "cpu")
    finished.finish(result("stock"))
    check_units([base, finished], 5, "cpu")


def test_another_device_or_another_default_is_refused(done, unit, monkeypatch):
    before = done(PLUS, 10.0).result
    with pytest.raises(ValueError, match=r"device \(cpu instead of cuda\)"):
        unit(PLUS).begin(unit(PLUS).settings(), 5, "cuda")
    path = unit(PLUS).folder / "unit.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "learning_rate": 0.5}))
    with pytest.raises(ValueError, match=r"learning_rate \(0.5 instead of 0.003\)"):
        unit(PLUS).begin(unit(PLUS).settings(), 5, "cpu")
    assert unit(PLUS).result == before


def test_equal_time_is_that_of_the_same_seed(done, unit):
    for seed, seconds in enumerate((10.0, 20.0)):
        done(PLUS, seconds, seed)
        done(BASE, 80.0, seed)
    assert [unit(LONGER, seed).settings()["iterations_per_epoch"] for seed in (0, 1)] == [80, 40]
    assert unit(STOCK, 1).settings()["seconds"] == 80


def test_a_time_that_is_not_there_is_named(done, unit, monkeypatch):
    monkeypatch.setattr(units_module, "device_name", lambda device: "a processor")
    done(PLUS, 10.0)
    with pytest.raises(RuntimeError, match=r"longer needs the training time of base, seed 0, fold 0, .*; add base to"):
        check_units([unit(LONGER)], 5, "cpu")
    check_units([unit(BASE), unit(LONGER)], 5, "cpu")
    with pytest.raises(RuntimeError, match="needs the training time of base"):
        check_units([unit(LONGER), unit(BASE)], 5, "cpu")


def test_random_subnets_are_distinct_and_always_the_same():
    space = SearchSpace(4, depth=(1, 2), width=(0.5, 1.0), kernel=(3,))
    chosen = random_subnets(space, 40)
    random.seed(1)
    assert len(set(chosen)) == 40
    assert random_subnets(space, 40) == chosen
    assert random_subnets(space, 20) == chosen[:20]
    assert random_subnets(space, 300) == list(space)


def test_only_the_final_checkpoint_is_kept(tmp_path):
    for name in ("final", "best", "phase0", "largest"):
        (tmp_path / f"checkpoint_{name}.pth").touch()
    (tmp_path / "phases.json").touch()
    tidy(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint_final.pth", "phases.json"}


def test_distribution():
    found = distribution([float(i) for i in range(100, -1, -1)])
    assert found == {
        "subnets": 101,
        "mean": 50.0,
        "min": 0.0,
        "max": 100.0,
        "quantiles": {"5": 5.0, "25": 25.0, "50": 50.0, "75": 75.0, "95": 95.0},
    }
    assert set(distribution([0.5])["quantiles"].values()) == {0.5}


def test_stock_results_are_those_of_the_cases_that_count(tmp_path, monkeypatch):
    import comparison.results

    log = {"train_seconds": [1.0, 2.5], "steps": [4, 10], "train_losses": [0.5, 0.25]}
    monkeypatch.setattr(comparison.results, "read_stock", lambda path: {"logging": log})
    dice = {"a": (0.8, 0.6), "b": (0.9, float("nan")), "c": (0.0, 0.0)}
    cases = [
        {"reference_file": f"/truth/{name}.nii.gz", "metrics": {str(i): {"Dice": d} for i, d in enumerate(pair, 1)}}
        for name, pair in dice.items()
    ]
    (tmp_path / "validation").mkdir()
    (tmp_path / "validation" / "summary.json").write_text(json.dumps({"metric_per_case": cases}))
    found = stock_result(tmp_path, ["a", "b"])
    assert found["named"]["largest"] == pytest.approx((0.85 + 0.6) / 2)
    assert found["largest_dice_per_case"] == pytest.approx({"a": 0.7, "b": 0.9})
    assert (found["train_seconds"], found["steps"]) == (2.5, 14)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A workplace whose data are not there, and the commands that it would run."""
    place = object.__new__(Workplace)
    place.output, place.device, place.half, place.dataset = tmp_path, "cpu", "reporting", "Dataset009_Made"
    place.stopped = threading.Event()
    called = []
    monkeypatch.setattr(workplace_module, "run_stock", lambda *arguments: called.append(arguments))
    return SimpleNamespace(it=place, called=called)


@pytest.mark.parametrize(
    ("there", "option"),
    [
        ([], []),
        (["checkpoint_latest.pth"], ["--c"]),
        (["checkpoint_final.pth"], ["--val"]),
    ],
)
def test_a_training_goes_on_where_it_was_broken_off(place, unit, there, option):
    begun = unit(PLUS)
    folder = place.it.fold_folder(begun)
    folder.mkdir(parents=True)
    for name in there:
        (folder / name).touch()
    train_unit(begun, place.it, 5)
    ((command, arguments, log, variables, _),) = place.called
    assert command == "nnUNetv2_train"
    assert list(arguments) == ["9", "3d_fullres", "0", "-tr", "ProXTrainer", "-device", "cpu", *option]
    assert folder.is_relative_to(variables["nnUNet_results"])
    assert log.parent == begun.folder
    assert variables["PROX_CONFIG"] == str(begun.settings_file)
    assert variables["nnUNet_n_proc_DA"] == "0"
    assert "PROX_STOCK" not in variables


def test_a_training_that_is_done_is_not_run(place, unit):
    folder = place.it.fold_folder(unit(PLUS))
    (folder / "validation").mkdir(parents=True)
    (folder / "validation" / "summary.json").touch()
    (folder / "checkpoint_final.pth").touch()
    train_unit(unit(PLUS), place.it, 5)
    assert place.called == []


def test_a_stock_trainer_is_found_beside_ours(place, unit, done):
    done(BASE, 12.5)
    train_unit(unit(STOCK), place.it, 5)
    ((_, arguments, _, variables, _),) = place.called
    assert arguments[4] == "TimedTrainer"
    assert yaml.safe_load(unit(STOCK).settings_file.read_text()) == {"epochs": 3, "seed": 0, "seconds": 12.5}
    assert variables["PROX_STOCK"] == str(unit(STOCK).settings_file)
    ours, theirs = variables["nnUNet_extTrainer"].split(os.pathsep)
    assert os.path.exists(os.path.join(ours, "prox_trainer.py"))
    assert os.path.exists(os.path.join(theirs, "timed_trainer.py"))


def test_a_training_ends_where_another_thread_has_ended(unit, place):
    begun, shown = unit(PLUS), []
    begun.begin(begun.settings(), 5, "cpu")
    place.it.train(begun, shown.append)
    (*_, show) = place.called[0]
    show("epoch 1")
    place.it.stopped.set()
    with pytest.raises(KeyboardInterrupt):
        show("epoch 2")
    assert shown == ["epoch 1"]
