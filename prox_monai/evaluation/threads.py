"""CPU threads of torch for a while: the number is the whole process'."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Let torch's operations have so many threads inside the context, and as many as before after it.

    Args:
        count: of threads; as many as before if not given.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
