"""Plan data sets in the Decathlon layout with nnU-Net itself: ``python nnunet_plans.py WORK FOLDER ...`` prints JSON.

A process of its own: nnU-Net reads where its folders are when it is imported.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import sys
from multiprocessing.pool import ThreadPool
from pathlib import Path


def main(work: Path, folders: list[Path]) -> None:
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(work / name)
        (work / name).mkdir(parents=True, exist_ok=True)
    os.environ["nnUNet_n_proc_DA"] = os.environ["nnUNet_def_n_proc"] = "1"
    spawn = type(multiprocessing.get_context("spawn"))
    spawn.Pool = lambda context, *arguments, **options: ThreadPool(*arguments, **options)
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    from prox_monai.data import read_decathlon, to_nnunet_raw

    plans = {}
    with contextlib.redirect_stdout(sys.stderr):
        for number, folder in enumerate(folders, 1):
            name = to_nnunet_raw(read_decathlon(folder), work / "raw", number).name
            api.extract_fingerprints([number], num_processes=1, show_progress_bar=False)
            api.plan_experiments([number])
            plans[folder.name] = json.loads((work / "preprocessed" / name / "nnUNetPlans.json").read_text())
    sys.stdout.write(json.dumps(plans))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(folder) for folder in sys.argv[2:]])
