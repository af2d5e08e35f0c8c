"""``prox`` alone in Auto3DSeg on the real hippocampus, fold 0, quick settings: from analysis to predictions of subnets.

    python benchmarks/auto3dseg.py --data DIR          DIR is Task04_Hippocampus, or the folder that holds it
    python benchmarks/auto3dseg.py --data DIR --beside TEMPLATES        beside segresnet of MONAI's official templates

The folds are nnU-Net's. The cases of fold 0 validate, and are the files to predict, each time by an AutoRunner of its
own: its time is that of Auto3DSeg's predict, reading and saving included, and its Dice is that of the saved files on
their own grid. Nothing is chosen on these cases. A training that is there is not repeated, and of a run that was
interrupted the duration is not given. Results go to benchmarks/results/auto3dseg.json and into benchmarks/RESULTS.md.

With --beside one AutoRunner trains prox with the same settings, and segresnet for one epoch, after which it is of no
use: that both work in one run is what is shown, and how long it takes. Results go to auto3dseg_beside.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import device_lines
import nibabel as nib
import numpy as np
import torch
import update_readme
import yaml
from comparison.summary import write_json
from comparison.workplace import environment
from monai.apps.auto3dseg import AutoRunner

from prox_monai.data import read_decathlon
from prox_monai.evaluation.multiply_adds import ALIASES
from prox_monai.evaluation.subnets import read_rows
from prox_monai.integrations.auto3dseg import algos
from prox_monai.integrations.monai import decathlon_split

TASK = "Task04_Hippocampus"
QUICK = {"prox_width": [0.25, 0.5], "prox_kernel": [3], "prox_resolution": [0.8, 1.0], "prox_iterations_per_epoch": 40}
EPOCHS = 20
BEGUN = "begun.json"
RESULTS = Path(__file__).parent / "results" / "auto3dseg.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=f"{TASK}, or the folder that holds it")
    parser.add_argument("--output", type=Path, default=Path("runs", "auto3dseg"))
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of 40 steps; default: %(default)s")
    parser.add_argument("--beside", type=Path, metavar="TEMPLATES", help="folder that holds MONAI's segresnet template")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    data = next((path for path in (arguments.data, arguments.data / TASK) if (path / "dataset.json").is_file()), None)
    if data is None:
        print(f"error: {arguments.data} is no {TASK} and holds none", file=sys.stderr)
        return 2
    output = arguments.output.absolute()
    if arguments.beside is not None:
        if not (arguments.beside / "segresnet").is_dir():
            print(f"error: {arguments.beside} holds no segresnet", file=sys.stderr)
            return 2
        templates = arguments.beside.absolute()
        result = measure_beside(data.absolute(), output / "beside", arguments.epochs, templates)
        write_json(result, arguments.results.with_stem(f"{arguments.results.stem}_beside"))
        update_readme.write_readme()
        print("\n".join(device_lines.auto3dseg_lines(arguments.results.parent)))
        return 0
    if (then := epochs_begun(output)) not in (None, arguments.epochs):
        print(f"error: --epochs must be {then}, as {output} was begun with, or --output another", file=sys.stderr)
        return 2
    result = measure(data.absolute(), output, arguments.epochs)
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    write_json(result, arguments.results)
    update_readme.write_readme()
    print("\n".join(device_lines.auto3dseg_lines(arguments.results.parent)))
    print(f"written to {arguments.results}")
    return 0


def epochs_begun(output: Path) -> int | None:
    """Return the epochs that a run in a folder was begun with; None where none was."""
    begun = output / BEGUN
    return json.loads(begun.read_text(encoding="utf-8"))["epochs"] if begun.exists() else None


def measure(data: Path, output: Path, epochs: int) -> dict[str, Any]:
    """Train, and predict with each subnet; returns the result.

    Args:
        data: folder in the Decathlon layout.
        output: where the work directory is.
        epochs: of the training.
    """
    output.mkdir(parents=True, exist_ok=True)
    dataset, labels = read_decathlon(data), write_datalist(data, output / "datalist.json")
    values = range(1, len(dataset.labels))
    source = {"modality": "mri", "datalist": str(output / "datalist.json"), "dataroot": str(data)}
    work, seconds = output / "work", output / "seconds.json"
    resumed = work.exists() or epochs_begun(output) is not None
    write_json({"epochs": epochs}, output / BEGUN)
    begun = time.perf_counter()
    runner = auto_runner(work, source, epochs)
    runner.run()
    if not seconds.exists():  # the time of the rest alone would be none of a whole run
        seconds.write_text(json.dumps(None if resumed else time.perf_counter() - begun), encoding="utf-8")
    model = work / "prox_0" / "model"
    rows = {row["name"]: row for row in read_rows(model / "subnets.jsonl")}
    subnets = {name: rows[name] | predicted(work, source, epochs, name, labels, values) for name in ALIASES}
    keep = ("key", "parameters", "macs", "latency_ms", "score", "predict_seconds_per_case", "predict_dice")
    return {
        "data": data.name,
        "cases": {"all": len(dataset.cases), "validation": len(labels)},
        "settings": QUICK | {"num_epochs": epochs},
        "seconds": json.loads(seconds.read_text(encoding="utf-8")),
        "score": runner_score(work),
        "subnets": {name: {key: row[key] for key in keep} for name, row in subnets.items()},
        "machine": {
            **environment(),
            "threads": torch.get_num_threads(),
            "OMP_NUM_THREADS": os.getenv("OMP_NUM_THREADS"),
        },
    }


def measure_beside(data: Path, output: Path, epochs: int, templates: Path) -> dict[str, Any]:
    """Train prox and segresnet in one run, and predict with both; returns the result.

    Args:
        data: folder in the Decathlon layout.
        output: where the work directory is to be.
        epochs: of prox.
        templates: folder of MONAI's official templates.

    Raises:
        FileExistsError: When the output folder exists: the time of the rest alone would be none of a whole run.
    """
    output.mkdir(parents=True)
    labels = write_datalist(data, output / "datalist.json")
    source = {"modality": "mri", "datalist": str(output / "datalist.json"), "dataroot": str(data)}
    work, beside = output / "work", segresnet_of(templates)
    begun = time.perf_counter()
    auto_runner(work, source, epochs, beside, train=False, ensemble=False).run()
    parameters = work / "segresnet_0" / "configs" / "hyper_parameters.yaml"
    parameters.write_text(yaml.safe_dump(yaml.safe_load(parameters.read_text()) | {"num_epochs": 1}, sort_keys=False))
    runner = auto_runner(work, source, epochs, beside, analyze=False, algo_gen=False, train=True)
    runner.set_ensemble_method("AlgoEnsembleBestN", n_best=2)
    runner.run()
    return {
        "data": data.name,
        "cases": {"all": len(read_decathlon(data).cases), "validation": len(labels)},
        "seconds": time.perf_counter() - begun,
        "scores": {name: runner_score(work, name) for name in ("prox", "segresnet")},
        "predicted": len(list((work / "ensemble_output").rglob("*.nii.gz"))),
        "machine": {**environment(), "threads": torch.get_num_threads()},
    }


def segresnet_of(templates: Path) -> dict[str, dict[str, str]]:
    """Return MONAI's segresnet as an entry of AutoRunner's algorithms."""
    return {"segresnet": {"_target_": "segresnet.scripts.algo.SegresnetAlgo", "template_path": str(templates)}}


def write_datalist(data: Path, path: Path) -> dict[str, str]:
    """Write a datalist whose fold 0 is nnU-Net's; returns the label of each of its validation images by case."""
    dataset = read_decathlon(data)
    split = decathlon_split(data, channels=len(dataset.channel_names), labels=list(dataset.labels))
    unseen = [*split["tuning"], *split["reporting"]]
    training = [
        {key: str(Path(item[key]).relative_to(data)) for key in ("image", "label")} | {"fold": fold}
        for fold, side in ((1, split["training"]), (0, unseen))
        for item in side
    ]
    testing = [{"image": str(Path(item["image"]).relative_to(data))} for item in unseen]
    path.write_text(json.dumps({"training": training, "testing": testing}, indent=1), encoding="utf-8")
    return {item["case"]: item["label"] for item in unseen}


