from __future__ import annotations

import json
import random
import sys
from dataclasses import asdict, replace

import pytest
import search

from prox_monai import cli
from prox_monai.evaluation.multiply_adds import MultiplyAdds
from prox_monai.search.latency import Conditions

optuna = pytest.importorskip("optuna")


def test_the_space_has_millions_of_subnets():
    supernet = search.millions()
    assert supernet.space.size() == 3**7 * 3**4 * 2**4 * 3
    assert all(parameter.is_meta for parameter in supernet.parameters())


def test_synthetic_dice_grows_but_for_its_noise():
    space, rng = search.millions().space, random.Random(0)
    ends = search.synthetic_dice(space.smallest()), search.synthetic_dice(space.largest())
    assert 0.3 < ends[0] < ends[1] < 0.95
    for _ in range(50):
        config = space.sample(rng)
        assert ends[0] < search.synthetic_dice(config) < ends[1] + 2 * search.NOISE
        assert search.synthetic_dice(config) == search.synthetic_dice(config)


def test_dominated_share():
    assert search.dominated([(1, 0.5), (2, 0.8)], [(1, 0.4), (2, 0.8), (3, 0.9)]) == pytest.approx(2 / 3)


def test_the_search_beats_random_subnets_that_are_scored_as_often():
    supernet = search.millions(2)
    count = MultiplyAdds(supernet, search.PATCH)
    (row,) = search.compare_fronts(supernet, count, search.synthetic_dice, 100, [0])
    assert 60 < row["scored"] <= 100
    assert row["hypervolume"] > row["random_hypervolume"]
    assert 0 <= row["random_front_beaten"] <= 1
    assert "| 0 | " in search.fronts_table([row])


def test_the_command(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(search, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["search.py", "front", "--quick"])
    search.main()
    assert "SYNTHETIC" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(search, "compare_fronts", lambda *arguments: [])
    monkeypatch.setattr(sys, "argv", ["search.py", "front"])
    search.main()
    assert json.loads((tmp_path / "search_front.json").read_text())["dice"] == "synthetic"
    monkeypatch.setattr(sys, "argv", ["search.py", "model"])
    with pytest.raises(SystemExit):
        search.main()


def test_predicted_latencies(monkeypatch, tmp_path):
    """Of each runtime in the table that the command wrote."""
    table = tmp_path / "tables" / "latency.jsonl"
    conditions = Conditions("torch", "1.0", "a processor", 1)
    rows = [{"kind": "block", "key": f"Conv(): {i}", "median_ms": 1.0 + i, "elements": 10} for i in range(4)]
    for role, count in (("fit", 8), ("held out", 6)):
        for i in range(count):
            blocks = [f"Conv(): {j}" for j in range(4) if i >> j & 1] or ["Conv(): 0"]
            time = sum(1.0 + int(block[-1]) for block in blocks)
            rows.append({"kind": "network", "key": f"{role} {i}", "blocks": blocks, "role": role, "median_ms": time})
    asked = []

    def command(arguments, commands):
        asked.append(arguments)
        written = [row | asdict(each) for each in (conditions, replace(conditions, runtime="openvino")) for row in rows]
        table.write_text("".join(f"{json.dumps(row)}\n" for row in written))
        return 0

    monkeypatch.setattr(cli, "main", command)
    monkeypatch.setattr(search, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["search.py", "latency", "model", "--fold", "1", "--table", str(table)])
    search.main()
    assert asked[0][:5] == ["latency", "model", "--fold", "1", "--runtime"]
    tables = json.loads((tmp_path / "search_latency.json").read_text())["tables"]
    assert [(each["runtime"], each["networks"]) for each in tables] == [("torch", 6), ("openvino", 6)]
    assert all(each["mean_error"] < 0.05 for each in tables)
