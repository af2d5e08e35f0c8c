"""The bundles with their quick settings on real data: train, search, evaluate on unseen cases, predict, export.

    python benchmarks/bundles.py --data DIR                       all; DIR holds Task04_Hippocampus, Task01_..., oct...
    python benchmarks/bundles.py --data DIR --bundles hippocampus
    make bench-bundles DATA=DIR

Each step is a command of the bundle's docs/README.md, in a copy of the bundle in the output folder; predicted are all
images, by the smallest subnet and by the best within the median latency of those known, and what is written is checked
against them. The largest subnet predicts them too, in the bundle and as the bundle that is exported of it, which must
agree. A step that is done is not done again, a training that was broken off goes on. Results go to
benchmarks/results/bundles.json and into benchmarks/RESULTS.md. Few cases of the brain tumour data are there: with fewer
than ten, all train (--fold all), and Dice says how well they are fitted, nothing else.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import update_readme
from comparison.summary import write_json
from comparison.workplace import environment

from prox_monai.data import read_decathlon
from prox_monai.evaluation.multiply_adds import ALIASES
from prox_monai.evaluation.subnets import read_rows
from prox_monai.integrations.monai import images_of
from prox_monai.plugin_files import copy_bundle

BUNDLES = {
    "hippocampus": "hippocampus_mri_prox_segmentation",
    "brats": "brats_mri_prox_segmentation",
    "retinal": "retinal_oct_prox_classification",
}
DATA = {"hippocampus": "Task04_Hippocampus*", "brats": "Task01_BrainTumour*", "retinal": "oct*"}
RESULTS = Path(__file__).parent / "results" / "bundles.json"
CSV = "predictions.csv"
SAME_VOXELS, SAME_PROBABILITY = 1e-3, 1e-4  # an image's voxels; the order of sums is the runtime's own
_FEW = 10  # cases: five folds with a tuning and a reporting half


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the tasks")
    parser.add_argument("--bundles", nargs="+", choices=BUNDLES, default=list(BUNDLES))
    parser.add_argument("--output", type=Path, default=Path("runs", "bundles"))
    parser.add_argument("--per-bucket", type=int, default=6, help="random subnets in each of five latency buckets")
    arguments = parser.parse_args(argv)
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name in arguments.bundles:
        found = sorted(arguments.data.glob(DATA[name]))
        if not found:
            print(f"error: {arguments.data} holds no {DATA[name]}", file=sys.stderr)
            return 2
        results[name] = measure(name, found[0], arguments.output.absolute() / name, arguments.per_bucket)
        write_json(results, RESULTS)
        update_readme.write_readme()
        print(f"{name}: written to {RESULTS}")
    return 0


def measure(name: str, data: Path, folder: Path, per_bucket: int) -> dict[str, Any]:
    """Train, search, evaluate, predict and export one bundle; returns its result.

    Args:
        name: of ``BUNDLES``.
        data: its data set.
        folder: where it is copied to.
        per_bucket: random subnets per latency bucket.
    """
    few = name != "retinal" and len(read_decathlon(data).cases) < _FEW
    options = ["--dataset_dir", str(data.absolute()), *(["--fold", "all"] if few else [])]
    sampled = [*options, "--per_bucket", str(per_bucket)]
    if not folder.exists():
        copy_bundle(BUNDLES[name], folder)
    steps = Steps(folder)
    resumed = ["--resume", "true"] if any(folder.glob("models/training/*.pt")) else []
    steps("train", lambda: run(folder, ["train", "quick"], [*options, *resumed]), timed=not resumed)
    steps("search", lambda: run(folder, ["train", "quick", "search"], sampled))
    steps("evaluate", lambda: run(folder, ["train", "quick", "evaluate"], sampled))
    rows = read_rows(folder / "eval" / "subnets.jsonl")
    drawn = [row["score"] for row in rows if row["name"] not in ALIASES]
    keep = ("key", "parameters", "macs", "latency_ms", "score", "per_class", "metrics")
    return {
        "data": data.name,
        "cases": {"measured": rows[0]["cases"], "unseen": not few},
        "classes": class_names(folder),
        "named": {row["name"]: {key: row[key] for key in keep} for row in rows if row["name"] in ALIASES},
        "random": {"subnets": len(drawn), "mean": statistics.fmean(drawn), "min": min(drawn), "max": max(drawn)},
        "predicted": predict(steps, data),
        "seconds": steps.seconds,
        "machine": {**rows[0]["latency"], **environment(), "threads": torch.get_num_threads()},
    }


def class_names(folder: Path) -> list[str]:
    """Return what the bundle's metadata call the channels that it predicts."""
    metadata = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    return list(metadata["network_data_format"]["outputs"]["pred"]["channel_def"].values())


