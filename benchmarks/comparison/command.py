"""What the commands of the benchmarks share."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from prox_monai.commands.interruption import terminable

BENCHMARKS = Path(__file__).parents[1]


def parser_of(description: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments that all commands have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="download", help="a folder in the Decathlon layout, or download")
    parser.add_argument("--settings", type=Path, default=BENCHMARKS / "paper.yaml")
    parser.add_argument("--output", type=Path, help="default: runs/bench; with --full runs/bench_full")
    parser.add_argument("--full", action="store_true", help="the size for a GPU")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.set_defaults(half="reporting")
    return parser


def run(work: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    """Parse and work; returns the exit code: 2 after an error, which is one line, 130 when interrupted."""
    arguments = parser.parse_args(argv)
    if arguments.output is None:
        kind = f"{'_full' * arguments.full}{'_tuning' * (arguments.half == 'tuning')}"
        arguments.output = Path("runs", f"bench{kind}")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("prox_monai").setLevel(logging.INFO)
    try:
        with terminable():
            work(arguments)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
