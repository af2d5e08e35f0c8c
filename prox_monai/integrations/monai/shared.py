"""The subnets that an evaluator still has to run, where other processes may work on the same table."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

from prox_monai.evaluation.table import claim
from prox_monai.integrations.monai.choice import Named

_POLL_SECONDS = 0.5


class SharedSubnets:
    """Hands out subnets one after the other, none that has a row or that another process is running.

    A process that dies gives up what it was running: it is handed out here then.

    Args:
        named: name and configuration of each, by canonical name.
        done: returns the canonical names that have rows by now.
        table: that of the rows; None where nobody else works on it.
        purpose: what the rows are of: a subnet may be run for two purposes at once.
    """

    def __init__(
        self, named: Mapping[str, Named], done: Callable[[], Container[str]], table: Path | None, purpose: str
    ) -> None:
        self._waiting, self._done = dict(named), done
        self._table, self._purpose = table, purpose
        self._claims = ExitStack()

    def __len__(self) -> int:
        """Number of subnets that are not known to be done."""
        return len(self._waiting)

    def take(self) -> Named | None:
        """Claim the next subnet, if need be when another process has died; None when all have rows."""
        while self._waiting:
            for key in list(self._waiting):
                ours = self._claims.enter_context(self._claim(key))
                done = key in self._done()  # the row may have come just before the claim
                if done or ours:
                    named = self._waiting.pop(key)
                if ours and not done:
                    return named
                self.release()
            if self._waiting:
                time.sleep(_POLL_SECONDS)
        return None

    def release(self) -> None:
        """Give up the claim of the subnet that was taken."""
        self._claims.close()

    def _claim(self, key: str) -> AbstractContextManager[bool]:
        return nullcontext(True) if self._table is None else claim(self._table, f"{key} {self._purpose}")
