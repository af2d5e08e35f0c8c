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
        while self._drop_done():
            for key in list(self._waiting):
                if not self._claims.enter_context(self._claim(key)):
                    self.release()
                elif key in self._drop_done():  # the row may have come just before the claim
                    return self._waiting.pop(key)
                else:
                    self.release()
            if self._waiting:
                time.sleep(_POLL_SECONDS)
        return None

    def _drop_done(self) -> Mapping[str, Named]:
        """Forget what has a row by now; returns the rest."""
        done = self._done()
        self._waiting = {key: named for key, named in self._waiting.items() if key not in done}
        return self._waiting

    def release(self) -> None:
        """Give up the claim of the subnet that was taken."""
        self._claims.close()

    def _claim(self, key: str) -> AbstractContextManager[bool]:
        return nullcontext(True) if self._table is None else claim(self._table, f"{key} {self._purpose}")
