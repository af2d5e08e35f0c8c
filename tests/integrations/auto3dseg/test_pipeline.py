"""One AutoRunner with prox alone, from analysis to predictions: two folds, a relative path, spaces, no ``python``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.apps.auto3dseg import AlgoEnsembleBestByFold, AlgoEnsembleBestN, AlgoEnsembleBuilder, AutoRunner
from monai.apps.auto3dseg.utils import import_bundle_algo_history

from prox_monai.evaluation.subnets import read_rows
from prox_monai.integrations.auto3dseg import InferClass, add_subnet, algos
from prox_monai.training.checkpoint import load_checkpoint


def runner_of(work: Path, source, **options) -> AutoRunner:
    return AutoRunner(str(work), source, algos(), **options)


def image_of(pipeline) -> Path:
    (entry,) = json.loads(pipeline.cases.datalist.read_text())["testing"]
    return pipeline.cases.folder / entry["image"]


def test_every_fold_has_a_model_that_loads_without_pickle(pipeline):
    for fold in (0, 1):
        supernet = load_checkpoint(pipeline.work / f"prox_{fold}" / "model" / "model.pt").supernet
        assert supernet.space.width == (0.5, 1.0)
        assert supernet.architecture.out_channels == 3


def test_the_score_that_autorunner_kept_is_the_largest_subnets(pipeline):
    for fold in (0, 1):
        folder = pipeline.work / f"prox_{fold}"
        kept = json.loads((folder / "algo_object.json").read_text())["best_metric"]
        last = yaml.safe_load((folder / "model" / "progress.yaml").read_text())[-1]
        assert last["name"] == "largest"
        assert kept == last["best_avg_dice_score"]
        assert 0 < kept <= 1


def test_the_table_knows_three_subnets_with_latencies(pipeline):
    rows = read_rows(pipeline.work / "prox_0" / "model" / "subnets.jsonl")
    assert {row["name"] for row in rows} == {"smallest", "middle", "largest"}
    assert all(row["latency_ms"] > 0 and row["cases"] == 3 for row in rows)


def test_training_parameters_reached_the_training(pipeline):
    used = yaml.safe_load((pipeline.work / "prox_0" / "model" / "parameters.yaml").read_text())
    assert used["learning_rate"] == 0.01
    assert used["prox_width"] == [0.5, 1.0]
    log = (pipeline.work / "prox_0" / "model" / "training.log").read_text()
    assert "phase 4 of 4, stage polish" in log


def test_nothing_is_left_of_the_training(pipeline):
    assert not (pipeline.work / "prox_0" / "model" / "training").exists()


def test_the_prediction_is_on_the_grid_of_the_image(pipeline):
    (file,) = (pipeline.work / "ensemble_output").rglob("*_ensemble.nii.gz")
    predicted, image = nib.load(file), nib.load(image_of(pipeline))
    assert predicted.shape == image.shape
    assert np.allclose(predicted.affine, image.affine)
    assert set(np.unique(predicted.get_fdata())) <= {0, 1, 2}


def test_a_second_run_repeats_nothing(pipeline, copied, quiet_monai):
    before = (copied / "prox_0" / "model" / "model.pt").stat().st_mtime_ns
    runner = runner_of(copied, pipeline.cases.source, analyze=False, ensemble=False)
    runner.run()
    assert (copied / "prox_0" / "model" / "model.pt").stat().st_mtime_ns == before


def labels_of_both_folds(work: Path, image: Path, **choice) -> np.ndarray:
    configs = [work / f"prox_{fold}" / "configs" / "hyper_parameters.yaml" for fold in (0, 1)]
    return torch.stack([InferClass(config, **choice).infer(image) for config in configs]).mean(0).argmax(0).numpy()


@pytest.mark.parametrize(
    "choice", [{"subnet": "smallest"}, {"max_latency_ms": 1e6}, {"subnet": ["smallest", "largest"]}]
)
def test_a_subnet_is_chosen_when_predicting_in_a_moved_work_directory(choice, pipeline, copied, quiet_monai):
    runner = runner_of(copied, pipeline.cases.source)
    runner.set_prediction_params({"algo_spec_params": {"prox": choice}})
    runner.set_image_save_transform(output_dir=str(copied / "chosen"))
    runner.run()
    (file,) = (copied / "chosen").rglob("*.nii.gz")
    saved = np.asanyarray(nib.load(file).dataobj)
    assert np.array_equal(saved, labels_of_both_folds(copied, image_of(pipeline), **choice))
    if choice == {"subnet": "smallest"}:  # or the choice would not show
        assert not np.array_equal(saved, labels_of_both_folds(copied, image_of(pipeline)))


def test_a_subnet_that_does_not_exist_is_refused(pipeline, copied, quiet_monai):
    runner = runner_of(copied, pipeline.cases.source)
    runner.set_prediction_params({"algo_spec_params": {"prox": {"subnet": "tiniest"}}})
    with pytest.raises(ValueError, match="tiniest"):
        runner.run()


def test_weights_are_read_once_for_all_files(pipeline, monkeypatch, quiet_monai):
    from prox_monai.integrations.auto3dseg import infer

    read = []
    monkeypatch.setattr(infer, "load_checkpoint", lambda path: read.append(path) or load_checkpoint(path))
    infer.load_network.cache_clear()
    history = import_bundle_algo_history(str(pipeline.work))
    builder = AlgoEnsembleBuilder(history, str(pipeline.work / "input.yaml"))
    builder.set_ensemble_method(AlgoEnsembleBestByFold(2))
    files = [{"image": str(path)} for path in sorted((pipeline.cases.folder / "imagesTr").iterdir())]
    predicted = builder.get_ensemble()({"infer_files": files})
    assert len(predicted) == 6
    assert len(read) == 2
    assert predicted[0].shape[0] == 1


def test_subnets_of_one_supernet_are_members_of_an_ensemble(pipeline, copied, quiet_monai):
    folder = add_subnet(copied / "prox_0", "smallest")
    add_subnet(copied / "prox_0", "d2-w.5-k3-r1")  # not evaluated before
    history = import_bundle_algo_history(str(copied))
    assert [entry["identifier"] for entry in history] == ["prox_0", "prox_0_d2-w.5-k3-r1", "prox_0_smallest", "prox_1"]
    assert all(entry["is_trained"] for entry in history)
    entries = yaml.safe_load((copied / "prox_0" / "model" / "progress.yaml").read_text())
    scores = {entry["name"]: entry["best_avg_dice_score"] for entry in entries}
    assert [h["best_metric"] for h in history[:3]] == [scores[n] for n in ("largest", "d2-w.5-k3-r1", "smallest")]
    (copied / "input.yaml").write_text(yaml.safe_dump(pipeline.cases.source))  # which an AutoRunner does
    builder = AlgoEnsembleBuilder(history, str(copied / "input.yaml"))
    builder.set_ensemble_method(AlgoEnsembleBestN(4))
    members = builder.get_ensemble().get_algo_ensemble()
    image = {"image": str(image_of(pipeline))}
    inferred = {member["identifier"]: member["algo_instance"].predict([image])[0] for member in members}
    for name, subnet in (("prox_0_smallest", "smallest"), ("prox_0", "largest")):
        expected = InferClass(copied / "prox_0" / "configs" / "hyper_parameters.yaml", subnet=subnet).infer(image)
        assert np.allclose(inferred[name], expected)
    assert not np.allclose(inferred["prox_0_smallest"], inferred["prox_0"])
    (label,) = builder.get_ensemble()({"infer_files": [image]})
    assert label.shape[1:] == inferred["prox_0"].shape[1:]
    assert not (folder / "model").exists()


def test_members_are_not_trained(copied, quiet_monai):
    add_subnet(copied / "prox_0", "middle")
    history = import_bundle_algo_history(str(copied))
    (member,) = [entry["algo_instance"] for entry in history if entry["identifier"].endswith("middle")]
    assert member.train({}) is None


def test_the_command_line_with_a_yaml_file_only_predicts_what_is_trained(pipeline, copied):
    """``algos`` in the input; all steps but the last are cached."""
    shutil.rmtree(copied / "ensemble_output")
    entry = {"prox": {"_target_": "prox_monai.integrations.auto3dseg.ProxAlgo"}}
    source = copied.parent / "task.yaml"
    source.write_text(yaml.safe_dump({**pipeline.cases.source, "algos": entry}))
    command = [sys.executable, "-m", "monai.apps.auto3dseg", "AutoRunner", "run"]
    options = [f"--work_dir={copied}", f"--input={source}", "--analyze=False"]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((copied / "ensemble_output").rglob("*.nii.gz"))) == 1
