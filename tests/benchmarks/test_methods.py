from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from comparison.methods import Comparison, check_settings, read_comparison, total_epochs

SHIPPED = Path(__file__).parents[2] / "benchmarks" / "paper.yaml"
CONTENT = {
    "common": {"epochs": 6, "iterations_per_epoch": 10},
    "full": {"epochs": 60},
    "subnets": 5,
    "groups": {"main": ["ours", "theirs"], "others": ["ours_longer", "stock"]},
    "methods": {
        "ours": {"preset": "plus", "iterations_per_epoch": 20},
        "theirs": {"preset": "progressive_shrinking"},
        "ours_longer": {"of": "ours", "match_seconds": "theirs"},
        "stock": {"trainer": "TimedTrainer", "match_seconds": "theirs", "epochs": 3},
    },
    "ranking": {},
}


@pytest.fixture
def read(tmp_path):
    def from_content(full: bool = False, **methods) -> Comparison:
        path = tmp_path / "paper.yaml"
        path.write_text(yaml.safe_dump({**CONTENT, "methods": CONTENT["methods"] | methods}, sort_keys=False))
        return read_comparison(path, full=full)

    return from_content


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("common: [", r"paper.yaml is not valid YAML"),
        ("", "must hold common, full, methods, groups, subnets, ranking; it lacks common, full"),
        ("common: {}\nmethods: {}\nsubnets: 3\nfull: {}", "it lacks groups, ranking"),
    ],
)
def test_a_broken_file_is_named(tmp_path, text, message):
    (tmp_path / "paper.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_comparison(tmp_path / "paper.yaml")


def no_time(method: str) -> float:
    raise AssertionError(f"the time of {method} is not needed")


def test_a_method_has_the_common_settings_and_its_own(read):
    assert read().methods["ours"].settings_of(3, no_time) == {
        "epochs": 6,
        "iterations_per_epoch": 20,
        "preset": "plus",
        "seed": 3,
    }


def test_full_lies_over_common(read):
    assert read(full=True).methods["theirs"].settings == {
        "epochs": 60,
        "iterations_per_epoch": 10,
        "preset": "progressive_shrinking",
    }


def test_threads_are_those_of_all_trainings(tmp_path):
    path = tmp_path / "paper.yaml"
    path.write_text(yaml.safe_dump(CONTENT, sort_keys=False))
    methods = read_comparison(path, threads=1).methods
    assert {name: method.settings["threads"] for name, method in methods.items()} == dict.fromkeys(methods, 1)


def test_a_share_of_the_steps_is_one_of_the_other_methods_size(read):
    half = {"of": "theirs", "steps": 0.5}
    assert read(half=half).methods["half"].settings == {**read().methods["theirs"].settings, "iterations_per_epoch": 5}
    assert read(half={**half, "steps": 0.01}).methods["half"].settings["iterations_per_epoch"] == 1


def test_equal_time_scales_the_iterations_by_what_was_measured(read):
    method = read().methods["ours_longer"]
    settings = method.settings_of(0, {"theirs": 300.0, "ours": 40.0}.__getitem__)
    assert settings["iterations_per_epoch"] == 150
    assert {**settings, "iterations_per_epoch": 20} == read().methods["ours"].settings_of(0, no_time)
    assert method.needs == ("theirs", "ours")
    assert method.settings_of(0, {"theirs": 1.0, "ours": 400.0}.__getitem__)["iterations_per_epoch"] == 1


def test_equal_time_scales_the_epochs_of_a_single_phase(read):
    """Seven epochs of ten steps in .77 of the time: 5 epochs of 11 rather than 7 of 8."""
    method = read(
        alone={"preset": "standalone", "epochs": 7}, alone_as_long={"of": "alone", "match_seconds": "theirs"}
    ).methods["alone_as_long"]
    settings = method.settings_of(0, {"theirs": 77.0, "alone": 100.0}.__getitem__)
    assert (settings["epochs"], settings["iterations_per_epoch"]) == (5, 11)


def test_epochs_may_be_given_phase_by_phase(read):
    method = read(ours={"preset": "plus", "epochs": [2, 1, 1, 1, 1, 1]}).methods["ours_longer"]
    assert total_epochs(method.settings) == 7
    settings = method.settings_of(0, {"theirs": 300.0, "ours": 40.0}.__getitem__)
    assert (settings["epochs"], settings["iterations_per_epoch"]) == ([2, 1, 1, 1, 1, 1], 75)


def test_no_method_takes_over_what_a_stock_trainer_has(read):
    with pytest.raises(ValueError, match="method odd: of must be a method with settings of ProXTrainer, got 'stock'"):
        read(odd={"of": "stock"})


def test_a_stock_trainer_gets_the_seconds_themselves(read):
    method = read().methods["stock"]
    assert method.settings_of(1, {"theirs": 300.0}.__getitem__) == {"epochs": 3, "seconds": 300.0, "seed": 1}
    assert method.needs == ("theirs",)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["main"], ["ours", "theirs"]),
        (["stock", "ours"], ["ours", "stock"]),
        (["main", "theirs"], ["ours", "theirs"]),
        (["all"], ["ours", "theirs", "ours_longer", "stock"]),
    ],
)
def test_choose(read, names, chosen):
    assert [method.name for method in read().choose(names)] == chosen


