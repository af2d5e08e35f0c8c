"""README's lines on devices say what the results say."""

from __future__ import annotations

import json

import device_lines
import pytest

TIMES = {"torch": 300.0, "onnxruntime": 250.0, "openvino": 200.0, "openvino-int8": 50.0}


def row(parameters: int, macs: int, divisor: float) -> dict:
    return {
        "parameters": parameters,
        "macs": macs,
        "latency_ms": {name: time / divisor for name, time in TIMES.items()},
    }


@pytest.fixture
def results(tmp_path):
    """A folder of results, and what writes into it."""

    def write(name: str, content: dict) -> None:
        (tmp_path / f"{name}.json").write_text(json.dumps(content))

    return tmp_path, write


def test_without_results_there_are_no_lines(tmp_path):
    for lines in (
        device_lines.auto3dseg_lines,
        device_lines.oct_lines,
        device_lines.deploy_lines,
        device_lines.compression_lines,
        device_lines.search_lines,
        device_lines.reversible_lines,
    ):
        assert lines(tmp_path) == []


def test_deploy(results):
    folder, write = results
    write(
        "deploy",
        {
            "dataset": "Dataset004",
            "subnet": "d1-w.25-k3-r1",
            "threads": 1,
            "fold": 2,
            "subnets": 1679616,
            "width": [0.25, 0.5],
            "resolution": [0.6, 0.8, 1.0],
            "machine": {"device": "a processor", "instructions": "AVX2"},
            "tuning": {"subnets": 62, "candidates": 9, "within": 2, "limit_ms": 6.25},
            "networks": {
                "planned": row(5_600_000, 19_140_000_000, 1),
                "largest": row(1_600_000, 4_000_000_000, 2),
                "chosen": row(170_000, 360_000_000, 10),
            },
            "reporting": {"cases": 20, "largest": 0.869, "chosen": 0.862, "int8": 0.861},
            "exported": {
                "openvino-int8": {"parity": {"patches": 20, "max_difference": 5.0, "max_logit": 20.0}},
                "openvino-fp32": {"parity": {"patches": 20, "max_difference": 4e-3, "max_logit": 20.0}},
            },
            "stock": {"parity": {"patches": 20, "max_difference": 0.0, "max_logit": 20.0}},
        },
    )
    text = "\n".join(device_lines.deploy_lines(folder))
    assert "60 times less time than nnU-Net's planned network in PyTorch, 10.0 times less than that in int8" in text
    assert "on a processor with no other instructions than those of AVX2" in text
    assert "FOLD=2` on" in text
    assert "subnets of 0.25 and 0.5 of the planned channels at 0.6, 0.8 and 1 of the resolution" in text
    assert "1 thread, all in one run. A search on the tuning half tried 62 subnets" in text
    assert "9 are in their Pareto set, 2 of those take at most 6.2 ms in int8, a twentieth less than" in text
    assert "The best was chosen, `d1-w.25-k3-r1`" in text
    assert "| chosen | 0.17 M | 0.36 G | 30.0 ms | 25.0 ms | 20.0 ms | 5.0 ms |" in text
    assert "in PyTorch | >= 40 | 60.0 | yes |" in text
    assert "both in int8 | >= 8 | 10.0 | yes |" in text
    assert "multiply-adds than the largest subnet | >= 10 | 11.1 | yes |" in text
    assert "parameters than the largest subnet | >= 10 | 9.4 | no |" in text
    assert "below the largest subnet in 32 bits, reporting half | <= 0.01 | 0.0080 | yes |" in text
    assert "int8 costs, reporting half | <= 0.005 | 0.0010 | yes |" in text
    assert "logit ÷ the largest, openvino-fp32, 20 unseen patches | <= 1e-04 | 2e-04 | no |" in text
    assert "logit ÷ the largest, stock nnU-Net folder, 20 unseen patches | <= 1e-04 | 0e+00 | yes |" in text
    assert "openvino-int8, 20" not in text


