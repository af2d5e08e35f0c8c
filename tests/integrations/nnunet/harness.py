"""Trainings in processes that die: ``python harness.py JOB.json``, not collected by pytest.

A job is a list of chains, which run side by side; a chain is a list of runs, one after the other. Each run is forked
from this process, which has imported nnU-Net once, and is written back with the exit codes of its ranks.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as base_module
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from prox_monai.integrations.nnunet.trainer import ProXTrainer

RANK_TIMEOUT = 60  # seconds until a rank that should have ended is killed


def run(job: dict[str, Any]) -> list[int]:
    """Run one training in a process per rank; returns their exit codes, negative for signals."""
    ranks = [fork(functools.partial(train, job, rank)) for rank in range(job.get("ranks", 1))]
    deadline = time.monotonic() + RANK_TIMEOUT if job.get("dies") and len(ranks) > 1 else float("inf")
    codes: dict[int, int] = {}
    while len(codes) < len(ranks):
        for pid in set(ranks) - set(codes):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
                end_group(pid)
            elif time.monotonic() > deadline:
                os.killpg(pid, signal.SIGKILL)
        time.sleep(0.02)
    return [codes[pid] for pid in ranks]


def fork(work) -> int:
    """Fork a process, leader of its own group, that does ``work`` and exits."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def end_group(pid: int) -> None:
    """End what a killed training left behind: its worker processes."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def train(job: dict[str, Any], rank: int) -> None:
    """Train without the final validation, as ``nnUNetv2_train [--c]`` does."""
    os.environ |= job["environment"]
    torch.set_num_threads(1)
    record(Path(job["record"].format(rank=rank)), job.get("dies") if rank == job.get("ranks", 1) - 1 else None)
    if "ranks" in job:
        distributed.init_process_group(
            "gloo", init_method=f"file://{job['rendezvous']}", rank=rank, world_size=job["ranks"]
        )
        as_rank_on_cpu()
    continued = job.get("continued", False)
    trainer = get_trainer_from_args(
        job["dataset"],
        job["configuration"],
        0,
        "ProXTrainer",
        continue_training=continued,
        device=torch.device("cpu"),
    )
    maybe_load_checkpoint(trainer, continued, False, None)
    trainer.run_training()


def record(path: Path, dies: list[int] | None) -> None:
    """Write each step's subnet and weights down; die in the middle of the step ``dies``, before the optimizer's."""
    original = ProXTrainer.train_step

    def train_step(self: ProXTrainer, batch: dict) -> dict:
        place = [self.current_epoch, self._step]
        if place == dies:
            self.optimizer.step = lambda: os.kill(os.getpid(), signal.SIGKILL)
        output = original(self, batch)
        digest = hashlib.sha256()
        for parameter in self.supernet.parameters():
            digest.update(parameter.detach().numpy().tobytes())
        with path.open("a") as file:
            row = {"place": place, "subnet": str(self.supernet.active), "weights": digest.hexdigest()}
            file.write(json.dumps(row) + "\n")
        return output

    ProXTrainer.train_step = train_step


def as_rank_on_cpu() -> None:
    """nnU-Net's path for several GPUs, without them."""
    original = ProXTrainer.__init__

    @functools.wraps(original)
    def initialise(self, *args, **kwargs) -> None:
        original(self, *args, **kwargs)
        self.device, self.grad_scaler = torch.device("cpu"), None

    ProXTrainer.__init__ = initialise
    base_module.DDP = lambda network, device_ids: DistributedDataParallel(network)


def chain(runs: list[dict[str, Any]], report: Path) -> None:
    report.write_text(json.dumps([run(job) for job in runs]))


def main(path: Path) -> None:
    recursive_find_trainer_class_by_name("ProXTrainer")
    chains = json.loads(path.read_text())
    reports = [path.with_name(f"report_{i}.json") for i in range(len(chains))]
    pids = [fork(functools.partial(chain, *pair)) for pair in zip(chains, reports, strict=True)]
    for pid in pids:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
