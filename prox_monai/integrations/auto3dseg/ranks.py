"""One process, or several that torchrun started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed


def device_of(rank: int = 0) -> torch.device:
    """Return the device of a process: a GPU of its own as far as there are any, else the CPU."""
    return torch.device(f"cuda:{rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu")


@contextmanager
def training_device() -> Iterator[torch.device]:
    """Yield the device of this process; where torchrun started several, they are a group until the end."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield device_of()
        return
    device = device_of(int(os.environ["LOCAL_RANK"]))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()
