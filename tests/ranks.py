"""Two processes that train together: a test file starts itself as a script, once per rank."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

RANKS = 2


def run_ranks(script: str | Path, folder: Path) -> list[Any]:
    """Run a script as ``python script RANK FOLDER`` once per rank; return what each saved as ``RANK.pth``.

    The first that fails ends the others.
    """
    tests = Path(__file__).parent
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (tests.parent, tests))),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen([sys.executable, str(script), str(rank), str(folder)], env=environment)
        for rank in range(RANKS)
    ]
    try:
        while not any(codes := [process.poll() for process in processes]) and None in codes:
            time.sleep(0.1)
        assert codes == [0] * RANKS
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [torch.load(folder / f"{rank}.pth", weights_only=True) for rank in range(RANKS)]


def join(rank: int, folder: Path) -> None:
    """Join the other ranks of a script, with one thread."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", f"file://{folder}/store", rank=rank, world_size=RANKS, timeout=timedelta(seconds=60)
    )