def test_compression(results):
    folder, write = results
    way = {
        "steps": ["trained for 9 steps", "quantised"],
        "dice_tuning": 0.8704,
        "dice_reporting": 0.861,
        "latency_ms": 8.44,
        "megabytes": 1.474,
    }
    write(
        "compression",
        {
            "command": "python benchmarks/compression.py --fold 1",
            "machine": {"device": "a processor", "instructions": "avx2"},
            "threads": 1,
            "cases": 20,
            "subnet": "d1-w.25-k3-r1",
            "ways": {"int8": way},
        },
    )
    text = "\n".join(device_lines.compression_lines(folder))
    assert "on a processor, avx2, 1 thread: `d1-w.25-k3-r1`" in text
    assert "| int8 | trained for 9 steps; quantised | 0.8704 | 0.8610 | 8.4 ms | 1.47 MB |" in text


def test_two_processes(results):
    folder, write = results
    assert device_lines.two_processes_lines(folder) == []
    seen = {"rows": 400, "killed_at": 201, "lost": 0, "doubled": 0, "seconds": 420.0}
    write(
        "two_processes",
        {
            "command": "python benchmarks/two_processes.py --fold 2",
            "machine": {"device": "a processor"},
            "space_size": 1_119_744,
            "search": {**seen, "front": 12, "front_doubled": 1},
            "table": {**seen, "rows": 60, "missing": 3, "lost": 2},
        },
    )
    text = "\n".join(device_lines.two_processes_lines(folder))
    assert "`python benchmarks/two_processes.py --fold 2` on a processor: two processes" in text
    assert "search of 1,119,744 subnets" in text
    assert "| `prox-monai search` | 400 | 201 |  | 0 | 1 |" in text
    assert "| `prox-monai evaluate` | 60 | 201 | 3 | 2 | 0 |" in text


def test_auto3dseg_beside_segresnet(results):
    folder, write = results
    scores = {"prox": 0.873, "segresnet": 0.5}
    machine = {"threads": 2}
    write("auto3dseg_beside", {"scores": scores, "seconds": 540.0, "predicted": 40, "machine": machine})
    (text,) = filter(None, device_lines.auto3dseg_lines(folder))
    assert "9.0 minutes from analysis to 40 predictions" in text
    assert "prox 0.873, segresnet 0.500" in text


def test_search(results):
    folder, write = results
    write(
        "search_latency",
        {
            "machine": {"device": "a processor", "threads": 1},
            "fold": 2,
            "tables": [{"runtime": "openvino", "networks": 50, "mean_error": 0.031, "tau": 0.962}],
        },
    )
    seeds = [
        {"hypervolume": 0.5, "random_hypervolume": 0.4, "random_front_beaten": 1.0},
        {"hypervolume": 0.3, "random_hypervolume": 0.4, "random_front_beaten": 0.5},
    ]
    write("search_front", {"space_size": 8_503_056, "rows": seeds})
    write(
        "search_model",
        {
            "machine": {"device": "a processor", "threads": 1},
            "fold": 3,
            "trials": 300,
            "search": {"space_size": 65536, "training_steps": 2880, "scored": 300, "seconds": 300.0},
            "fronts": seeds[:1],
        },
    )
    write(
        "search_throughput",
        {"machine": {"device": "a processor", "threads": 1}, "fold": 3, "subnets": 20, "ratio": 1.08},
    )
    text = "\n".join(device_lines.search_lines(folder))
    assert "`python benchmarks/search.py latency MODEL_FOLDER --fold 2 --runtime openvino`" in text
    assert "`python benchmarks/search.py model MODEL_FOLDER --fold 3 --trials 300` on a processor" in text
    assert "| openvino | 50 | 3.1% | 0.962 | yes |" in text
    assert "minutes of a search with a limit, threads: 1 (the bar is for two cores) | <= 10 | 5.0 | yes |" in text
    assert "more than random subnets | all | 1 of 1 | yes |" in text
    assert "among 8,503,056 subnets" in text
    assert "for 1 of 2 seeds; of the random subnets' front it beats or equals 50% to 100%" in text
    assert "scored 300 in 5.0 minutes" in text
    assert "of 20 random subnets takes 1.08 times what the networks alone take (bar: <= 1.15; met: yes)" in text
    assert "dominates a larger hypervolume than as many random subnets for 1 of 1 seeds" in text


