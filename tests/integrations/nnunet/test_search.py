"""From a trained model to the subnets that are worth having: latency table, search, report."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from prox_monai.cli import main
from prox_monai.commands import search as commands
from prox_monai.commands.evaluate import EVALUATE
from prox_monai.evaluation.memory import tensor_bytes
from prox_monai.evaluation.subnets import read_rows
from prox_monai.evaluation.table import claim, read_lines
from prox_monai.integrations.nnunet import unseen
from prox_monai.integrations.nnunet.search import Wanted, search_trained
from prox_monai.search.predictor import SubnetLatency, read_table
from prox_monai.space import SearchSpace

pytest.importorskip("optuna")


@pytest.fixture(scope="module")
def preprocessed(folders, finished):
    return folders.preprocessed / folders.dataset


@pytest.fixture(scope="module")
def small_model(model):
    """The finished model with 16 of its subnets."""
    space = model.space
    restricted = space.restrict(depth=(1,), width=(0.5, 1.0), kernel=(3,), resolution=(0.7, 1.0))
    return replace(model, space=restricted)


@pytest.fixture(scope="module")
def table(small_model, tmp_path_factory):
    """A latency table, as the command measures it."""
    path = tmp_path_factory.mktemp("latency") / "table.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prox_monai.integrations.nnunet.trained.load_trained", lambda *arguments: small_model)
        patch.setattr("prox_monai.search.latency._SECONDS", 0.0)
        command = ["latency", "folder", "--output", str(path), "--fit", "6", "--validate", "4"]
        assert main(command, commands=commands.COMMANDS) == 0
    return path


@pytest.fixture
def cli(small_model, monkeypatch, capsys):
    monkeypatch.setattr("prox_monai.integrations.nnunet.trained.load_trained", lambda *arguments: small_model)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments], commands=(*commands.COMMANDS, EVALUATE))
        return code, *capsys.readouterr()

    return run


def test_a_latency_table_is_resumed_and_says_how_good_it_is(cli, table):
    before = table.read_text()
    code, text, _ = cli("latency", "folder", "--output", table, "--fit", 6, "--validate", 4)
    assert code == 0
    assert table.read_text() == before
    head, line = text.splitlines()
    assert head.split("  ")[0] == "measured with"
    assert line.startswith("torch ")
    assert {row["kind"] for row in read_lines(table)} == {"block", "network"}


def test_search_enumerates_a_small_space(cli, table, small_model, preprocessed, tmp_path):
    command = ("search", "folder", "--latency-table", table, "--output", tmp_path / "found", "--device", "cpu")
    code, text, error = cli(*command)
    assert code == 0, error
    found = json.loads((tmp_path / "found" / "front.json").read_text())
    assert found["cost"] == "latency_ms"
    assert found["scored"] == found["space_size"] == small_model.space.size()
    latency = SubnetLatency(read_table(table, None), small_model.supernet.architecture, small_model.input_shape)
    tuning = {row["key"]: row for row in read_rows(tmp_path / "found" / "tuning.jsonl")}
    reporting = {row["key"]: row for row in read_rows(tmp_path / "found" / "reporting.jsonl")}
    assert set(tuning[min(tuning)]["dice_per_case"]) == set(unseen.unseen_cases(preprocessed, 0, "tuning"))
    assert set(reporting[min(reporting)]["dice_per_case"]) == set(unseen.unseen_cases(preprocessed, 0, "reporting"))
    costs = small_model.multiply_adds()
    for subnet in found["subnets"]:
        config = costs.find(subnet["subnet"])
        key = small_model.supernet.architecture.canonical(config).name
        assert subnet["latency_ms"] == pytest.approx(latency(config))
        assert subnet["parameters"] == tuning[key]["parameters"]
        assert subnet["macs"] == tuning[key]["macs"] == costs(config)
        assert (subnet["dice_tuning"], subnet["dice_reporting"]) == (tuning[key]["dice"], reporting[key]["dice"])
        assert subnet["subnet"] in text
    assert (tmp_path / "found" / "pareto.png").stat().st_size > 5000

    before = {path: path.read_bytes() for path in (tmp_path / "found").glob("*.json*")}
    assert cli(*command)[:2] == (0, text)
    assert {path: path.read_bytes() for path in before} == before


def test_what_another_process_reports_on_stays_with_its_subnet(small_model, preprocessed, tmp_path):
    """It comes after the others, in whatever order these are."""
    table, begun = tmp_path / "found" / "reporting.jsonl", threading.Event()
    key = small_model.supernet.architecture.canonical(small_model.space.smallest()).name

    def report_on_the_smallest() -> None:
        with claim(table, key):
            begun.set()
            until = time.monotonic() + 60
            while not (table.exists() and read_rows(table)) and time.monotonic() < until:
                time.sleep(0.05)

    table.parent.mkdir()
    (table.parent / "tuning.jsonl").touch()
    with ThreadPoolExecutor() as pool:
        other = pool.submit(report_on_the_smallest)
        assert begun.wait(60)
        found = search_trained(small_model, Wanted(cost="parameters"), preprocessed, table.parent, device="cpu")
        other.result()
    assert len(found.front) > 1
    assert read_rows(table)[0]["key"] != key
    canonical = small_model.supernet.architecture.canonical
    assert [row["key"] for row in found.reporting] == [canonical(subnet.config).name for subnet in found.front]


@pytest.mark.parametrize(
    ("options", "cost", "compared"),
    [((), "macs", True), (("--cost", "memory_mb"), "memory_bytes", True), (("--latency-table",), "latency_ms", False)],
)
def test_the_picture_is_of_the_cost_that_was_weighed(cli, table, tmp_path, monkeypatch, options, cost, compared):
    """With the planned network, unless latencies are of another device."""
    drawn = {}
    monkeypatch.setattr(
        "prox_monai.integrations.nnunet.found.pareto_picture", lambda rows, path, **how: drawn.update(how)
    )
    if options == ("--latency-table",):
        elsewhere = tmp_path / "elsewhere.jsonl"
        elsewhere.write_text("".join(json.dumps(row | {"device": "a phone"}) + "\n" for row in read_lines(table)))
        options = (*options, elsewhere, "--force")
    code, _, error = cli("search", "folder", *options, "--output", tmp_path / "found", "--device", "cpu")
    assert code == 0, error
    assert (drawn["cost"], drawn["buckets"]) == (cost, 5)
    assert [other["name"] for other in drawn["others"]] == ["nnU-Net, as planned"] * compared
    assert all(other[cost] > 0 for other in drawn["others"])


def test_search_evolves_in_a_large_space(model, preprocessed, tmp_path):
    scored = []
    wanted = Wanted(cost="macs", at_most={"memory_mb": 0.5}, trials=6)
    found = search_trained(model, wanted, preprocessed, tmp_path, scored=lambda: scored.append(1))
    assert (tmp_path / "study.log").exists()
    assert 1 <= len(scored) == len(found.tuning) <= 6
    for subnet in found.front:
        assert subnet.costs["memory_mb"] == tensor_bytes(model.supernet.extract(subnet.config), model.input_shape) / 1e6
        assert subnet.costs["memory_mb"] <= 0.5
    scored.clear()
    again = search_trained(model, wanted, preprocessed, tmp_path, scored=lambda: scored.append(1))
    assert (again.front, scored) == (found.front, [])
    assert found.front[0].config == model.space.smallest()


def test_all_subnets_are_evaluated(cli, small_model, preprocessed, tmp_path):
    rows = tmp_path / "rows.jsonl"
    code, text, _ = cli("evaluate", "folder", "--all", "--no-latency", "--output", rows, "--device", "cpu")
    assert code == 0
    canonical = small_model.supernet.architecture.canonical
    assert {row["key"] for row in read_rows(rows)} == {canonical(config).name for config in small_model.space}
    assert len(text.splitlines()) == 1 + small_model.space.size()


def test_other_limits_reuse_the_scores(small_model, preprocessed, tmp_path):
    first = search_trained(small_model, Wanted(trials=100), preprocessed, tmp_path)
    limit = sorted(row["macs"] for row in first.tuning)[5]
    before = (tmp_path / "tuning.jsonl").read_text()
    second = search_trained(small_model, Wanted(at_most={"macs": limit}, trials=100), preprocessed, tmp_path)
    assert (tmp_path / "tuning.jsonl").read_text() == before
    assert second.front == [subnet for subnet in first.front if subnet.costs["macs"] <= limit]
    assert all(row["macs"] <= limit for row in second.tuning)
    fronts = [json.loads((tmp_path / name).read_text()) for name in ("front-1.json", "front.json")]
    assert [front["at_most"] for front in fronts] == [{}, {"macs": limit}]
    assert {front["model"] for front in fronts} == {small_model.digest}
    (tmp_path / "pareto.png").write_bytes(b"of the second")
    search_trained(small_model, Wanted(min_dice=1e-9, trials=100), preprocessed, tmp_path)
    assert (tmp_path / "pareto-2.png").read_bytes() == b"of the second"


def test_another_machine_goes_on_without_taking_times(small_model, preprocessed, tmp_path, caplog):
    """Its times would not compare with those that are there."""
    costs = sorted(map(small_model.multiply_adds(), small_model.space))
    search_trained(small_model, Wanted(at_most={"macs": costs[3]}, trials=100), preprocessed, tmp_path)
    reporting = tmp_path / "reporting.jsonl"
    rows = read_lines(reporting)
    elsewhere = [row | {"latency": row["latency"] | {"device": "another"}} for row in rows]
    reporting.write_text("".join(json.dumps(row) + "\n" for row in elsewhere))
    found = search_trained(small_model, Wanted(trials=100), preprocessed, tmp_path)
    assert "subnets are not timed here:" in caplog.text
    times = {row["key"]: row["latency_ms"] for row in found.reporting}
    assert len(times) > len(rows)
    assert all(times.get(row["key"], row["latency_ms"]) == row["latency_ms"] for row in rows)
    assert {value for key, value in times.items() if key not in {row["key"] for row in rows}} == {None}
    assert len(search_trained(small_model, Wanted(trials=100), preprocessed, tmp_path).reporting) == len(times)


@pytest.mark.parametrize("name", ["tuning.jsonl.claims", "study.log.lock"])
def test_a_search_that_has_no_row_yet_goes_on(small_model, preprocessed, tmp_path, name):
    """Another process scores the first subnet, or was killed while it did."""
    (tmp_path / "found" / name).mkdir(parents=True)
    found = search_trained(
        small_model, Wanted(trials=100, at_most={"parameters": 1e9}), preprocessed, tmp_path / "found"
    )
    assert found.front


def test_a_folder_of_something_else_is_left_alone(cli, tmp_path):
    (tmp_path / "pareto.png").write_bytes(b"a picture")
    code, _, error = cli("search", "folder", "--output", tmp_path)
    assert code == 2
    assert f"{tmp_path} holds something else than a search; choose another folder" in error
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"a picture"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-latency-ms", 1), "latency is limited or weighed, but there is no latency table"),
        (("--max-params", 10), "no subnet has parameters <= 10; the smallest has "),
        (("--max-macs", "1e3"), "no subnet has macs <= 1000; the smallest has "),
        (("--max-memory-mb", 1e-3), "no subnet has memory_mb <= 0.001; the smallest has "),
        (("--min-dice", 1.0), "subnets has dice >= 1; the best has "),
        (("--runtime", "torch", "--force"), "--runtime, --force only says which latency table: give --latency-table"),
        (("--latency-table", "none.jsonl"), "none.jsonl does not exist; prox-monai latency writes a latency table"),
    ],
)
def test_what_cannot_be_is_said(cli, tmp_path, preprocessed, options, message):
    code, _, error = cli("search", "folder", "--output", tmp_path, *options)
    assert code == 2
    assert message in error


def test_a_table_of_another_device_is_used_when_forced(cli, table, preprocessed, tmp_path):
    elsewhere = tmp_path / "pi.jsonl"
    rows = [json.dumps(row | {"device": "Raspberry Pi 5, cpu"}) for row in read_lines(table)]
    elsewhere.write_text("\n".join(rows) + "\n")
    command = ("search", "folder", "--latency-table", elsewhere, "--output", tmp_path / "found", "--device", "cpu")
    code, _, error = cli(*command)
    assert code == 2
    assert "pi.jsonl was measured with torch" in error
    assert "on Raspberry Pi 5, cpu, 1 thread, here is torch" in error
    assert "--force" in error
    code, text, _ = cli(*command, "--force")
    assert code == 0
    assert "on Raspberry Pi 5, cpu, 1 thread; mean error " in text


def test_numbers_must_be_numbers(cli, tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli("search", "folder", "--output", tmp_path, "--max-params", "many")
    assert "argument --max-params: must be a number > 0, got 'many'." in capsys.readouterr().err


@pytest.mark.parametrize("least", ["86", "nan", "-0.1", "much"])
def test_a_least_dice_is_a_fraction(cli, tmp_path, capsys, least):
    with pytest.raises(SystemExit):
        cli("search", "folder", "--output", tmp_path, f"--min-dice={least}")
    assert f"argument --min-dice: must be a number in [0, 1], got '{least}'." in capsys.readouterr().err


def test_the_space_is_that_of_the_trained_subnets(small_model):
    assert isinstance(small_model.space, SearchSpace)
    assert small_model.space.size() <= 40
