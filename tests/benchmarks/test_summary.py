from __future__ import annotations

import json

import pytest
import training_lines
from comparison import pictures
from comparison.methods import Method
from comparison.pictures import draw, labelled_curve, ranking_picture
from comparison.summary import bucket_table, finished_units, summarise, write_json
from comparison.units import Unit

METHODS = [Method(name, {}) for name in ("paper", "plus", "progressive_shrinking", "nnunet")]


@pytest.fixture
def results(result):
    stock = {"dice": None, "subnets": [], "named": {"largest": 0.7}, "phases": [], "trainer": "TimedTrainer"}
    return [
        result("plus", 0.86, 20.0, 0),
        result("plus", 0.88, 40.0, 1),
        result("progressive_shrinking", 0.84, 200.0, 0),
        result("progressive_shrinking", 0.85, 100.0, 1),
        result("nnunet", seconds=210.0, **stock, multiply_adds_1e9=None),
    ]


def summary_of(results):
    return summarise(results, METHODS, command="make bench", dataset="Dataset004_Hippocampus")


def test_medians_and_ratios(results):
    summary = summary_of(results)
    ours = summary["methods"]["plus"]
    assert ours["seeds"] == [0, 1]
    assert ours["train_seconds"] == 30
    assert ours["train_seconds_ratio"] == pytest.approx((0.1 + 0.4) / 2)
    assert ours["train_seconds_without_polish"] == 22.5
    assert ours["mean"] == pytest.approx(0.87)
    assert ours["largest"] == pytest.approx(0.88)
    stock = summary["methods"]["nnunet"]
    assert (stock["mean"], stock["largest"], stock["multiply_adds_1e9_ratio"]) == (None, 0.7, None)
    assert summary["not_trained"] == ["paper"]
    machine = {"device": "a processor", "cores": 2, "torch": "2.9", "threads": 2, "commits": [None]}
    assert summary["machine"] == machine


def test_all_processors_are_named(result):
    elsewhere = {"device": "another processor", "cores": 2, "torch": "2.9"}
    summary = summary_of([result("plus"), result("plus", seed=1, environment=elsewhere), result("plus", seed=2)])
    assert summary["machine"]["device"] == "a processor and another processor"


def test_times_of_another_processor_do_not_count_but_dice_and_multiply_adds_do(results, result, tmp_path):
    elsewhere = {"environment": {"device": "another processor", "cores": 2, "torch": "2.9"}}
    more = [*results, result("plus", 0.99, 1.0, 2, **elsewhere), result("paper", 0.8, 50.0, **elsewhere)]
    methods = summary_of(more)["methods"]
    assert methods["plus"]["train_seconds"] == 30
    assert methods["plus"]["mean"] == pytest.approx(0.88)
    assert methods["paper"]["train_seconds"] is methods["paper"]["train_seconds_ratio"] is None
    assert methods["paper"]["multiply_adds_1e9_ratio"] == pytest.approx(50 / 200)
    assert training_lines.method_cells("paper", methods["paper"])[:5] == ("`paper`", "1", "", "", "0.25")
    pictures.time_picture(more, tmp_path / "time.png", title="")
    assert (tmp_path / "time.png").stat().st_size > 0


def test_minutes_are_of_one_processor_and_ratios_of_pairs_on_any(result):
    elsewhere = {"environment": {"device": "another processor", "cores": 2, "torch": "2.9"}}
    ours = [result("plus", 0.8, 30.0, 0), result("plus", 0.8, 30.0, 1), result("plus", 0.8, 5.0, 2, **elsewhere)]
    base = [result("progressive_shrinking", 0.7, 100.0, seed) for seed in (0, 1)]
    base += [result("progressive_shrinking", 0.7, 10.0, 2, **elsewhere)]
    alone = [result("standalone", 0.9, 8.0, 2, **elsewhere)]
    methods = summary_of([*ours, *base, *alone])["methods"]
    assert (methods["plus"]["train_seconds"], methods["progressive_shrinking"]["train_seconds"]) == (30, 100)
    assert methods["plus"]["train_seconds_ratio"] == pytest.approx(0.3)  # of .3, .3 and .5
    assert methods["standalone"]["train_seconds"] is None
    assert methods["standalone"]["train_seconds_ratio"] == pytest.approx(0.8)