@pytest.mark.parametrize(("seconds", "text_of_it"), [(420.0, "7.0 minutes from analysis to predictions, "), (None, "")])
def test_auto3dseg(seconds, text_of_it, results):
    folder, write = results
    subnet = {
        "key": "d1-w.25-k3-r.8",
        "parameters": 170_000,
        "latency_ms": 20.4,
        "predict_seconds_per_case": 0.5,
        "predict_dice": 0.81,
    }
    write(
        "auto3dseg",
        {
            "data": "Task04",
            "cases": {"all": 200, "validation": 40},
            "settings": {"num_epochs": 20, "prox_iterations_per_epoch": 40},
            "machine": {"threads": 2},
            "seconds": seconds,
            "score": 0.84,
            "subnets": dict.fromkeys(("smallest", "middle", "largest"), subnet),
        },
    )
    text = "\n".join(device_lines.auto3dseg_lines(folder))
    assert "160 training and 40 validation cases" in text
    assert f"2 threads: {text_of_it}score 0.840" in text
    assert "| smallest `d1-w.25-k3-r.8` | 0.17 M | 20 ms | 0.50 s | 0.810 |" in text


def test_oct(results):
    folder, write = results
    row = {
        "folds": [0, 1],
        "train_seconds": 450.0,
        "train_seconds_ratio": None,
        "random": {"subnets": 30, "mean": 0.612, "min": 0.571, "max": 0.655},
        "random_mean_of_shared_folds": 0.598,
        "largest_pooled": {"balanced_accuracy": 0.634, "low": 0.55, "high": 0.71},
    }
    latency = {
        "milliseconds": [[2.04, 3.11], [3.2, 7.0]],
        "mean_balanced_accuracy": {"plus": [0.601, 0.623], "progressive_shrinking": [0.58, None]},
    }
    result = {
        "epochs": 30,
        "pixels": [96, 128],
        "images": 208,
        "machine": {"device": "a processor", "threads": 2},
        "shared_folds": [0],
        "methods": {"plus": row, "progressive_shrinking": row | {"folds": [0], "train_seconds_ratio": 1.0}},
        "latency_buckets": latency,
    }
    write("oct", result)
    text = "\n".join(device_lines.oct_lines(folder))
    assert "208 unseen images in all folds together, grouped by patient; the" in text
    assert "the bundle's quick settings, which were chosen on folds 0 and 1, 30 epochs each, 96 and 128 pixels" in text
    assert "The random subnets by latency, fold 0 alone:" in text
    assert "a processor, threads: 2." in text
    assert "| `plus` | 2 | 7.5 min |  | 0.612 (0.571 to 0.655) | 0.598 | 0.634 (0.550 to 0.710) |" in text
    assert "| mean, fold 0 alone |" in text
    assert "| `progressive_shrinking` | 1 | 7.5 min | 1.00 |" in text
    assert "| method | 2.0 to 3.1 ms | 3.2 to 7.0 ms |" in text
    assert "| `progressive_shrinking` | 0.580 |  |" in text
    assert "benchmarks/results/oct.png" in text
    write("oct_full", result)
    assert "the bundle's own size" in "\n".join(device_lines.oct_lines(folder))


def test_reversible(results):
    folder, write = results
    sizes = [
        {"network": name, "memory_bytes": megabytes * 2**20, "seconds": seconds}
        for name, megabytes, seconds in (
            ("plain", 100, 1.0),
            ("inverted", 200, 2.0),
            ("stored", 300, 2.0),
            ("reversible", 60, 3.0),
        )
    ]
    fits = {
        "volume": {"stored": {"times": 3.0, "at_least": False}, "inverted": {"times": 2.0, "at_least": True}},
        "depth": {"stored": {"times": 6.0, "at_least": True}, "inverted": {"times": None, "at_least": False}},
    }
    write(
        "reversible_cpu",
        {
            "command": "python benchmarks/reversible.py",
            "machine": {"device": "a processor"},
            "base": {"patch": [48, 48, 48], "depth": 4, "channels": 16},
            "sizes": sizes,
            "fits": fits,
        },
    )
    text = "\n".join(device_lines.reversible_lines(folder))
    assert "take 60 MiB for a training step" in text
    assert "A plain U-Net of these channels, without expansion, takes 100 MiB and 1.00 s." in text
    assert "| published |  | x 3 | x 1.25 |  |" in text
    assert "| stored | 300 MiB | x 3.00 | >= 6.00 | x 1.50 |" in text
    assert "| inverted | 200 MiB | >= 2.00 | does not fit | x 1.50 |" in text
    assert "reversible blocks take 60 MiB" in text
