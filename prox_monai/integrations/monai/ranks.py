"""Processes of a distributed training, of which there is one where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import distributed

_FORWARDED = (ValueError, RuntimeError, OSError)


def distributed_now() -> bool:
    """Whether several processes train together."""
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """Number of this process, 0 for the first."""
    return distributed.get_rank() if distributed_now() else 0


def of_first_rank(work: Callable[[], Any]) -> Any:
    """Let the first process work, and all have its result.

    Raises:
        ValueError, RuntimeError, OSError: In all processes, when the first one's work does.
    """
    if not distributed_now():
        return work()
    outcome: list[Any] = [None]
    if rank() == 0:
        try:
            outcome = [work()]
        except _FORWARDED as error:
            outcome = [error]
    distributed.broadcast_object_list(outcome)
    if isinstance(outcome[0], _FORWARDED):
        raise outcome[0]
    return outcome[0]


def from_all_ranks(values: list[Any]) -> list[Any]:
    """Return the values of all processes, those of the first one first."""
    if not distributed_now():
        return values
    gathered: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(gathered, values)
    return [value for of_one in gathered for value in of_one]
