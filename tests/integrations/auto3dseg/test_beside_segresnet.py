"""``prox`` beside the official ``segresnet``, where a copy of that template is given.

``PROX_AUTO3DSEG_TEMPLATES`` names the folder of the official templates, which are in an archive of their own:
https://github.com/Project-MONAI/research-contributions/tree/main/auto3dseg/algorithm_templates
"""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from monai.apps.auto3dseg import AutoRunner
from monai.apps.auto3dseg.utils import import_bundle_algo_history

from prox_monai.integrations.auto3dseg import algos


@pytest.fixture
def segresnet(monkeypatch, tmp_path) -> dict[str, dict[str, str]]:
    folder = os.environ.get("PROX_AUTO3DSEG_TEMPLATES", "")
    if not Path(folder, "segresnet", "scripts", "algo.py").is_file():
        pytest.skip("needs the official templates: set PROX_AUTO3DSEG_TEMPLATES to the folder that holds segresnet")
    missing = [name for name in ("psutil", "mlflow") if find_spec(name) is None]
    if missing:
        pytest.skip(f"segresnet's template needs {', '.join(missing)}: pip install {' '.join(missing)}")
    monkeypatch.chdir(tmp_path)  # the template logs where it is
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return {"segresnet": {"_target_": "segresnet.scripts.algo.SegresnetAlgo", "template_path": folder}}


def run_both(source, segresnet, work: Path, **settings) -> list[Path]:
    """Train both for an epoch, and ensemble them; returns the predictions."""
    runner = AutoRunner(str(work), source, algos(**settings) | segresnet)
    runner.set_num_fold(1)
    runner.set_analyze_params({"device": "cpu", "do_ccp": False, "worker": 0})
    runner.set_training_params({"num_epochs": 1, "num_epochs_per_validation": 1})
    runner.set_ensemble_method("AlgoEnsembleBestN", n_best=2)
    runner.run()
    trained = import_bundle_algo_history(str(work))
    assert [entry["identifier"] for entry in trained] == ["prox_0", "segresnet_0"]
    return sorted((work / "ensemble_output").rglob("*.nii.gz"))


def test_both_train_and_predict_together(segresnet, cases, tiny, tmp_path, quiet_monai):
    settings = {name: value for name, value in tiny.items() if name.startswith("prox_")}
    assert len(run_both(cases.source, segresnet, tmp_path / "work", **settings)) == 1


@pytest.mark.slow
def test_on_real_cases(segresnet, data_folder, tmp_path, quiet_monai):
    """Eight of the hippocampus, of which the last two are predicted; what is planned for a CPU, but one epoch."""
    root = data_folder / "Task04_Hippocampus"
    names = sorted(path.name for path in (root / "imagesTr").glob("hippocampus_*.nii.gz"))[:8]
    entries = [{"image": f"imagesTr/{name}", "label": f"labelsTr/{name}"} for name in names]
    training = [{**entry, "fold": number % 2} for number, entry in enumerate(entries[:6])]
    datalist = tmp_path / "datalist.json"
    datalist.write_text(json.dumps({"training": training, "testing": [{"image": e["image"]} for e in entries[6:]]}))
    source = {"modality": "mri", "datalist": str(datalist), "dataroot": str(root)}
    predicted = run_both(source, segresnet, tmp_path / "work")
    assert [path.name.split("_ensemble")[0] for path in predicted] == [name.split(".")[0] for name in names[6:]]
