"""The measurement of the bundles: what is run, in which order, and what is made of it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("monai", reason='needs pip install "prox-monai[monai]"')

from prox_monai.data import write_synthetic_decathlon


@pytest.fixture
def bundles(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import update_readme

    import bundles

    monkeypatch.setattr(bundles, "RESULTS", tmp_path / "results" / "bundles.json")
    monkeypatch.setattr(update_readme, "write_readme", lambda: None)
    (tmp_path / "results").mkdir()
    return bundles


@pytest.fixture
def commands(bundles, monkeypatch) -> list[tuple[list[str], list[str]]]:
    """What would be run; each leaves what it would."""
    made = []

    def run(folder, configs, options):
        made.append((list(configs), list(options)))
        if configs[-1] in ("search", "evaluate"):
            clock = {"device": "processor", "threads": 1, "torch": "2"}
            common = {"parameters": 1, "macs": 1, "latency_ms": 1.0, "latency": clock, "cases": 4, "metrics": {}}
            common["per_class"] = {"val_mean_dice": [0.81, 0.79]}
            names = {"smallest": 0.7, "middle": 0.8, "largest": 0.9, "d1-w1-k3-r1": 0.75, "d2-w1-k3-r1": 0.85}
            table = folder / ("eval" if configs[-1] == "evaluate" else "models") / "subnets.jsonl"
            table.parent.mkdir(exist_ok=True)
            lines = [json.dumps({"name": n, "key": n, "score": score, **common}) for n, score in names.items()]
            table.write_text("\n".join(lines) + "\n")
        if configs[0] == "inference":
            given = dict(zip(options[::2], options[1::2], strict=True))
            output = Path(given["--output_dir"])
            output.mkdir(parents=True)
            for path in Path(given["--dataset_dir"], "imagesTr").iterdir():
                image = nib.load(path)
                label = np.zeros(image.shape, np.uint8)
                label[0] = 2
                nib.save(nib.Nifti1Image(label, image.affine), output / path.name.replace(".nii", "_seg.nii"))

    monkeypatch.setattr(bundles, "run", run)
    monkeypatch.setattr(bundles, "export", lambda folder: made.append((["export"], [str(folder)])))
    return made


STEPS = ["quick", "search", "evaluate", "quick", "quick", "quick", "export", "inference"]


def test_few_cases_all_train(bundles, commands, tmp_path):
    data = write_synthetic_decathlon(tmp_path / "data" / "Task04_Hippocampus", cases=2, size=(12, 12, 12))
    arguments = ["--data", str(tmp_path / "data"), "--bundles", "hippocampus", "--output", str(tmp_path / "runs")]
    assert bundles.main(arguments) == 0
    assert [configs[-1] for configs, _ in commands] == STEPS
    assert all(options[:4] == ["--dataset_dir", str(data), "--fold", "all"] for _, options in commands[:3])
    assert [options[-1] for _, options in commands[3:6]] == ["smallest", "largest", "1.0"]
    result = json.loads(bundles.RESULTS.read_text())["hippocampus"]
    assert result["cases"] == {"measured": 4, "unseen": False}
    assert result["random"] == pytest.approx({"subnets": 2, "mean": 0.8, "min": 0.75, "max": 0.85})
    assert result["predicted"]["within"] == {"images": 2, "labels": [0, 2]}
    assert result["predicted"]["exported"] == {"images": 2, "voxels_differ": 0}
    import training_lines

    text = "\n".join(training_lines.bundle_lines(bundles.RESULTS.parent))
    assert "4 training cases" in text
    assert "0.700 | 0.800 | 0.900 | 0.800 (0.750 to 0.850)" in text
    assert "| 2 | 0, 2 |" in text
    assert "hippocampus anterior hippocampus 0.810, posterior hippocampus 0.790." in text


def test_what_is_done_is_not_done_again(bundles, commands, tmp_path):
    write_synthetic_decathlon(tmp_path / "data" / "Task04_Hippocampus", cases=12, size=(12, 12, 12))
    arguments = ["--data", str(tmp_path / "data"), "--bundles", "hippocampus", "--output", str(tmp_path / "runs")]
    assert bundles.main(arguments) == bundles.main(arguments) == 0
    assert [configs[-1] for configs, _ in commands] == STEPS
    assert "--fold" not in commands[0][1]


def test_a_training_that_was_broken_off_goes_on(bundles, commands, tmp_path):
    write_synthetic_decathlon(tmp_path / "data" / "Task04_Hippocampus", cases=12, size=(12, 12, 12))
    folder = bundles.copy_bundle(bundles.BUNDLES["hippocampus"], tmp_path / "runs" / "hippocampus")
    (folder / "models" / "training").mkdir(parents=True)
    (folder / "models" / "training" / "checkpoint_epoch=5.pt").write_text("")
    result = bundles.measure("hippocampus", tmp_path / "data" / "Task04_Hippocampus", folder, 1)
    assert commands[0][1][-2:] == ["--resume", "true"]
    assert result["seconds"]["train"] is None  # nobody knows what it took in all


def test_a_prediction_of_another_geometry_is_an_error(bundles, commands, monkeypatch, tmp_path):
    write_synthetic_decathlon(tmp_path / "data" / "Task04_Hippocampus", cases=2, size=(12, 12, 12))
    stand_in = bundles.run

    def run(folder, configs, options):
        stand_in(folder, configs, options)
        for path in folder.glob("eval/smallest/*.nii.gz"):
            nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), path)

    monkeypatch.setattr(bundles, "run", run)
    with pytest.raises(ValueError, match="has another geometry than the image"):
        bundles.measure("hippocampus", tmp_path / "data" / "Task04_Hippocampus", tmp_path / "runs", 1)


def test_an_export_that_predicts_otherwise_is_an_error(bundles, commands, monkeypatch, tmp_path):
    write_synthetic_decathlon(tmp_path / "data" / "Task04_Hippocampus", cases=2, size=(12, 12, 12))
    stand_in = bundles.run

    def run(folder, configs, options):
        stand_in(folder, configs, options)
        for path in folder.parent.glob("eval/exported/*.nii.gz"):
            label = nib.load(path)
            nib.save(nib.Nifti1Image(np.zeros(label.shape, np.uint8), label.affine), path)

    monkeypatch.setattr(bundles, "run", run)
    with pytest.raises(ValueError, match="the exported bundle predicts otherwise, by 0.083, allowed is 0.001"):
        bundles.measure("hippocampus", tmp_path / "data" / "Task04_Hippocampus", tmp_path / "runs", 1)


def test_tables_of_a_classifier_are_compared(bundles, tmp_path):
    """An exported bundle has no class in its table, and no head; its order may be another."""
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    (tmp_path / "ours" / bundles.CSV).write_text("file,A,B,class\nx,0.25,0.75,B\ny,0.5,0.5,A\n")
    (tmp_path / "theirs" / bundles.CSV).write_text("y,0.5,0.5\nx,0.25001,0.74999\n")
    compared = bundles._difference(tmp_path / "ours", tmp_path / "theirs")
    assert compared == {"images": 2, "probabilities_differ": pytest.approx(1e-5)}
    (tmp_path / "theirs" / bundles.CSV).write_text("y,0.5,0.5\nx,0.26,0.74\n")
    with pytest.raises(ValueError, match="predicts otherwise, by 0.01, allowed is 0.0001"):
        bundles._difference(tmp_path / "ours", tmp_path / "theirs")


def test_data_that_are_not_there(bundles, tmp_path, capsys):
    assert bundles.main(["--data", str(tmp_path)]) == 2
    assert f"error: {tmp_path} holds no Task04_Hippocampus*" in capsys.readouterr().err
