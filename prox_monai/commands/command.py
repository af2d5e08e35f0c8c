"""A sub-command as a value, and what several of them share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SUBNET = "for example d2.2.1-w.5-k3-r1, or smallest, middle, largest"


@dataclass(frozen=True, slots=True)
class Command:
    """One sub-command.

    Args:
        name: what is typed: one word, or a group and a word, as in ``"export nnunet"``.
        help: one line for the list; the long help adds ``examples``.
        run: does the work and returns the exit code.
        add_arguments: declares the arguments that ``run`` reads.
        examples: command lines for ``--help``, one a line.
    """

    name: str
    help: str
    run: Callable[[argparse.Namespace], int]
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    examples: str = ""


def device_argument(parser: argparse.ArgumentParser) -> None:
    """Declare ``--device``."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: %(default)s")


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Imports that need an extra of the package."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(f'{error}; this needs an extra: pip install "prox-monai[{name}]"') from error
