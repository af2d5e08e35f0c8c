"""The benchmarks that measure a trained family, on a tiny one: search.py, compression.py, deploy.py of benchmarks."""

from __future__ import annotations

import importlib
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from prox_monai.evaluation.multiply_adds import MultiplyAdds
from prox_monai.export.exported import load_exported
from prox_monai.integrations.nnunet import calibration
from prox_monai.integrations.nnunet.trained import load_trained

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    """Imports a benchmark, as ``python benchmarks/<name>.py`` does; its results go to the test's own folder."""
    monkeypatch.syspath_prepend(BENCHMARKS)

    def imported(name: str):
        module = importlib.import_module(name)
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
        return module

    (tmp_path / "results").mkdir()
    return imported


def test_a_trained_model_is_searched(benchmark, small, varied, finished, monkeypatch, tmp_path):
    pytest.importorskip("optuna")
    search = benchmark("search")
    options = ["--share", "0.5", "--trials", "12", "--compared", "8"]
    monkeypatch.setattr(sys, "argv", ["search.py", "model", str(finished.parent), *options])
    monkeypatch.setattr(search, "SEEDS", range(2))
    search.main()
    result = json.loads((tmp_path / "results" / "search_model.json").read_text())
    assert result["search"]["space_size"] == varied.space.size()
    assert result["search"]["training_steps"] == small["iterations_per_epoch"] * small["epochs"]
    limit = 0.5 * MultiplyAdds(varied.supernet, varied.input_shape)(varied.space.largest())
    assert result["search"]["at_most"] == {"macs": pytest.approx(limit)}
    assert 0 < result["search"]["scored"] <= 12
    assert all(row["macs"] <= limit for row in result["search"]["front"])
    assert [row["seed"] for row in result["fronts"]] == [0, 1]
    assert all(0 < row["scored"] <= 8 for row in result["fronts"])


def test_evaluating_is_timed_against_the_networks_alone(benchmark, finished, monkeypatch, tmp_path):
    search = benchmark("search")
    monkeypatch.setattr(sys, "argv", ["search.py", "throughput", str(finished.parent), "--subnets", "2"])
    search.main()
    throughput = json.loads((tmp_path / "results" / "search_throughput.json").read_text())
    assert throughput["subnets"] == 2
    assert throughput["windows_per_subnet"] >= 2  # cases of the half
    assert throughput["ratio"] == pytest.approx(throughput["evaluate_seconds"] / throughput["network_seconds"])


def test_one_of_two_processes_is_killed(benchmark, finished, monkeypatch, tmp_path, capsys):
    pytest.importorskip("optuna")
    two_processes = benchmark("two_processes")
    monkeypatch.setattr(two_processes.update_readme, "write_readme", (tmp_path / "written").touch)
    monkeypatch.setattr(two_processes, "SHARE", 0.5)
    sizes = ["--trials", "12", "--subnets", "6", "--output", str(tmp_path / "out")]
    assert two_processes.main(["--model", str(finished.parent), *sizes]) == 0
    result = json.loads((tmp_path / "results" / "two_processes.json").read_text())
    assert (result["table"]["rows"], result["table"]["missing"]) == (6, 0)
    for seen, rows in ((result["search"], 12), (result["table"], 6)):
        assert rows / 2 - 2 <= seen["killed_at"] <= seen["rows"] <= rows
        assert (seen["lost"], seen["doubled"]) == (0, 0)
    assert result["search"]["front"] > result["search"]["front_doubled"] == 0
    assert "search rows: " in capsys.readouterr().out


def test_a_subnet_is_compressed(benchmark, finished, monkeypatch, tmp_path, capsys):
    if any(find_spec(name) is None for name in ("openvino", "nncf")):
        pytest.skip('needs pip install "prox-monai[export]"')
    compression = benchmark("compression")
    monkeypatch.setattr(calibration, "CALIBRATION_PATCHES", 4)
    monkeypatch.setattr(compression.update_readme, "write_readme", (tmp_path / "written").touch)
    kept = ("fp32", "int8", "fp32, fine-tuned")
    arguments = ["--model", str(finished.parent), "--steps", "2", "--output", str(tmp_path / "out"), "--ways", *kept]
    assert compression.main(arguments) == 0
    assert (tmp_path / "written").exists()
    result = json.loads((tmp_path / "results" / "compression.json").read_text())
    assert result["subnet"] == "d1-w.5-k3-r.7"
    assert result["command"].endswith("--steps 2 --drop 0.0001 --ways fp32 int8 'fp32, fine-tuned'")
    assert result["ways"]["fp32, fine-tuned"]["steps"] == ["fine-tuned for 2 steps"]
    for name, folder in zip(kept, ("fp32", "int8", "fp32_fine-tuned_2"), strict=True):
        row = result["ways"][name]
        assert load_exported(tmp_path / "out" / result["subnet"] / folder)[0].precision == name[:4]
        assert row["latency_ms"] > 0
        assert row["megabytes"] > 0
        assert 0 <= row["dice_reporting"] <= 1
    assert "int8" in capsys.readouterr().out


def test_a_stock_folder_has_the_same_logits(benchmark, finished, tmp_path):
    deploy = benchmark("deploy")
    model = load_trained(finished.parent)
    found = deploy.stock(model, tmp_path / "stock")
    assert found["subnet"] == model.space.largest().name
    assert found["parity"]["patches"] == 20
    assert found["parity"]["max_difference"] <= 1e-5 * found["parity"]["max_logit"]
    assert deploy.stock(model, tmp_path / "stock") == found  # what is there is read again


@pytest.mark.parametrize("limit_ms", [5.0, 0.5])
def test_the_best_within_the_limits_is_chosen_or_the_fastest(benchmark, finished, monkeypatch, tmp_path, limit_ms):
    pytest.importorskip("optuna")
    deploy = benchmark("deploy")
    model, asked = load_trained(finished.parent), []

    def times(model, candidates, threads):
        asked.extend(candidates)
        return {config.name: 1.0 + 2 * rank for rank, config in enumerate(reversed(candidates))}, limit_ms

    monkeypatch.setattr(deploy, "candidate_times", times)
    monkeypatch.setattr(deploy, "SMALLER", 1.5)
    chosen, tuned = deploy.choose(model, 40, tmp_path / "search", 1)
    fitting = asked[-3:] if limit_ms == 5.0 else []
    assert chosen == (fitting or asked[-1:])[0]
    assert (tuned["candidates"], tuned["within"]) == (len(asked), len(fitting))
    rows = [json.loads(line) for line in (tmp_path / "search" / "tuning.jsonl").read_text().splitlines()]
    assert tuned["chosen"] == next(row["dice"] for row in rows if row["name"] == chosen.name)
    largest = next(row for row in rows if row["name"] == "largest")
    assert tuned["largest"] == largest["dice"]
    small = [row for row in rows if all(row[cost] <= largest[cost] / 1.5 for cost in ("macs", "parameters"))]
    assert tuned["subnets"] == len(small) == len(rows) - 1
