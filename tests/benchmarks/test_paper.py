"""The whole comparison on tiny synthetic data, through nnU-Net's own commands."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import ANY

import compression
import deploy
import paper
import pytest
import ranking
import update_readme
import yaml
from comparison import workplace
from comparison.methods import read_comparison
from comparison.units import Unit
from comparison.workplace import Workplace

import prox_monai
from prox_monai.data import write_synthetic_decathlon
from prox_monai.evaluation.subnets import read_rows
from prox_monai.integrations.nnunet.trained import load_trained
from prox_monai.integrations.nnunet.unseen import unseen_cases

TINY = """
common:
  depth: [1, 2]
  width: [0.0625]
  kernel: [3]
  resolution: [1.0]
  epochs: 3
  iterations_per_epoch: 1
  batch_size: 2
  mirror: false
  validation_iterations: 1
  validate: [largest]
  expansion: "off"
full: {}
subnets: 3
groups: {main: [plus], others: [nnunet, progressive_shrinking]}
methods:
  plus: {preset: plus}
  nnunet: {trainer: TimedTrainer, match_seconds: plus, epochs: 1}
  progressive_shrinking: {preset: progressive_shrinking}
ranking:
  method: plus
  subnets: 4
  seeds: [0, 1]
  steps: 0.3
  settings: {preset: standalone, epochs: 1}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> SimpleNamespace:
    """The main comparison, seed 0, and the arguments that go on with it."""
    folder = tmp_path_factory.mktemp("bench")
    data = write_synthetic_decathlon(folder / "Task09_Made", cases=10, size=(20, 28, 20))
    (folder / "paper.yaml").write_text(TINY)
    arguments = ["--data", str(data), "--settings", str(folder / "paper.yaml"), "--output", str(folder / "out")]
    arguments += ["--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        results_in(folder / "results", patch)
        patch.setenv("PYTHONPATH", str(Path(prox_monai.__file__).parents[1]))
        code = paper.main(arguments)
    return SimpleNamespace(folder=folder, output=folder / "out", arguments=arguments, code=code)


def results_in(folder: Path, patch: pytest.MonkeyPatch) -> None:
    for module in (compression, paper, ranking, update_readme):
        patch.setattr(module, "RESULTS", folder)
    patch.setattr(update_readme, "write_readme", lambda: None)


@pytest.fixture(autouse=True)
def own_results(finished, monkeypatch):
    results_in(finished.folder / "results", monkeypatch)


def unit(finished, name: str, seed: int = 0) -> Unit:
    return Unit(read_comparison(finished.folder / "paper.yaml").methods[name], seed, 1, finished.output)


def test_the_unit_is_done(finished):
    assert finished.code == 0
    result = unit(finished, "plus").result
    assert result["dice"]["subnets"] == 3
    assert set(result["named"]) == {"smallest", "middle", "largest"}
    assert len(result["curve"]["loss"]) == 3
    assert result["curve"]["stage"][-1] == "polish"
    assert result["train_seconds"] > result["train_seconds_without_polish"] > 0
    assert result["phases"][1]["loss_before"] > 0
    assert result["phases"][1]["loss_after"] > 0


def test_summary_and_pictures(finished):
    results = finished.folder / "results"
    summary = json.loads((results / "paper_synthetic.json").read_text())
    assert list(summary["methods"]) == ["plus"]
    assert summary["command"] == "python benchmarks/paper.py --data DIR --methods plus --seeds 0"
    assert summary["not_trained"] == ["nnunet", "progressive_shrinking"]
    for name in ("time", "dice", "latency", "loss"):
        assert (results / f"paper_synthetic_{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_subnet_for_a_device_is_chosen_and_none_scored_again(finished, monkeypatch):
    pytest.importorskip("nncf")
    monkeypatch.setenv("nnUNet_preprocessed", str(finished.output / "nnUNet_preprocessed"))
    place = Workplace(finished.arguments[1], finished.output, "cpu")
    model = load_trained(place.fold_folder(unit(finished, "plus")).parent, 1)
    monkeypatch.setattr(deploy, "SMALLER", 1.5)
    chosen, tuned = deploy.choose(model, 3, finished.folder / "search", 1)
    rows = (finished.folder / "search" / "tuning.jsonl").read_text()
    costs = model.multiply_adds()
    assert costs(chosen) * 1.5 <= costs(model.space.largest())
    assert tuned["candidates"] >= tuned["within"]
    assert tuned["limit_ms"] > 0
    timed = dict.fromkeys(("chosen", "within", "limit_ms"), ANY)
    assert deploy.choose(model, 3, finished.folder / "search", 1)[1] == tuned | timed
    assert (finished.folder / "search" / "tuning.jsonl").read_text() == rows


def test_a_subnet_is_compressed_in_several_ways(finished, monkeypatch, tmp_path, capsys):
    pytest.importorskip("nncf")
    monkeypatch.setenv("nnUNet_preprocessed", str(finished.output / "nnUNet_preprocessed"))
    ways = compression.ways(1, 0.1)
    assert ways["int8, trained with it"].finetune == 1
    monkeypatch.setattr(compression, "ways", lambda *_: {name: ways[name] for name in ("fp32", "int8, fine-tuned")})
    folder = Workplace(finished.arguments[1], finished.output, "cpu").fold_folder(unit(finished, "plus")).parent
    arguments = ["--model", str(folder), "--fold", "1", "--output", str(tmp_path / "out")]
    assert compression.main(arguments) == 0
    found = json.loads((finished.folder / "results" / "compression.json").read_text())
    assert found["ways"]["fp32"]["steps"] == []
    assert found["ways"]["int8, fine-tuned"]["steps"] == ["fine-tuned for 1 steps", "quantised after training"]
    assert all(row["latency_ms"] > 0 and 0 <= row["dice_reporting"] <= 1 for row in found["ways"].values())
    assert "| int8, fine-tuned |" in capsys.readouterr().out
    monkeypatch.setattr(compression, "deploy", None)
    assert compression.main(arguments) == 0


def test_again_nothing_is_done(finished, monkeypatch):
    for module, name in ((workplace, "run_stock"), (paper, "train_unit"), (paper, "evaluate_unit")):
        monkeypatch.setattr(module, name, None)
    before = {path: path.stat().st_mtime_ns for path in finished.output.rglob("*") if path.is_file()}
    assert paper.main(finished.arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in finished.output.rglob("*") if path.is_file()} == before


def test_an_evaluation_that_was_broken_off_goes_on(finished, monkeypatch):
    monkeypatch.setattr(workplace, "run_stock", None)
    ours = unit(finished, "plus")
    result, table = ours.result, ours.folder / "subnets.jsonl"
    (ours.folder / "result.json").unlink()
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:-1]) + lines[-1][:20])
    assert paper.main(finished.arguments) == 0
    assert table.read_text().splitlines(keepends=True)[:-1] == lines[:-1]
    assert ours.result["dice"] == result["dice"]
    assert len(read_rows(table)) == len(lines)


