"""A latency table, measured with a runtime whose times are known."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from prox_monai.evaluation.cost import parameters
from prox_monai.evaluation.table import read_lines
from prox_monai.search import latency
from prox_monai.search.blocks import blocks_of
from prox_monai.search.latency import Conditions, Plan, measure_latencies

HERE = Conditions("fake", "1.0", "a processor", 1)


@pytest.fixture
def plan(unet, shape):
    return Plan.of(unet, unet.space, shape, fit=10, held_out=6)


def test_a_small_space_is_shared_out(unet, shape):
    space = unet.space.restrict(depth=(1,), kernel=(3,))  # 8
    plan = Plan.of(unet, space, shape, fit=60, held_out=50)
    assert {role: len(configs) for role, configs in plan.networks.items()} == {"held out": 2, "fit": 6}


class Clock:
    """A clock that a pass of a network of n parameters moves on by n microseconds."""

    def __init__(self) -> None:
        self.now, self.made = 0.0, []

    def make(self, network, input_shape):
        self.made.append(network)

        def run(x):
            assert tuple(x.shape[1:]) == tuple(input_shape)
            with torch.no_grad():
                network(x)
            self.now += parameters(network) * 1e-6

        return run


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(latency.time, "perf_counter", lambda: clock.now)
    return clock


def measure(unet, plan, shape, clock, path, conditions=HERE):
    return list(measure_latencies(unet, plan, shape, clock.make, conditions, path))


def test_the_plan_holds_the_ends_and_no_subnet_twice(unet, plan):
    fit, held_out = (plan.networks[role] for role in ("fit", "held out"))
    assert fit[:2] == [unet.space.smallest(), unet.space.largest()]
    assert (len(fit), len(held_out)) == (12, 6)
    assert len({*fit, *held_out}) == 18
    assert plan.size == len(plan.blocks) + 18


def test_rows(unet, plan, shape, clock, tmp_path):
    rows = measure(unet, plan, shape, clock, tmp_path / "table.jsonl")
    assert read_lines(tmp_path / "table.jsonl") == rows
    assert len(rows) == plan.size
    assert all(Conditions.of(row) == HERE for row in rows)
    by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in ("block", "network")}
    assert {row["key"] for row in by_kind["block"]} == set(plan.blocks)
    for row in by_kind["block"]:
        assert row["median_ms"] == pytest.approx(row["weights"] * 1e-3, abs=1e-9)
        assert row["q1_ms"] <= row["median_ms"] <= row["q3_ms"]
    named = {unet.architecture.canonical(config).name: config for config in unet.space}
    for row in by_kind["network"]:
        config = named[row["key"]]
        assert row["median_ms"] == pytest.approx(parameters(unet.extract(config)) * 1e-3)
        assert row["blocks"] == [block.key for block in blocks_of(unet.architecture, config, shape)]
        assert row["role"] == ("held out" if config in plan.networks["held out"] else "fit")


def test_what_is_there_is_not_measured_again(unet, plan, shape, clock, tmp_path):
    path = tmp_path / "table.jsonl"
    rows = measure_latencies(unet, plan, shape, clock.make, HERE, path)
    before = [next(rows) for _ in range(10)]
    rows.close()
    path.write_text(path.read_text()[:-40])  # the last of the rows that were written is cut off
    clock.made.clear()
    again = measure(unet, plan, shape, clock, path)
    assert len(again) == plan.size
    assert again[: len(before) - 1] == before[:-1]
    assert len(clock.made) < plan.size
    assert len(read_lines(path)) == plan.size


def test_one_process_measures_at_a_time(unet, plan, shape, clock, tmp_path):
    path = tmp_path / "table.jsonl"
    first = measure_latencies(unet, plan, shape, clock.make, HERE, path)
    next(first)
    with pytest.raises(RuntimeError, match="table.jsonl is being measured here already; two at once would slow"):
        measure(unet, plan, shape, clock, path)
    first.close()
    assert len(measure(unet, plan, shape, clock, path)) == len(read_lines(path)) == plan.size
    assert [file.name for file in tmp_path.iterdir()] == ["table.jsonl"]


def test_other_conditions_are_measured_apart(unet, plan, shape, clock, tmp_path):
    path = tmp_path / "table.jsonl"
    measure(unet, plan, shape, clock, path)
    for conditions in (replace(HERE, threads=2), replace(HERE, version="1.1"), replace(HERE, device="another")):
        assert len(measure(unet, plan, shape, clock, path, conditions)) == plan.size
    assert len(read_lines(path)) == 4 * plan.size
    assert [json.loads(line)["threads"] for line in path.read_text().splitlines()].count(2) == plan.size


def test_networks_take_turns():
    order = []
    runs = [(lambda x, name=name: order.append(name), torch.zeros(1)) for name in "ab"]
    latency._take_turns(runs)
    assert order[:6] == list("ababab")
    assert len(order) == 2 * (latency._WARMUP + latency._MAX_TURNS)


def test_conditions_of_this_machine():
    made = []

    def make(network, shape):
        made.append(network(torch.zeros(1, *shape)))
        return SimpleNamespace(name="fake", version="2.0", device="cpu (f32)")

    here = Conditions.here("fake", make, 3)
    assert (here.runtime, here.version, here.threads) == ("fake", "2.0", 3)
    assert here.device.endswith(", cpu (f32)")
    assert str(replace(here, device="x")) == "fake 2.0 on x, 3 threads"