def auto_runner(
    work: Path, source: dict[str, str], epochs: int, beside: Mapping[str, Any] | None = None, **steps: bool
) -> AutoRunner:
    """Return the AutoRunner of the work directory; what was done in it is not done again unless steps say so."""
    runner = AutoRunner(str(work), dict(source), algos(**QUICK, num_epochs=epochs) | dict(beside or {}), **steps)
    runner.set_num_fold(1)
    runner.set_analyze_params({"device": "cpu", "do_ccp": False, "worker": 0})
    return runner


def runner_score(work: Path, name: str = "prox") -> float:
    """Return the score that AutoRunner kept of an algorithm."""
    return json.loads((work / f"{name}_0" / "algo_object.json").read_text(encoding="utf-8"))["best_metric"]


def predicted(
    work: Path, source: dict[str, str], epochs: int, subnet: str, labels: dict[str, str], values: Sequence[int]
) -> dict[str, Any]:
    """Predict all validation images with one subnet, through AutoRunner, and score what was saved."""
    folder = work / f"predicted_{subnet}"
    runner = auto_runner(work, source, epochs)
    runner.set_prediction_params({"algo_spec_params": {"prox": {"subnet": subnet}}})
    runner.set_image_save_transform(output_dir=str(folder))
    begun = time.perf_counter()
    runner.run()
    seconds = (time.perf_counter() - begun) / len(labels)
    saved = {path.name.split("_ensemble")[0]: path for path in folder.rglob("*_ensemble.nii.gz")}
    scores = [dice(saved[case], label, values) for case, label in labels.items()]
    return {
        "predict_seconds_per_case": seconds,
        "predict_dice": statistics.fmean(np.nanmean(np.array(scores), axis=0).tolist()),
    }


def dice(predicted: str | Path, label: str | Path, values: Sequence[int]) -> list[float]:
    """Return the Dice of each label value of a case, NaN where neither has it."""
    theirs, ours = (np.asanyarray(nib.load(path).dataobj).squeeze() for path in (label, predicted))
    overlaps = [(np.sum((theirs == v) & (ours == v)), np.sum(theirs == v) + np.sum(ours == v)) for v in values]
    return [float(2 * both / total) if total else float("nan") for both, total in overlaps]


if __name__ == "__main__":
    sys.exit(main())
