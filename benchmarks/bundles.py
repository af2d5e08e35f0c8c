"""The segmentation bundles with their quick settings on real data: train, then evaluate subnets on unseen cases.

    python benchmarks/bundles.py --data DIR                       both; DIR holds Task04_Hippocampus and Task01_...
    python benchmarks/bundles.py --data DIR --bundles hippocampus
    make bench-bundles DATA=DIR

Each step is a command of MONAI, as the bundle's docs/README.md has it, in a copy of the bundle in the output folder. A
bundle that is trained is not trained again, a training that was broken off goes on, rows that are there are not made
again. Results go to benchmarks/results/bundles.json and into README.md. Few cases of the brain tumour data are there:
with fewer than ten, all train (--fold all), and Dice says how well they are fitted, nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import update_readme
from comparison.summary import write_json
from comparison.workplace import environment

from prox_monai.data import read_decathlon
from prox_monai.evaluation.multiply_adds import ALIASES
from prox_monai.evaluation.subnets import read_rows
from prox_monai.plugin_files import copy_bundle

BUNDLES = {"hippocampus": "hippocampus_mri_prox_segmentation", "brats": "brats_mri_prox_segmentation"}
TASKS = {"hippocampus": "Task04_Hippocampus*", "brats": "Task01_BrainTumour*"}
RESULTS = Path(__file__).parent / "results" / "bundles.json"
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
        found = sorted(arguments.data.glob(TASKS[name]))
        if not found:
            print(f"error: {arguments.data} holds no {TASKS[name]}", file=sys.stderr)
            return 2
        results[name] = measure(name, found[0], arguments.output.absolute() / name, arguments.per_bucket)
        write_json(results, RESULTS)
        update_readme.write_readme()
        print(f"{name}: written to {RESULTS}")
    return 0


def measure(name: str, data: Path, folder: Path, per_bucket: int) -> dict[str, Any]:
    """Train and evaluate one bundle; returns its result.

    Args:
        name: of ``BUNDLES``.
        data: its data set.
        folder: where it is copied to.
        per_bucket: random subnets per latency bucket.
    """
    cases = len(read_decathlon(data).cases)
    options = ["--dataset_dir", str(data.absolute()), *(["--fold", "all"] if cases < _FEW else [])]
    if not folder.exists():
        copy_bundle(BUNDLES[name], folder)
    seconds = folder / "seconds.json"
    if not seconds.exists():
        resumed = any(folder.glob("models/training/*.pt"))
        begun = time.perf_counter()
        run(folder, ["train", "quick"], [*options, *(["--resume", "true"] if resumed else [])])
        spent = None if resumed else time.perf_counter() - begun
        seconds.write_text(json.dumps(spent), encoding="utf-8")
    run(folder, ["train", "quick", "evaluate"], [*options, "--per_bucket", str(per_bucket)])
    rows = read_rows(folder / "eval" / "subnets.jsonl")
    drawn = [row["score"] for row in rows if row["name"] not in ALIASES]
    keep = ("key", "parameters", "macs", "latency_ms", "score", "per_class")
    return {
        "data": data.name,
        "cases": {"all": cases, "measured": rows[0]["cases"], "unseen": cases >= _FEW},
        "train_seconds": json.loads(seconds.read_text(encoding="utf-8")),
        "named": {row["name"]: {key: row[key] for key in keep} for row in rows if row["name"] in ALIASES},
        "random": {"subnets": len(drawn), "mean": statistics.fmean(drawn), "min": min(drawn), "max": max(drawn)},
        "machine": {**rows[0]["latency"], **environment(), "threads": torch.get_num_threads()},
    }


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