def test_a_method_without_its_baseline_has_no_ratio(results):
    assert summary_of(results[:1])["methods"]["plus"]["train_seconds_ratio"] is None


def test_a_subnet_has_one_latency_whoever_measured_it(result):
    fast, slow = result("plus"), result("paper")
    fast["subnets"] = [["x", 1, 10.0, 0.8], ["y", 1, 90.0, 0.9]]
    slow["subnets"] = [["x", 1, 30.0, 0.6], ["y", 1, 20.0, 0.7]]
    table = bucket_table([fast, slow])
    assert table["milliseconds"] == [[20, 20], [55, 55]]
    assert table["mean_dice"] == {"plus": [0.8, 0.9], "paper": [0.6, 0.7]}


def test_no_buckets_without_subnets(results):
    assert bucket_table(results[-1:]) == {}


def test_json_has_lists_on_one_line(tmp_path):
    content = {"a": [1, 2.5, None], "b": [{"c": ["x", "y"]}, {"c": []}], "d": [[1, 2], [3, 4]]}
    write_json(content, tmp_path / "x" / "made.json")
    text = (tmp_path / "x" / "made.json").read_text()
    assert json.loads(text) == content
    assert '"a": [1, 2.5, null]' in text
    assert '"c": ["x", "y"]' in text


def test_the_units_that_are_done_are_found(tmp_path, result):
    for name, seed in (("plus", 10), ("plus", 2), ("paper", 0)):
        unit = Unit(Method(name, {}), seed, 0, tmp_path)
        unit.folder.mkdir(parents=True)
        unit.finish(result(name, seed=seed))
    Unit(Method("nnunet", {}), 0, 0, tmp_path).folder.mkdir(parents=True)
    found = [(unit.method.name, unit.seed) for unit in finished_units(tmp_path, METHODS)]
    assert found == [("paper", 0), ("plus", 2), ("plus", 10)]


