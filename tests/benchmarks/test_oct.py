from __future__ import annotations

import json
import math
import shutil
from types import SimpleNamespace

import pytest
from monai.bundle import ConfigParser

pytest.importorskip("monai", reason='needs pip install "prox-monai[monai]"')

import device_lines
import oct as benchmark
import update_readme
from comparison.oct_summary import method_row, table

from prox_monai.data.synthetic_classes import write_synthetic_classes
from prox_monai.evaluation.subnets import read_rows

TINY = {
    "size": [16, 16],
    "architecture::channels": [8, 8, 8, 8, 8],
    "architecture::strides": [2, 1, 1, 1, 1],
    "architecture::stem": 8,
    "architecture::first": 8,
    "architecture::head": 16,
    "space::depth": [1, 2],
    "space::width": [3, 4],
    "space::kernel": [3, 5],
    "space::resolution": [0.5, 1.0],
    "iterations_per_epoch": 1,
    "batch_size": 4,
    "calibration::count": 4,
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*_target_:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> SimpleNamespace:
    """Two methods and two folds, and the arguments that go on with them."""
    folder = tmp_path_factory.mktemp("oct")
    data = write_synthetic_classes(folder / "data", patients=10, images_per_patient=1, size=(32, 36))
    (folder / "tiny.json").write_text(json.dumps(TINY))
    arguments = ["--data", str(data), "--config", str(folder / "tiny.json"), "--output", str(folder / "out")]
    arguments += ["--subnets", "3", "--epochs", "6"]
    methods = ["--methods", "plus", "progressive_shrinking", "--folds", "0", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "RESULTS", folder / "results")
        patch.setattr(update_readme, "write_readme", (folder / "written").touch)
        code = benchmark.main([*arguments, *methods])
    return SimpleNamespace(
        folder=folder, output=folder / "out" / "oct", arguments=arguments, methods=methods, code=code
    )


@pytest.fixture(autouse=True)
def own_results(finished, monkeypatch):
    monkeypatch.setattr(benchmark, "RESULTS", finished.folder / "results")
    monkeypatch.setattr(update_readme, "write_readme", lambda: None)


def results(finished) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(finished.output.glob("*/fold*/result.json"))]


def test_units_are_evaluated_on_all_unseen_images(finished):
    assert finished.code == 0
    units = results(finished)
    assert [(unit["method"], unit["fold"]) for unit in units] == [
        (method, fold) for method in ("plus", "progressive_shrinking") for fold in (0, 1)
    ]
    for method in ("plus", "progressive_shrinking"):
        cases = [image["case"] for unit in units if unit["method"] == method for image in unit["largest"]]
        assert len(cases) == len(set(cases)) == 16
    for unit in units:
        assert unit["train_seconds"] > 0
        assert set(unit["named"]) == {"smallest", "middle", "largest"}
        assert [row[0] for row in unit["subnets"]] == [row[0] for row in units[0]["subnets"]]
        assert len(unit["subnets"]) == 3


def test_predictions_are_those_of_the_table(finished):
    """The balanced accuracy of the largest, made anew from its predictions."""
    for unit in results(finished):
        shares = []
        for label in range(4):
            rows = [image["probabilities"] for image in unit["largest"] if image["label"] == label]
            shares.append(sum(row.index(max(row)) == label for row in rows) / len(rows))
        assert sum(shares) / 4 == pytest.approx(unit["named"]["largest"])


def test_summary_and_picture(finished):
    summary = json.loads((finished.folder / "results" / "oct.json").read_text())
    assert (finished.folder / "results" / "oct.png").read_bytes().startswith(b"\x89PNG")
    assert (summary["epochs"], summary["images"], len(summary["units"])) == (6, 16, 4)
    for method, row in summary["methods"].items():
        units = [unit for unit in results(finished) if unit["method"] == method]
        assert row["folds"] == [0, 1]
        assert row["train_seconds"] == pytest.approx(math.fsum(unit["train_seconds"] for unit in units) / 2)
        pooled = row["largest_pooled"]
        assert pooled["low"] <= pooled["balanced_accuracy"] <= pooled["high"]
        assert row["random"]["subnets"] == 3
    assert summary["methods"]["progressive_shrinking"]["train_seconds_ratio"] == 1
    assert set(summary["latency_buckets"]["mean_balanced_accuracy"]) == set(summary["methods"])


