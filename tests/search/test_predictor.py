from __future__ import annotations

import json
import random
from dataclasses import asdict, replace

import pytest

from prox_monai.search.blocks import blocks_of
from prox_monai.search.latency import Conditions
from prox_monai.search.predictor import LatencyPredictor, SubnetLatency, read_table, rows_by_conditions

HERE = Conditions("fake", "1.0", "a processor", 1)
KINDS = ("Conv", "Up")
KEYS = [f"{KINDS[i % 2]}(): {i}" for i in range(12)]
BLOCKS = [{"key": key, "median_ms": 1.0 + i**2, "elements": 10_000 * (i % 7 + 1)} for i, key in enumerate(KEYS)]


def network(keys, role, noise=1.0) -> dict:
    """In a network blocks take .7 or .9 of their time alone, by their kind, less 1 ms per 100,000 numbers."""
    rows = [BLOCKS[KEYS.index(key)] for key in keys]
    factors = {"Conv": 0.7, "Up": 0.9}
    time = sum(factors[row["key"].split("(")[0]] * row["median_ms"] - 1e-5 * row["elements"] for row in rows) + 5
    return {"key": ".".join(keys), "blocks": keys, "role": role, "median_ms": time * noise}


def draw(count: int, role: str, seed: int, noise: float = 0.0) -> list[dict]:
    rng = random.Random(seed)
    return [network([rng.choice(KEYS) for _ in range(6)], role, 1 + noise * rng.uniform(-1, 1)) for _ in range(count)]


@pytest.fixture
def make():
    def predictor(noise: float = 0.0, held_out: int = 20, fit: int = 20) -> LatencyPredictor:
        rows = draw(fit, "fit", 1, noise) + draw(held_out, "held out", 2, noise)
        return LatencyPredictor(HERE, {row["key"]: row for row in BLOCKS}, rows)

    return predictor


@pytest.fixture
def table(tmp_path):
    """A table of two conditions."""
    path = tmp_path / "table.jsonl"
    rows = [{"kind": "block", **row} for row in BLOCKS]
    rows += [{"kind": "network", **row} for row in draw(20, "fit", 1) + draw(20, "held out", 2)]
    conditions = (HERE, replace(HERE, runtime="other"))
    path.write_text("".join(f"{json.dumps(row | asdict(each))}\n" for each in conditions for row in rows))
    return path


def test_what_networks_take_is_predicted_better_than_by_the_sum_of_their_blocks(make):
    predictor = make(fit=60)
    for row in draw(30, "held out", 7):
        assert predictor(row["blocks"]) == pytest.approx(row["median_ms"], rel=0.04)
    accuracy = predictor.accuracy()
    assert accuracy.networks == 20
    assert accuracy.mean_error < 0.015
    assert accuracy.tau > 0.97


def test_a_block_that_is_slow_in_networks_is_corrected_on_its_own(make):
    predictor = make(fit=60)
    slow = [row | {"median_ms": row["median_ms"] + 30 * row["blocks"].count(KEYS[9])} for row in predictor.networks]
    changed = replace(predictor, networks=slow)
    assert changed([KEYS[9]]) - predictor([KEYS[9]]) > 15
    assert abs(changed([KEYS[8]]) - predictor([KEYS[8]])) < 10


def test_noise_shows_in_the_accuracy(make):
    accuracy = make(noise=0.2).accuracy()
    assert 0.03 < accuracy.mean_error < 0.2
    assert 0.5 < accuracy.tau < 1


def test_held_out_networks_are_not_fitted_to(make):
    predictor = make()
    spoilt = [row | {"median_ms": 1e3} if row["role"] == "held out" else row for row in predictor.networks]
    assert replace(predictor, networks=spoilt)(KEYS[1:3]) == predictor(KEYS[1:3])


def test_too_few_networks_are_refused(make):
    with pytest.raises(ValueError, match=r"holds 1 whole networks of fake 1.0 on a processor, 1 thread to fit to"):
        make(fit=1)


def test_without_held_out_networks_the_accuracy_is_unknown(make):
    assert make(held_out=1).accuracy() is None


def test_an_unknown_block_is_named(make):
    with pytest.raises(ValueError, match=r"has no time of the block 'b99' for fake 1.0"):
        make()([KEYS[1], "b99"])


def test_networks_of_unknown_blocks_are_left_out(make):
    predictor = make()
    strange = {"key": "x", "blocks": ["b99"], "role": "fit", "median_ms": 1.0}
    assert replace(predictor, networks=[*predictor.networks, strange])(KEYS[1:2]) == predictor(KEYS[1:2])


def test_latency_of_a_subnet(unet, shape):
    keys = {block.key: block for config in unet.space for block in blocks_of(unet.architecture, config, shape)}
    blocks = {
        key: {"median_ms": 1.0, "elements": block.elements, "weights": block.weights} for key, block in keys.items()
    }
    rows = []
    for config in list(unet.space)[::5]:
        names = [block.key for block in blocks_of(unet.architecture, config, shape)]
        rows.append({"key": config.name, "blocks": names, "role": "fit", "median_ms": float(len(names))})
    latency = SubnetLatency(LatencyPredictor(HERE, blocks, rows), unet.architecture, shape)
    for config in list(unet.space)[1::9]:
        blocks_there = len(blocks_of(unet.architecture, config, shape))
        assert latency(config) == pytest.approx(blocks_there, rel=0.02)


def test_tables_are_told_apart(table):
    assert [conditions.runtime for conditions in rows_by_conditions(table)] == ["fake", "other"]
    assert [conditions.runtime for conditions in rows_by_conditions(table, "other")] == ["other"]
    assert rows_by_conditions(table, threads=2) == {}
    assert read_table(table, HERE).conditions == HERE
    assert read_table(table, None, "other").conditions.runtime == "other"
    with pytest.raises(
        ValueError,
        match=r"say which by --runtime and --threads.*it holds fake 1.0 on a processor, 1 thread; other 1.0 on a proc",
    ):
        read_table(table, None)
    with pytest.raises(ValueError, match=r"it holds none"):
        read_table(table, None, "third")


def test_a_table_that_is_being_measured_does_not_disturb_another(table):
    with table.open("a") as file:
        file.write(json.dumps({"kind": "block", **BLOCKS[0], **asdict(replace(HERE, runtime="third"))}) + "\n")
    assert read_table(table, HERE).conditions == HERE
    with pytest.raises(ValueError, match=r"holds 0 whole networks of third"):
        read_table(table, None, "third")


@pytest.mark.parametrize("change", [{"device": "another"}, {"version": "0.9"}])
def test_a_table_of_another_device_or_version_is_refused(table, change):
    elsewhere = replace(HERE, **change)
    with pytest.raises(ValueError, match=r"was measured with fake 1.0 on a processor, 1 thread, here is .*--force"):
        read_table(table, elsewhere, "fake")


def test_good_rows_of_a_truncated_table_are_kept(table):
    whole = read_table(table, HERE)
    table.write_text(table.read_text()[:-25])
    assert read_table(table, HERE) == whole
    assert len(read_table(table, None, "other").networks) == len(whole.networks) - 1


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.jsonl does not exist; prox-monai latency writes a latency"):
        read_table(tmp_path / "none.jsonl", None)
    (tmp_path / "rows.jsonl").write_text('{"key": "d1", "dice": 0.5}\n')
    with pytest.raises(ValueError, match=r"rows.jsonl is not a latency table: a row has the kind None"):
        read_table(tmp_path / "rows.jsonl", None)
