"""Arguments that several commands for trained models have."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

MODEL_EXAMPLE = "$nnUNet_results/Dataset004_Hippocampus/ProXTrainer__nnUNetPlans__3d_fullres"


def model_arguments(parser: argparse.ArgumentParser, *, several_folds: bool = False) -> None:
    """Declare ``model`` and ``--fold``."""
    parser.add_argument("model", metavar="MODEL_FOLDER", help="nnU-Net's folder <trainer>__<plans>__<configuration>")
    if several_folds:
        parser.add_argument("--fold", nargs="+", default=[0], type=fold, help="one or more, default: 0")
    else:
        parser.add_argument("--fold", default=0, type=fold, help="default: %(default)s")


def fold(text: str) -> int | str:
    """Read a fold: ``all``, or its number."""
    return text if text == "all" else count(text, "all, or ")


def count(text: str, other: str = "") -> int:
    """Read an integer from 0.

    Raises:
        argparse.ArgumentTypeError: When it is none.
    """
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be {other}an integer >= 0, got {text!r}.")
    return int(text)


def at_least_one(text: str) -> int:
    """Read an integer from 1.

    Raises:
        argparse.ArgumentTypeError: When it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {text!r}.")
    return int(text)


def fraction(text: str) -> float:
    """Read a number in [0, 1].

    Raises:
        argparse.ArgumentTypeError: When it is none.
    """
    return _number(text, "in [0, 1]", lambda value: 0 <= value <= 1)


def positive(text: str) -> float:
    """Read a number above 0, ``1e6`` for example.

    Raises:
        argparse.ArgumentTypeError: When it is none.
    """
    return _number(text, "> 0", lambda value: 0 < value < math.inf)


def _number(text: str, allowed: str, fits: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan  # fits nowhere
    if not fits(value):
        raise argparse.ArgumentTypeError(f"must be a number {allowed}, got {text!r}.")
    return value