def test_pictures(results, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(pictures, "bucket_picture", lambda scores, path, **options: drawn.update(scores))
    draw(results, tmp_path, "made", title="made up", main=["plus", "paper"])
    names = [f"made_{name}.png" for name in ("dice", "loss", "loss_minutes", "time")]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert all(path.stat().st_size > 5000 for path in tmp_path.iterdir())
    assert list(drawn) == ["plus"], "those of the main comparison that are done"


def test_pictures_of_all_methods_if_none_is_of_the_main_comparison(results, tmp_path):
    draw(results[2:], tmp_path, "made", title="made up", main=["plus"])
    assert len(list(tmp_path.glob("made_*.png"))) == 5


def test_minutes_of_two_processors_share_no_axis(results, result, tmp_path):
    draw([results[0], result("paper", environment={"device": "another"})], tmp_path, "made", title="made up")
    assert not (tmp_path / "made_loss_minutes.png").exists()
    assert (tmp_path / "made_loss.png").exists()


def test_times_are_divided_by_those_of_a_twin(result, tmp_path, monkeypatch):
    bars = []
    monkeypatch.setattr(pictures.Figure, "savefig", lambda figure, path, **options: bars.extend(figure.axes[0].patches))
    runs = [result("progressive_shrinking", 0.7, 100.0), result("plus", 0.8, 30.0), result("plus", 0.8, 1.0, seed=7)]
    pictures.time_picture(runs, tmp_path / "time.png", title="")
    assert [bar.get_width() + bar.get_x() for bar in bars[1::2]] == pytest.approx([1, 0.3])


def test_expansions_are_labelled(result):
    assert labelled_curve(result("plus"))["stage"] == ["depth", "depth", "width x1.02", "kernel x1.04"]


def test_ranking_picture(tmp_path):
    part = {"mean": 0.5, "low": 0.4, "high": 0.6}
    subnets = [{"name": f"n{i}", "macs": 10**i, "extracted": [0.8, 0.81], "alone": [0.79, 0.8]} for i in range(1, 5)]
    ranking_picture({"steps": 10, "tau": part, "ceiling": part, "subnets": subnets}, tmp_path / "r.png")
    assert (tmp_path / "r.png").stat().st_size > 5000


def test_without_results_nothing_is_said(tmp_path):
    for lines in (training_lines.paper_lines, training_lines.ranking_lines, training_lines.comparison_headline):
        assert lines(tmp_path) == []


def test_the_table(tmp_path, results):
    write_json(summary_of(results), tmp_path / "paper_hippocampus.json")
    text = "\n".join(training_lines.paper_lines(tmp_path))
    assert "| `plus` | 2 | 0.5 min | 0.25 | 0.25 | 0.870 (0.850 to 0.890) | 0.860 | 0.880 |" in text
    assert "| `nnunet` | 1 | 3.5 min | 1.05 |  |  |  | 0.700 |" in text
    assert "Not trained yet: `paper`." in text
    headline = "\n".join(training_lines.comparison_headline(tmp_path))
    assert "| `plus` | 2 | 0.5 min |" in headline
    assert "| `nnunet` |" not in headline
    assert "| mean Dice of the random subnets, plus | >= 0.86 | 0.870 | yes |" in text
    assert "| Kendall's tau to stand-alone training ÷ its ceiling | >= 0.8 |  | not measured |" in text
    assert "a processor, threads: 2, torch 2.9" in text
    write_json(summary_of(results[:1]), tmp_path / "paper_hippocampus_full.json")
    assert "| `plus` | 1 |" in "\n".join(training_lines.paper_lines(tmp_path, "_full"))


def test_folds_add_up(tmp_path, result):
    two = [result("plus", fold=0, cases=20), result("plus", fold=2, cases=26), result("plus", seed=1, cases=20)]
    write_json(summary_of(two), tmp_path / "paper_hippocampus.json")
    text = "\n".join(training_lines.paper_lines(tmp_path))
    assert "46 unseen cases of fold 0, 2;" in text
    assert "| `plus` | 3 |" in text


def test_the_lines_on_a_stop(tmp_path, results, result):
    gain = {"mean": -0.002, "upper": 0.001, "decision": "ends"}
    fields = {"depth": [1, 2, 3], "width": [0.5]}
    stopped = [{"phase": 0, "stage": "depth"}, {"phase": 1, "stage": "depth", "gain": gain}]
    pair = [
        result("plus_wider", 0.85, 600.0, settings=fields),
        result("plus_wider_stop", 0.84, 300.0, settings=fields, phases=stopped),
    ]
    assert training_lines.stop_lines(results) == []
    assert training_lines.stop_lines(pair[:1]) == []
    said = "\n".join(training_lines.stop_lines(pair))
    assert "depth -0.0020 (90 % upper bound +0.0010), the dimension ends" in said
    assert "2 phases instead of 3, 5.0 minutes instead of 10.0" in said
    assert "Dice of the largest 0.850 instead of 0.860, mean of the random subnets 0.840 instead of 0.850" in said


def test_the_lines_on_ranking(tmp_path):
    part = {"mean": 0.5, "low": 0.4, "high": 0.6}
    gap = {"mean": -0.01, "low": -0.02, "high": 0.0}
    made = {"steps": 400, "seeds": [0, 1], "subnets": [{}] * 20, "tau": part, "ceiling": part, "gap": gap}
    made["command"] = "python benchmarks/ranking.py --data DIR --full"
    write_json(made, tmp_path / "ranking_hippocampus.json")
    text = "\n".join(training_lines.ranking_lines(tmp_path))
    assert text.strip().startswith(
        "`python benchmarks/ranking.py --data DIR --full`: 20 subnets, each also trained alone "
    )
    assert "with 400 steps and 2 seeds" in text
    assert "subnets 0.50 (0.40 to 0.60)" in text
    assert "Extracted - stand-alone: -1.00 (-2.00 to 0.00) points of Dice" in text