def test_an_unknown_method_names_the_known_ones(read):
    with pytest.raises(
        ValueError,
        match=r"no method 'their' \(did you mean 'theirs'\?\); the methods are ours, theirs, ours_longer, stock; the "
        r"groups main, others, all",
    ):
        read().choose(["main", "their"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"of": "nobody"}, "method new: of must be a method that stands before it, got 'nobody'"),
        ({"match_seconds": "later"}, "method new: match_seconds must be a method that stands before it, got 'later'"),
        ({"match_seconds": "theirs"}, "method new: match_seconds needs of, the method whose time per step is known"),
        ({"trainer": "nnUNetTrainer"}, "method new: trainer must be one of TimedTrainer, TimedAdamWTrainer, got 'nnU"),
        ({"trainer": "TimedTrainer"}, "method new: a stock trainer needs match_seconds"),
        ({"epoch": 3}, r"method new: unknown field 'epoch' \(did you mean 'epochs'\?\)"),
        ({"preset": "plsu"}, "method new: preset must be .*plsu"),
        ({"learning_rate": -1}, "method new: learning_rate must be a number > 0, got -1"),
    ],
)
def test_methods_that_cannot_be_are_refused(read, fields, message):
    with pytest.raises(ValueError, match=message):
        read(new=fields, later={"preset": "paper"})


def test_a_group_of_unknown_methods_is_refused(tmp_path):
    path = tmp_path / "paper.yaml"
    path.write_text(yaml.safe_dump({**CONTENT, "groups": {"main": ["plus"]}}))
    with pytest.raises(ValueError, match="group main: there is no method 'plus'; there are ours, stock, theirs|ours"):
        read_comparison(path)


@pytest.mark.parametrize("full", [False, True])
def test_the_shipped_file(full):
    comparison = read_comparison(SHIPPED, full=full)
    assert set(comparison.methods) == {name for names in comparison.groups.values() for name in names}
    assert comparison.groups["main"] == ("paper", "plus", "progressive_shrinking")
    shorter = {"plus_half", "plus_two_fifths", "plus_quarter"}
    budgets = {
        (method.settings["epochs"], method.settings["iterations_per_epoch"])
        for method in comparison.methods.values()
        if not method.stock and method.match_seconds is None and method.name not in shorter
    }
    assert len(budgets) == 1, "equal steps for all"
    for method in comparison.methods.values():
        assert method.match_seconds in (None, *comparison.groups["main"])
    assert comparison.ranking["method"] in comparison.methods
    assert comparison.ranking["subnets"] >= 20
    assert comparison.subnets >= 200
    check_settings("ranking", {**comparison.common, **comparison.ranking["settings"], "subnet": "smallest"})
