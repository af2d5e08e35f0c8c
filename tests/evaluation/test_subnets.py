from __future__ import annotations

import json
import logging
import math

import pytest

from prox_monai.evaluation.cost import multiply_adds, parameters
from prox_monai.evaluation.memory import tensor_bytes
from prox_monai.evaluation.multiply_adds import MultiplyAdds
from prox_monai.evaluation.subnets import _summary, evaluate_subnets, read_rows, split_cases
from prox_monai.evaluation.table import SharedRows
from prox_monai.space import SubnetConfig

SHAPE = (1, 12, 8)
SCORES = {"a": {"1": 0.5, "2": 0.9}, "b": {"1": 0.7, "2": math.nan}}


class Scorer:
    """Scores each network alike, and counts how many."""

    def __init__(self) -> None:
        self.networks = []

    def __call__(self, network):
        self.networks.append(network)
        return {"dice": SCORES}


def subnet(width: float, kernel: int = 3, resolution: float = 1) -> SubnetConfig:
    return SubnetConfig.uniform(2, 1, width, kernel, resolution)


@pytest.fixture
def evaluate(classifier, tmp_path):
    """Evaluate into one table; returns the rows and how many networks were scored."""

    def run(*named, repeats=2, model="m", **options):
        scorer = Scorer()
        rows = evaluate_subnets(
            MultiplyAdds(classifier, SHAPE),
            named,
            scorer,
            tmp_path / "rows.jsonl",
            model=model,
            input_shape=SHAPE,
            repeats=repeats,
            **options,
        )
        return list(rows), len(scorer.networks)

    return run


def test_a_row_says_everything(evaluate, classifier):
    config = subnet(1, 5, 0.5)
    (row,), _ = evaluate(("quick", config))
    network = classifier.extract(config)
    assert row["name"] == "quick"
    assert SubnetConfig.from_dict(row["config"]) == config
    assert row["parameters"] == parameters(network)
    assert row["macs"] == multiply_adds(network, SHAPE)
    assert 0 < row["latency"]["q1_ms"] <= row["latency_ms"] <= row["latency"]["q3_ms"]
    assert set(row["latency"]) == {"q1_ms", "q3_ms", "device", "runtime", "threads", "torch"}
    assert row["memory_bytes"] == tensor_bytes(network, SHAPE)
    assert "peak_memory_bytes" not in row
    assert row["dice_per_label"] == {"1": pytest.approx(0.6), "2": 0.9}
    assert row["dice"] == pytest.approx(0.75)
    assert row["dice_per_case"] == {"a": pytest.approx(0.7), "b": 0.7}
    assert row["dice_interval"] == pytest.approx([0.75, 0.75])  # .7 without either: by the jackknife there is no spread


def test_the_interval_is_that_of_the_mean_beside_it():
    """A rare label that is found in none of its few cases lowers the mean, and the interval with it."""
    cases = {f"case{i}": {"1": 0.9 + 0.001 * i, "2": 0.1 + 0.1 * i if i < 3 else math.nan} for i in range(20)}
    row = _summary({"dice": cases})
    low, high = row["dice_interval"]
    assert row["dice"] == pytest.approx((0.9095 + 0.2) / 2)
    assert low < row["dice"] < high
    assert high < 0.8


def test_rows_in_the_file_are_the_rows_returned(evaluate, tmp_path):
    rows, _ = evaluate(("a", subnet(1)), ("b", subnet(1, 5)))
    assert read_rows(tmp_path / "rows.jsonl") == rows
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == rows


def test_what_is_there_is_not_done_again(evaluate, tmp_path):
    first, _ = evaluate(("a", subnet(1)))
    rows, scored = evaluate(("other name", subnet(1)), ("b", subnet(1, 5)))
    assert scored == 1
    assert rows[0] == first[0] | {"name": "other name"}
    assert [row["name"] for row in rows] == ["other name", "b"]
    assert [row["name"] for row in read_rows(tmp_path / "rows.jsonl")] == ["a", "b"]


def test_configurations_of_one_network_have_one_row(evaluate, tmp_path):
    rows, scored = evaluate(("a", subnet(0.6)), ("b", subnet(0.7)))
    assert scored == 1
    assert rows[1] == rows[0] | {"name": "b"}
    assert len(read_rows(tmp_path / "rows.jsonl")) == 1


