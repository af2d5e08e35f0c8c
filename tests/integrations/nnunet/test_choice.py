"""The subnet that a budget buys."""

from __future__ import annotations

import json

import pytest

from prox_monai.evaluation.cost import device_name
from prox_monai.integrations.nnunet.choice import Choice, Chosen, best_within, choose
from prox_monai.space import SubnetConfig


def row(key: str, dice: float | None, latency: float | None) -> dict:
    return {
        "key": key,
        "config": SubnetConfig.uniform(1, 1, 0.5, 3).to_dict(),
        "dice": dice,
        "latency_ms": latency,
        "latency": {"device": "a processor", "threads": 1, "runtime": "openvino"},
    }


ROWS = [row("slow", 0.9, 100.0), row("good", 0.8, 20.0), row("equal", 0.8, 10.0), row("quick", 0.5, 5.0)]


@pytest.mark.parametrize(("limit", "best"), [(1000, "slow"), (100, "slow"), (99, "equal"), (9, "quick"), (5, "quick")])
def test_the_best_within(limit, best):
    assert best_within([*ROWS, row("unscored", None, 1.0), row("untimed", 1.0, None)], limit)["key"] == best


def test_nothing_within_names_the_fastest():
    message = r"latency <= 4 ms; the fastest, d1-w.5-k3-r1, takes 5 ms \(openvino on a processor, threads: 1\)"
    with pytest.raises(ValueError, match=message):
        best_within(ROWS, 4)


def test_rows_without_dice():
    with pytest.raises(ValueError, match="no evaluated subnet has both Dice and latency"):
        best_within([row("unknown", None, 1.0)], 4)


@pytest.fixture
def table(model, tmp_path):
    """A table of two subnets, the larger the better and the slower."""
    space = model.space
    rows = [
        row(config.name, dice, latency) | {"model": model.digest, "name": "a", "config": config.to_dict()}
        for config, dice, latency in [(space.smallest(), 0.5, 5.0), (space.largest(), 0.9, 100.0)]
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_by_name(model):
    assert choose(model, Choice(subnet="smallest")) == Chosen(model.space.smallest())
    assert choose(model, Choice()) == Chosen(model.space.largest())


def test_by_latency(model, table):
    assert choose(model, Choice(max_latency_ms=99, table=table)) == Chosen(model.space.smallest(), "openvino", 5.0, 1)
    assert choose(model, Choice(max_latency_ms=100, table=table)).config == model.space.largest()


def test_by_the_time_of_a_case(model, table):
    """Eight windows of eight passes of 100 ms take 6.4 s."""
    choice = Choice(budget_s=6.4, table=table)
    assert choose(model, choice, windows=8, passes=8).config == model.space.largest()
    assert choose(model, choice, windows=9, passes=8).config == model.space.smallest()
    with pytest.raises(
        ValueError, match=r"\(0.1 s for 9 windows of the largest case, passes per window: 8\); the fast"
    ):
        choose(model, Choice(budget_s=0.1, table=table), windows=9, passes=8)


def test_by_what_a_search_has_found(model, tmp_path):
    front = tmp_path / "front.json"
    found = {"config": model.space.smallest().to_dict(), "dice_tuning": 0.8, "latency_ms": 2.0}
    latency = {"runtime": "openvino-int8", "device": "a processor", "threads": 1}
    front.write_text(json.dumps({"latency": latency, "subnets": [found]}))
    assert choose(model, Choice(max_latency_ms=3, table=front)) == Chosen(
        model.space.smallest(), "openvino-int8", 2.0, 1
    )
    for content in ({"latency": None, "subnets": [found]}, {"latency": latency}, []):
        front.write_text(json.dumps(content))
        with pytest.raises(ValueError, match="is no front.json of prox-monai search with a latency table"):
            choose(model, Choice(max_latency_ms=3, table=front))
    front.write_text('{"latency": ')
    with pytest.raises(ValueError, match="front.json is damaged: "):
        choose(model, Choice(max_latency_ms=3, table=front))


def test_a_table_of_another_device_is_taken_with_a_warning(model, table, caplog):
    choose(model, Choice(max_latency_ms=99, table=table))
    assert "was measured elsewhere, on " in caplog.text
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    here = [row | {"latency": row["latency"] | {"device": f"{device_name('cpu')}, cpu"}} for row in rows]
    table.write_text("".join(json.dumps(row) + "\n" for row in here))
    caplog.clear()
    choose(model, Choice(max_latency_ms=99, table=table))
    assert "elsewhere" not in caplog.text


def test_a_table_of_another_model_is_refused(varied, model, table):
    table.write_text(table.read_text().replace(model.digest, "another"))
    with pytest.raises(ValueError, match="holds rows of another model"):
        choose(model, Choice(max_latency_ms=99, table=table))


def test_a_front_of_another_model_is_refused(model, tmp_path):
    found = {"config": model.space.smallest().to_dict(), "dice_tuning": 0.8, "latency_ms": 2.0}
    content = {"latency": {"runtime": "torch", "device": "a processor", "threads": 1}, "subnets": [found]}
    front = tmp_path / "front.json"
    front.write_text(json.dumps(content | {"model": model.digest}))
    assert choose(model, Choice(max_latency_ms=3, table=front)).config == model.space.smallest()
    front.write_text(json.dumps(content | {"model": "another"}))
    with pytest.raises(ValueError, match=f"is the front of another model .another, not {model.digest}.; give another"):
        choose(model, Choice(max_latency_ms=3, table=front))


def test_no_table(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no evaluated subnet; write it with prox-monai evaluate"):
        choose(model, Choice(max_latency_ms=99, table=tmp_path / "absent.jsonl"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"subnet": "largest", "budget_s": 1}, "give one of subnet and budget_s"),
        ({"max_latency_ms": 5}, "max_latency_ms needs a table"),
        ({"table": "rows"}, "--table rows has no say without a budget; give --max-latency-ms"),
        ({"subnet": "largest", "table": "rows"}, "--table rows has no say without a budget"),
        ({"budget_s": 0, "table": "rows"}, "budget_s must be above 0, got 0"),
        ({"max_latency_ms": float("nan"), "table": "rows"}, "max_latency_ms must be above 0, got nan"),
    ],
)
def test_what_does_not_go_together(fields, message):
    with pytest.raises(ValueError, match=message):
        Choice(**fields)