def refused(arguments: list[str], capsys) -> str:
    assert paper.main(arguments) == 2
    return capsys.readouterr().err


def test_other_settings_are_refused(finished, capsys, tmp_path):
    content = yaml.safe_load(TINY)
    content["common"] |= {"iterations_per_epoch": 2}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    before = unit(finished, "plus").result
    said = refused([*finished.arguments, "--settings", str(tmp_path / "other.yaml")], capsys)
    assert "plus/seed0/fold1 was begun with other settings: iterations_per_epoch (1 instead of 2)" in said
    assert unit(finished, "plus").result == before


def test_a_setting_that_came_later_is_no_other_setting(finished, monkeypatch, capsys):
    path = unit(finished, "plus").folder / "unit.json"
    before = path.read_text()
    begun = json.loads(before)
    del begun["ring_rate"], begun["patch"]
    monkeypatch.setattr(workplace, "run_stock", None)
    try:
        path.write_text(json.dumps(begun))
        assert paper.main(finished.arguments) == 0
        path.write_text(json.dumps(begun | {"patch": "growing"}))
        assert "other settings: patch (growing instead of full)" in refused(finished.arguments, capsys)
    finally:
        path.write_text(before)


def test_a_table_of_units_with_different_settings_is_not_made(finished, capsys, tmp_path, monkeypatch):
    """Another method alone, in a folder in which the rest was trained with other settings."""
    content = yaml.safe_load(TINY)
    content["common"] |= {"iterations_per_epoch": 2}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    result = {"train_seconds": 1.0, "dice": None, "named": {"largest": 0.5}}
    for name in ("train_unit", "evaluate_unit"):
        monkeypatch.setattr(paper, name, lambda *_: result)
    others = ["--settings", str(tmp_path / "other.yaml"), "--methods", "progressive_shrinking"]
    assert "plus/seed0/fold1 was begun with other settings" in refused([*finished.arguments, *others], capsys)


def test_published_results_give_way_to_none_without_their_units(finished, monkeypatch):
    results = finished.folder / "more"
    results_in(results, monkeypatch)
    results.mkdir()
    published = results / "paper_synthetic.json"
    of_another_seed = {"units": [{"method": "plus", "seed": 1, "fold": 1}]}
    published.write_text(json.dumps(of_another_seed))
    assert paper.main(finished.arguments) == 0
    assert json.loads(published.read_text()) == of_another_seed
    assert not (results / "units").exists()
    assert len(json.loads((finished.output / "paper_synthetic.json").read_text())["units"]) == 1
    published.write_text(json.dumps({"units": [{"method": "plus", "seed": 0, "fold": 1}]}))
    assert paper.main(finished.arguments) == 0
    assert "bars" in json.loads(published.read_text())
    assert (results / "units" / "paper_synthetic" / "plus" / "seed0" / "fold1" / "result.json").exists()