def test_readme_says_it(finished):
    assert (finished.folder / "written").exists()
    text = "\n".join(device_lines.oct_lines(finished.folder / "results"))
    assert "16 unseen images" in text
    assert "| `plus` | 2 |" in text
    assert "| `progressive_shrinking` | 2 |" in text


def test_synthetic_images_are_made_once(finished):
    arguments = ["--data", "synthetic", *finished.arguments[2:], "--methods", "plus", "--folds", "0"]
    assert benchmark.main(arguments) == benchmark.main(arguments) == 0
    result = json.loads((finished.folder / "results" / "oct_synthetic.json").read_text())
    assert [unit["fold"] for unit in result["units"]] == [0]
    assert "synthetic images of four classes" in "\n".join(device_lines.oct_lines(finished.folder / "results"))


def test_a_subnet_counts_once_however_many_folds(finished):
    units = results(finished)
    row = method_row("plus", units, {0})
    scores = [[score for *_, score in unit["subnets"]] for unit in units if unit["method"] == "plus"]
    means = [sum(pair) / 2 for pair in zip(*scores, strict=True)]
    assert row["random"]["mean"] == pytest.approx(sum(means) / 3)
    assert row["random_mean_of_shared_folds"] == pytest.approx(sum(scores[0]) / 3)
    assert (row["random"]["min"], row["random"]["max"]) == pytest.approx((min(means), max(means)))


def test_minutes_are_of_one_processor(finished):
    units = results(finished)
    for unit in units:
        if unit["method"] == "plus" and unit["fold"] == 1:
            unit["environment"] = {**unit["environment"], "device": "another"}
            unit["train_seconds"] = 1e6
    assert method_row("plus", units, {0})["train_seconds"] == units[0]["train_seconds"]
    elsewhere = [unit for unit in units if unit["method"] == "progressive_shrinking" or unit["fold"] == 1]
    row = method_row("plus", elsewhere, {0, 1})
    assert (row["train_seconds"], row["train_seconds_ratio"]) == (None, None)
    summary = json.loads((finished.folder / "results" / "oct.json").read_text())
    summary["methods"]["plus"] = row
    assert "plus" in table(summary)
    (finished.folder / "elsewhere").mkdir()
    (finished.folder / "elsewhere" / "oct.json").write_text(json.dumps(summary))
    assert "| `plus` | 1 |  |  |" in "\n".join(device_lines.oct_lines(finished.folder / "elsewhere"))


def test_the_table_is_printed_and_nothing_is_done_again(finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.output.rglob("*") if path.is_file()}
    assert benchmark.main([*finished.arguments, *finished.methods]) == 0
    assert {path: path.stat().st_mtime_ns for path in finished.output.rglob("*") if path.is_file()} == before
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["method", "folds", "minutes"]
    assert [line.split()[:2] for line in lines[1:]] == [["plus", "2"], ["progressive_shrinking", "2"]]


def test_an_evaluation_that_was_broken_off_goes_on(finished, monkeypatch):
    unit = finished.output / "plus" / "fold0"
    before, table = json.loads((unit / "result.json").read_text()), unit / "eval" / "subnets.jsonl"
    (unit / "result.json").unlink()
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:-2]))
    assert benchmark.main([*finished.arguments, *finished.methods]) == 0
    assert table.read_text().splitlines(keepends=True)[:-2] == lines[:-2]
    assert len(read_rows(table)) == len(lines)
    after = json.loads((unit / "result.json").read_text())
    assert after["train_seconds"] == before["train_seconds"]
    assert after["named"] == before["named"]


