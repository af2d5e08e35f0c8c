"""Two processes on one search and on one table, one of them killed in the middle: is a row lost, or doubled?

    python benchmarks/two_processes.py --model MODEL_FOLDER --fold 3

Two processes of `prox-monai search`, a thread each, work in one folder on the unseen cases of a trained model; then two
of `prox-monai evaluate --no-latency` on one table. When half of the rows are there one process is killed as a machine
kills it that goes down (SIGKILL), and the other one is to finish alone. Needs nnU-Net's variable nnUNet_preprocessed;
results go to benchmarks/results/two_processes.json and into benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import update_readme
from comparison.command import run
from comparison.summary import write_json
from comparison.workplace import environment

from prox_monai.evaluation.table import read_lines
from prox_monai.integrations.nnunet.trained import TrainedModel, load_trained
from prox_monai.search.sampling import random_subnets

RESULTS = Path(__file__).parent / "results"
SHARE = 0.1  # of the largest's multiply-adds that a subnet of the search may have
PROX_MONAI = (sys.executable, "-c", "from prox_monai.cli import main; raise SystemExit(main())")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
POLL_SECONDS = 0.2


def main(argv: Sequence[str] | None = None) -> int:
    """Run both pairs, write what was seen; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder that ProXTrainer trained")
    parser.add_argument("--fold", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--trials", type=int, default=400, help="of the search, default: %(default)s")
    parser.add_argument("--subnets", type=int, default=60, help="of the table, default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("runs", "two_processes"), help="default: %(default)s")
    return run(measure, parser, argv)


def measure(arguments: argparse.Namespace) -> None:
    """Run both pairs in a new folder, write the result."""
    model = load_trained(arguments.model, arguments.fold)
    arguments.output.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=arguments.output))
    result = {
        "command": f"python benchmarks/two_processes.py --model MODEL_FOLDER --fold {arguments.fold} --trials "
        f"{arguments.trials} --subnets {arguments.subnets}",
        "model": model.digest,
        "space_size": model.space.size(),
        "search": searched(model, arguments.trials, folder / "search"),
        "table": tabulated(model, arguments.subnets, folder / "rows.jsonl"),
        "machine": environment(),
    }
    write_json(result, RESULTS / "two_processes.json")
    update_readme.write_readme()
    for what in ("search", "table"):
        print(what, ", ".join(f"{name}: {value}" for name, value in result[what].items()))


def searched(model: TrainedModel, trials: int, folder: Path) -> dict[str, Any]:
    """Search with two processes, one of which dies; returns what became of the rows.

    Args:
        model: the trained model.
        trials: number of subnets to try.
        folder: of the search.
    """
    costs = model.multiply_adds()
    limit = SHARE * costs(model.space.largest())
    options = ("--max-macs", f"{limit:.0f}", "--trials", str(trials), "--output", str(folder))
    seen = one_dies([*_command(model, "search"), *options], folder / "tuning.jsonl", trials // 2)
    front = read_lines(folder / "reporting.jsonl")
    return {**seen, "front": len(front), "front_doubled": _doubled(front)}


def tabulated(model: TrainedModel, subnets: int, table: Path) -> dict[str, Any]:
    """Evaluate with two processes, one of which dies; returns what became of the rows, ``missing`` those asked for."""
    names = [config.name for config in random_subnets(model.space, subnets, seed=1)]
    options = ("--subnets", *names, "--no-latency", "--half", "tuning", "--output", str(table))
    seen = one_dies([*_command(model, "evaluate"), *options], table, subnets // 2)
    return {**seen, "missing": len(set(names) - {row["name"] for row in read_lines(table)})}


def one_dies(command: Sequence[str], table: Path, at: int) -> dict[str, Any]:
    """Run a command twice at once, kill one of the two; returns what became of the rows that both write.

    Args:
        command: that another process may run as well.
        table: of rows, each with a ``key``.
        at: number of rows at which the first process is killed.

    Raises:
        RuntimeError: When a process ends in an error, or before there is anything to kill.
    """
    start = time.perf_counter()
    log = Path(f"{table.parent}.log")
    with log.open("w") as output:
        processes = [
            subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **ONE_THREAD}) for _ in range(2)
        ]
        try:
            before = _killed(processes[0], table, at)
            code = processes[1].wait()
        finally:
            for process in processes:
                process.kill()
                process.wait()
    if code:
        raise RuntimeError(f"the process that was left ended with {code}, see {log}.")
    rows = read_lines(table)
    return {
        "rows": len(rows),
        "killed_at": len(before),
        "lost": len(before - {row["key"] for row in rows}),
        "doubled": _doubled(rows),
        "seconds": time.perf_counter() - start,
    }


def _killed(process: subprocess.Popen, table: Path, at: int) -> set[str]:
    """Kill a process when a table has so many rows; returns their keys."""
    while _ended_lines(table) < at:
        if process.poll() is not None:
            raise RuntimeError(f"a process ended at {_ended_lines(table)} rows, before {at} of {table} were there.")
        time.sleep(POLL_SECONDS)
    process.kill()
    process.wait()
    return {json.loads(line)["key"] for line in table.read_bytes().split(b"\n")[: _ended_lines(table)]}


def _ended_lines(table: Path) -> int:
    return table.read_bytes().count(b"\n") if table.exists() else 0


def _doubled(rows: Sequence[dict[str, Any]]) -> int:
    return len(rows) - len({row["key"] for row in rows})


def _command(model: TrainedModel, name: str) -> tuple[str, ...]:
    return (*PROX_MONAI, name, str(model.folder), "--fold", str(model.fold))


if __name__ == "__main__":
    sys.exit(main())
