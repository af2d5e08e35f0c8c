"""The measurement of the segmentation bundles: what is run, in which order, and what is made of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("monai", reason='needs pip install "prox-monai[monai]"')

from prox_monai.data import write_synthetic_decathlon


@pytest.fixture
def bundles(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import update_readme

    import bundles

    monkeypatch.setattr(bundles, "RESULTS", tmp_path / "results" / "bundles.json")
    monkeypatch.setattr(update_readme, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(update_readme, "write_readme", lambda: None)
    (tmp_path / "results").mkdir()
    return bundles


@pytest.fixture
def commands(bundles, monkeypatch) -> list[tuple[list[str], list[str]]]:
    """What would be run; the evaluation leaves rows as it would."""
    made = []

    def run(folder, configs, options):
        made.append((list(configs), list(options)))
        if "evaluate" in configs:
            clock = {"device": "processor", "threads": 1, "torch": "2"}
            common = {"parameters": 1, "macs": 1, "latency_ms": 1.0, "latency": clock, "cases": 4, "per_class": {}}
            names = {"smallest": 0.7, "middle": 0.8, "largest": 0.9, "d1-w1-k3-r1": 0.75, "d2-w1-k3-r1": 0.85}
            (folder / "eval").mkdir(exist_ok=True)
            lines = [json.dumps({"name": n, "key": n, "score": score, **common}) for n, score in names.items()]
            (folder / "eval" / "subnets.jsonl").write_text("\n".join(lines) + "\n")

    monkeypatch.setattr(bundles, "run", run)
    return made


def test_few_cases_all_train(bundles, commands, tmp_path):
    data = write_synthetic_decathlon(tmp_path / "data" / "Task04_Hippocampus", cases=2, size=(12, 12, 12))
    arguments = ["--data", str(tmp_path / "data"), "--bundles", "hippocampus", "--output", str(tmp_path / "runs")]
    assert bundles.main(arguments) == 0
    assert [configs for configs, _ in commands] == [["train", "quick"], ["train", "quick", "evaluate"]]
    assert all(options[:4] == ["--dataset_dir", str(data), "--fold", "all"] for _, options in commands)
    result = json.loads(bundles.RESULTS.read_text())["hippocampus"]
    assert result["cases"] == {"all": 2, "measured": 4, "unseen": False}
    assert result["random"] == pytest.approx({"subnets": 2, "mean": 0.8, "min": 0.75, "max": 0.85})
    (line,) = [line for line in bundles.update_readme.bundle_lines() if line.startswith("| hippocampus")]
    assert "4 training cases" in line
    assert "0.700 | 0.800 | 0.900 | 0.800 (0.750 to 0.850)" in line


def test_what_is_trained_is_not_trained_again(bundles, commands, tmp_path):
    write_synthetic_decathlon(tmp_path / "data" / "Task04_Hippocampus", cases=12, size=(12, 12, 12))
    arguments = ["--data", str(tmp_path / "data"), "--bundles", "hippocampus", "--output", str(tmp_path / "runs")]
    assert bundles.main(arguments) == bundles.main(arguments) == 0
    assert [configs[-1] for configs, _ in commands] == ["quick", "evaluate", "evaluate"]
    assert "--fold" not in commands[0][1]


def test_a_training_that_was_broken_off_goes_on(bundles, commands, tmp_path):
    write_synthetic_decathlon(tmp_path / "data" / "Task04_Hippocampus", cases=12, size=(12, 12, 12))
    folder = bundles.copy_bundle(bundles.BUNDLES["hippocampus"], tmp_path / "runs" / "hippocampus")
    (folder / "models" / "training").mkdir(parents=True)
    (folder / "models" / "training" / "checkpoint_epoch=5.pt").write_text("")
    result = bundles.measure("hippocampus", tmp_path / "data" / "Task04_Hippocampus", folder, 1)
    assert commands[0][1][-2:] == ["--resume", "true"]
    assert result["train_seconds"] is None  # nobody knows what it took in all


def test_data_that_are_not_there(bundles, tmp_path, capsys):
    assert bundles.main(["--data", str(tmp_path)]) == 2
    assert f"error: {tmp_path} holds no Task04_Hippocampus*" in capsys.readouterr().err