def test_published_results_give_way_to_none_without_their_units(finished, monkeypatch):
    def write_readme():
        raise AssertionError

    monkeypatch.setattr(update_readme, "write_readme", write_readme)
    monkeypatch.setattr(benchmark, "RESULTS", finished.folder / "more")
    published = finished.folder / "more" / "oct.json"
    published.parent.mkdir()
    of_another_fold = {"units": [{"method": "plus", "fold": 4}]}
    published.write_text(json.dumps(of_another_fold))
    assert benchmark.main([*finished.arguments, *finished.methods]) == 0
    assert json.loads(published.read_text()) == of_another_fold
    assert not (finished.folder / "more" / "units").exists()
    assert len(json.loads((finished.output / "oct.json").read_text())["units"]) == 4


def test_published_units_are_done_elsewhere(finished, monkeypatch, tmp_path):
    """On data in another folder, too."""
    published = finished.folder / "results" / "units" / "oct" / "plus" / "fold0"
    assert sorted(path.name for path in published.iterdir()) == ["result.json", "unit.json"]
    assert str(finished.folder) not in (published / "unit.json").read_text() + (published / "result.json").read_text()
    data = shutil.copytree(finished.folder / "data", tmp_path / "data")
    monkeypatch.setattr(benchmark.Unit, "train", None)
    elsewhere = ["--data", str(data), "--output", str(tmp_path / "out"), "--published"]
    assert benchmark.main([*finished.arguments, *finished.methods, *elsewhere]) == 0
    taken = tmp_path / "out" / "oct" / "plus" / "fold0" / "result.json"
    assert taken.read_text() == (published / "result.json").read_text()


def test_checks_of_the_bundle_and_checkpoints_may_change(finished):
    """They decide nothing of a training."""
    path = finished.output / "plus" / "fold0" / "unit.json"
    before = path.read_text()
    begun = json.loads(before)
    begun["initialize"] = ["another check"]
    begun["train"]["handlers"].append({"_target_": "monai.handlers.CheckpointSaver", "n_saved": 7})
    path.write_text(json.dumps(begun))
    try:
        assert benchmark.main([*finished.arguments, *finished.methods]) == 0
    finally:
        path.write_text(before)


def test_what_is_published_has_the_settings_of_now():
    """So that more can be added to it."""
    parser = ConfigParser()
    configs = benchmark.BUNDLE / "configs"
    parser.read_config([configs / "train.json", configs / "quick.json"])
    now = benchmark.settings_of(json.loads(json.dumps(parser.get())))
    published = sorted((benchmark.BENCHMARKS / "results" / "units" / "oct").rglob("unit.json"))
    assert published
    for path in published:
        begun = benchmark.settings_of(json.loads(path.read_text()))
        own = {"subnets", "images", "preset", "fold", "epochs", "device"}
        assert {name: begun.get(name) for name in now if name not in own} == {
            name: now[name] for name in now if name not in own
        }


def refused(finished, arguments: list[str], capsys) -> str:
    assert benchmark.main([*finished.arguments, *finished.methods, *arguments]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--data", "/missing"],
            "error: data must be a folder that holds the folders CNV, DME, DRUSEN, NORMAL, got /missing; give --data.",
        ),
        (["--folds", "5"], "fold must be 0 to 4, not 5"),
        (["--epochs", "7"], "was begun with other settings: epochs. What is there is kept; give another --output"),
        (["--subnets", "4"], "was begun with other settings: subnets."),
    ],
)
def test_bad_input(finished, capsys, arguments, message):
    assert message in refused(finished, arguments, capsys)


def test_unknown_methods(finished, capsys):
    with pytest.raises(SystemExit):
        benchmark.main([*finished.arguments, "--methods", "shrinking"])
    assert "invalid choice: 'shrinking'" in capsys.readouterr().err


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--help"])
    assert "python benchmarks/oct.py --data DIR --methods plus --folds 0 1" in capsys.readouterr().out