def test_a_row_that_was_cut_off_is_evaluated_again(evaluate, tmp_path, caplog):
    path = tmp_path / "rows.jsonl"
    before, _ = evaluate(("a", subnet(1)), ("b", subnet(1, 5)))
    path.write_text(path.read_text()[:-40])
    with caplog.at_level(logging.WARNING):
        rows, scored = evaluate(("a", subnet(1)), ("b", subnet(1, 5)))
    assert f"{path}: the last row was cut off" in caplog.text
    assert scored == 1
    assert rows[0] == before[0]
    assert read_rows(path) == rows


def test_a_broken_row_elsewhere_is_an_error(evaluate, tmp_path):
    path = tmp_path / "rows.jsonl"
    evaluate(("a", subnet(1)))
    path.write_text("{oops\n" + path.read_text())
    with pytest.raises(ValueError, match=r"rows.jsonl, line 1 is not a row: '\{oops'"):
        read_rows(path)


def test_rows_come_one_by_one(classifier, tmp_path):
    """What was done before a run is broken off is on disk."""
    rows = evaluate_subnets(
        MultiplyAdds(classifier, SHAPE),
        [("a", subnet(1)), ("b", subnet(1, 5))],
        Scorer(),
        tmp_path / "rows.jsonl",
        model="m",
        input_shape=SHAPE,
        repeats=2,
    )
    first = next(rows)
    assert read_rows(tmp_path / "rows.jsonl") == [first]


def test_no_table_has_no_rows(tmp_path):
    assert read_rows(tmp_path / "none.jsonl") == []


def test_halves_share_no_case_and_do_not_depend_on_order():
    cases = [f"case_{i:02d}" for i in range(7)]
    tuning, reporting = split_cases(reversed(cases))
    assert (tuning, reporting) == split_cases(cases)
    assert sorted(tuning + reporting) == cases
    assert (len(tuning), len(reporting)) == (4, 3)


def test_rows_of_another_model_are_refused(evaluate):
    evaluate(("a", subnet(1)), model="one")
    with pytest.raises(ValueError, match=r"holds rows of another model \(one, not two\); give another file"):
        evaluate(("a", subnet(1)), model="two")


def test_latency_may_be_left_out_and_peak_memory_measured(evaluate):
    (row,), _ = evaluate(("a", subnet(1)), repeats=0, peak_memory=True, about={"site": "here"})
    assert (row["latency_ms"], row["latency"], row["site"]) == (None, None, "here")
    assert row["peak_memory_bytes"] >= 0


def test_several_measures_have_fields_of_their_own(classifier, tmp_path):
    def score(network):
        return {"dice": SCORES, "nsd": {"a": {"1": 1.0}, "b": {"1": 0.5}}}

    rows = evaluate_subnets(
        MultiplyAdds(classifier, SHAPE),
        [("a", subnet(1))],
        score,
        tmp_path / "rows.jsonl",
        model="m",
        input_shape=SHAPE,
        repeats=2,
    )
    (row,) = rows
    assert (row["nsd"], row["nsd_per_label"], row["nsd_per_case"]) == (0.75, {"1": 0.75}, {"a": 1.0, "b": 0.5})
    assert row["nsd_interval"][0] < 0.75 < row["nsd_interval"][1]


def test_a_subnet_that_another_process_evaluates_comes_last(classifier, evaluate, tmp_path, monkeypatch):
    """The other one's row is taken; one that it leaves undone is evaluated here."""
    keys = [classifier.architecture.canonical(subnet(1, kernel)).name for kernel in (3, 5)]
    theirs, waited = SharedRows(tmp_path / "rows.jsonl"), []
    claims = [theirs.claim(key) for key in keys]

    def others_go_on(seconds):
        waited.append(seconds)
        if len(waited) == 1:
            theirs.append({"key": keys[0], "model": "m", "name": "theirs"})
        for claim in claims:
            claim.__exit__(None, None, None)
        claims.clear()

    monkeypatch.setattr("prox_monai.evaluation.subnets.time.sleep", others_go_on)
    for claim in claims:
        assert claim.__enter__()
    rows, scored = evaluate(("a", subnet(1)), ("b", subnet(1, 5)), ("c", subnet(0.6)))
    assert [row["name"] for row in rows] == ["c", "a", "b"]
    assert (scored, len(waited)) == (2, 1)
    assert sorted(row["key"] for row in read_rows(tmp_path / "rows.jsonl")) == sorted(row["key"] for row in rows)


def test_another_kind_of_table_is_refused(tmp_path):
    path = tmp_path / "latency.jsonl"
    path.write_text('{"kind": "block", "key": "Conv2d"}\n')
    with pytest.raises(
        ValueError, match=r"latency.jsonl is no table of evaluated subnets: a row does not say of which"
    ):
        read_rows(path, "a model")