class Steps:
    """The steps of a bundle, with their seconds; what is done is not done again.

    Args:
        folder: the copy of the bundle.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "seconds.json"
        self.seconds: dict[str, float | None] = {}
        if self._path.exists():
            self.seconds = json.loads(self._path.read_text(encoding="utf-8"))

    def __call__(self, name: str, work: Callable[[], None], *, timed: bool = True) -> None:
        """Do a step; of one that was broken off before nobody knows what it took in all."""
        if name in self.seconds:
            return
        begun = time.perf_counter()
        work()
        self.seconds[name] = time.perf_counter() - begun if timed else None
        self._path.write_text(json.dumps(self.seconds), encoding="utf-8")


def predict(steps: Steps, data: Path) -> dict[str, Any]:
    """Predict all images by name and within a budget, export a subnet and predict with it; returns what was written.

    Raises:
        ValueError: When an image has no prediction, one of another geometry, or what is exported predicts otherwise.
    """
    folder = steps.folder
    known = read_rows(folder / "models" / "subnets.jsonl")
    budget = statistics.median(row["latency_ms"] for row in known)
    asked = {name: ["--subnet", name] for name in ("smallest", "largest")} | {
        "within": ["--max_latency_ms", str(budget)]
    }
    for name, chosen in asked.items():
        options = _images_to(data, folder / "eval" / name) + chosen
        steps(f"predict, {name}", lambda options=options: run(folder, ["inference", "quick"], options))
    steps("export", lambda: export(folder))
    options = _images_to(data, folder / "eval" / "exported")
    steps("predict, exported", lambda: run(folder / "exported", ["inference"], options))
    written = {name: _written(data, folder / "eval" / name) for name in asked}
    compare = _difference if (folder / "eval" / "largest" / CSV).exists() else _disagreement
    return {
        "max_latency_ms": budget,
        **written,
        "exported": compare(folder / "eval" / "largest", folder / "eval" / "exported"),
    }


def _images_to(data: Path, output: Path) -> list[str]:
    return ["--dataset_dir", str(data.absolute()), "--output_dir", str(output)]


def _disagreement(ours: Path, theirs: Path) -> dict[str, Any]:
    """The largest share of voxels of an image on which label maps differ.

    Raises:
        ValueError: When it is more than rounding explains.
    """
    shares = []
    for path in ours.glob("*_seg.nii*"):
        pair = (np.asarray(nib.load(folder / path.name).dataobj) for folder in (ours, theirs))
        shares.append(float(np.mean(np.not_equal(*pair))))
    return {"images": len(shares), "voxels_differ": _at_most(max(shares), SAME_VOXELS, theirs)}


def _difference(ours: Path, theirs: Path) -> dict[str, Any]:
    """The largest difference of a probability in the tables of a classifier.

    Raises:
        ValueError: When it is more than rounding explains.
    """
    (_, *lines), theirs_lines = (_read_csv(folder / CSV) for folder in (ours, theirs))
    mine = {file: list(map(float, values[:-1])) for file, *values in lines}  # the class comes last
    plain = {file: list(map(float, values)) for file, *values in theirs_lines}
    gaps = [abs(a - b) for file in mine for a, b in zip(mine[file], plain[file], strict=True)]
    return {"images": len(mine), "probabilities_differ": _at_most(float(np.max(gaps)), SAME_PROBABILITY, theirs)}


def _at_most(found: float, allowed: float, folder: Path) -> float:
    if not found <= allowed:  # nor is it a number
        raise ValueError(f"{folder}: the exported bundle predicts otherwise, by {found:.2g}, allowed is {allowed:g}.")
    return found


def _read_csv(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def _written(data: Path, output: Path) -> dict[str, Any]:
    """How many predictions there are, and of which labels; each is compared with its image."""
    table = output / CSV
    if table.exists():
        _, *rows = _read_csv(table)
        missing = {str(path.absolute()) for path in data.glob("*/*.jpeg")} - {file for file, *_ in rows}
        if missing:
            raise ValueError(f"{table} lacks {len(missing)} images, such as {min(missing)}.")
        return {"images": len(rows), "labels": sorted({values[-1] for values in rows})}
    labels: set[int] = set()
    images = images_of(data)
    for path in map(Path, images):
        image, label = nib.load(path), nib.load(output / path.name.replace(".nii", "_seg.nii"))
        if label.shape != image.shape[:3] or not np.allclose(label.affine, image.affine, atol=1e-4):
            raise ValueError(f"the prediction of {path.name} has another geometry than the image.")
        labels |= set(np.unique(np.asarray(label.dataobj)).astype(int).tolist())
    return {"images": len(images), "labels": sorted(labels)}


def export(folder: Path) -> None:
    """Export the largest subnet as a bundle of its own.

    Raises:
        subprocess.CalledProcessError: When it fails.
    """
    ours = str(Path(sys.executable).with_name("prox-monai"))
    options = ["--subnet", "largest", "--config", str(folder / "configs" / "quick.json")]
    subprocess.run([ours, "export", "bundle", str(folder), *options, "--output", str(folder / "exported")], check=True)


def run(folder: Path, configs: Sequence[str], options: Sequence[str]) -> None:
    """Run a command of MONAI in a bundle's folder; its log goes to the console.

    Raises:
        subprocess.CalledProcessError: When it fails.
    """
    files = str([f"configs/{name}.json" for name in configs])
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", files, *options]
    print("$", *command[1:], flush=True)
    subprocess.run(command, cwd=folder, check=True, env=os.environ)


if __name__ == "__main__":
    sys.exit(main())