def test_published_units_are_done_elsewhere(finished, monkeypatch, tmp_path):
    published = finished.folder / "results" / "units" / "paper_synthetic" / "plus" / "seed0" / "fold1"
    assert sorted(path.name for path in published.iterdir()) == ["result.json", "settings.yaml", "unit.json"]
    elsewhere = tmp_path / "out"
    shutil.copytree(finished.output, elsewhere, ignore=shutil.ignore_patterns("plus"))
    monkeypatch.setattr(paper, "train_unit", None)
    arguments = [*finished.arguments, "--output", str(elsewhere)]
    assert paper.main([*arguments, "--published"]) == 0
    taken = elsewhere / "plus" / "seed0" / "fold1" / "result.json"
    assert json.loads(taken.read_text()) == unit(finished, "plus").result


def test_recipes_are_chosen_on_the_tuning_half_and_nothing_is_published(finished, monkeypatch, tmp_path, capsys):
    results_in(finished.folder / "none", monkeypatch)
    out = tmp_path / "out"
    evaluated = shutil.ignore_patterns("result.json", "unit.json", "subnets.jsonl")
    shutil.copytree(finished.output, out, ignore=evaluated)
    arguments = [*finished.arguments, "--output", str(out)]
    assert paper.main([*arguments, "--half", "tuning", "--folds", "1"]) == 0
    result = json.loads((out / "plus" / "seed0" / "fold1" / "result.json").read_text())
    place = Workplace(finished.arguments[1], out, "cpu")
    tuning, reporting = (unseen_cases(place.preprocessed, 1, half) for half in ("tuning", "reporting"))
    assert not set(tuning) & set(reporting)
    rows = read_rows(out / "plus" / "seed0" / "fold1" / "subnets.jsonl")
    assert all(set(row["dice_per_case"]) == set(tuning) for row in rows)
    assert result["cases"] == len(tuning)
    assert "--half tuning" in json.loads((out / "paper_synthetic.json").read_text())["command"]
    assert not (finished.folder / "none").exists()
    assert "half (tuning instead of reporting)" in refused(arguments, capsys)


def test_the_command_names_the_folds(finished):
    comparison = read_comparison(finished.folder / "paper.yaml")
    ours = unit(finished, "plus")
    units = [ours, replace(ours, fold=3), replace(ours, seed=1)]
    said = paper.command_of(units, comparison, full=False, half="reporting")
    assert said == "python benchmarks/paper.py --data DIR --methods plus --seeds 0 1 --folds 1 3"
    said = paper.command_of([replace(ours, fold=0)], comparison, full=True, half="tuning")
    assert said == "python benchmarks/paper.py --data DIR --methods plus --seeds 0 --half tuning --full"


def test_what_has_a_default_that_depends(finished, monkeypatch):
    begun = []
    monkeypatch.setattr(paper, "check_units", lambda units, *_: begun.extend(units))
    monkeypatch.setattr(paper, "checked_units", lambda *_: pytest.fail("not that far"))
    monkeypatch.setattr(paper, "Workplace", lambda data, output, *_: SimpleNamespace(output=output, half="tuning"))
    arguments = finished.arguments[:4]
    for more in ([], ["--half", "tuning"]):
        with pytest.raises(pytest.fail.Exception):
            paper.main([*arguments, *more])
    assert [(unit.fold, unit.root.name) for unit in begun] == [(1, "bench"), (0, "bench_tuning")]


def test_unknown_methods_are_refused(finished, capsys):
    said = refused([*finished.arguments, "--methods", "shrinking"], capsys)
    assert "there is no method 'shrinking'" in said
    assert "the methods are plus, nnunet, progressive_shrinking" in said


def test_seeds_and_folds_that_do_not_exist_are_refused(finished, capsys):
    assert "--seeds must be integers >= 0, got 0 -1" in refused([*finished.arguments, "--seeds", "0", "-1"], capsys)
    with pytest.raises(SystemExit):
        paper.main([*finished.arguments, "--folds", "5"])
    assert "invalid choice: 5" in capsys.readouterr().err


def test_other_data_are_refused(finished, capsys, tmp_path):
    data = write_synthetic_decathlon(tmp_path / "Task08_Other", cases=6, size=(12, 12, 12))
    said = refused([*finished.arguments, "--data", str(data), "--seeds", "1"], capsys)
    assert f"holds a bench on {finished.folder / 'Task09_Made'}, this one is on {data}" in said


def test_a_folder_with_other_things_is_refused(finished, capsys, tmp_path):
    (tmp_path / "thesis.tex").touch()
    said = refused([*finished.arguments, "--output", str(tmp_path)], capsys)
    assert "holds thesis.tex and no bench.json; give an --output of its own (make bench OUTPUT=...)" in said


def test_interrupted(finished, monkeypatch, capsys):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(paper, "train_unit", interrupt)
    assert paper.main([*finished.arguments, "--seeds", "1"]) == 130
    assert "stopped; the same command goes on from here" in capsys.readouterr().err


def test_seeds_are_outermost_and_references_first(finished, monkeypatch):
    begun = []
    monkeypatch.setattr(paper, "train_unit", lambda unit, *_: begun.append((unit.seed, unit.method.name)))
    monkeypatch.setattr(
        paper, "evaluate_unit", lambda *_: {"train_seconds": 1.0, "dice": None, "named": {"largest": 0.5}}
    )
    assert paper.main([*finished.arguments, "--seeds", "0", "1", "2", "--methods", "all"]) == 0
    names = ["plus", "nnunet", "progressive_shrinking"]
    expected = [(seed, name) for seed in range(3) for name in names]
    assert begun == [pair for pair in expected if unit(finished, pair[1], pair[0]).result is None]
    assert (0, "plus") not in begun


def test_ranking_compares_with_the_supernet_that_is_there(finished, monkeypatch, capsys):
    trained = []

    def evaluate(unit, place: Workplace, subnets: int) -> dict:
        rank = len({name for name, _ in trained[: trained.index((unit.method.name, unit.seed))]})
        return unit.finish({"dice": {"mean": 0.1 * rank + 0.01 * unit.seed}})

    def train(unit, place: Workplace, subnets: int) -> None:
        unit.begin(unit.settings(), subnets, place.device)
        trained.append((unit.method.name, unit.seed))

    monkeypatch.setattr(ranking, "train_unit", train)
    monkeypatch.setattr(ranking, "evaluate_unit", evaluate)
    assert ranking.main([*finished.arguments, "--jobs", "1"]) == 0
    result = json.loads((finished.folder / "results" / "ranking_synthetic.json").read_text())
    assert (finished.folder / "results" / "ranking_synthetic.png").read_bytes().startswith(b"\x89PNG")
    assert len(trained) == 8
    assert len({name for name, _ in trained}) == len(result["subnets"]) == 4
    macs = [subnet["macs"] for subnet in result["subnets"]]
    assert macs == sorted(macs)
    assert result["steps"] == 1
    assert -1 <= result["tau"]["low"] <= result["tau"]["mean"] <= result["tau"]["high"] <= 1
    assert all(len(subnet["extracted"]) == 1 and len(subnet["alone"]) == 2 for subnet in result["subnets"])
    monkeypatch.setattr(ranking, "train_unit", None)
    assert ranking.main(finished.arguments) == 0
    kept = finished.folder / "results" / "units" / "ranking_synthetic"
    assert len(list(kept.rglob("result.json"))) == 8 + 1  # and the supernet's
    shutil.rmtree(finished.output / "ranking")
    monkeypatch.setattr(ranking, "trained_supernets", lambda *_: [])  # on another machine
    assert ranking.main([*finished.arguments, "--published"]) == 0
    assert json.loads((finished.folder / "results" / "ranking_synthetic.json").read_text()) == result
    one = next((finished.output / "ranking").glob("d*/seed0/fold1/unit.json"))
    one.write_text(json.dumps(json.loads(one.read_text()) | {"batch_size": 9}))
    assert ranking.main(finished.arguments) == 2
    assert "begun with other settings: batch_size (9 instead of 2)" in capsys.readouterr().err


def test_ranking_without_a_supernet(finished, tmp_path, capsys):
    assert ranking.main([*finished.arguments, "--output", str(tmp_path / "empty")]) == 2
    assert "holds no finished plus with its model; run benchmarks/paper.py first" in capsys.readouterr().err
    assert not (tmp_path / "empty").exists()


@pytest.mark.slow
def test_stock_nnunet_at_equal_time(finished, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(prox_monai.__file__).parents[1]))
    assert paper.main([*finished.arguments, "--methods", "nnunet"]) == 0
    ours, stock = (unit(finished, name).result for name in ("plus", "nnunet"))
    assert stock["settings"]["seconds"] == ours["train_seconds"]
    assert set(stock["largest_dice_per_case"]) == set(ours["largest_dice_per_case"])
    assert list(stock["named"]) == ["largest"]
    assert stock["steps"] == 4
