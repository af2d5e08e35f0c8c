"""The command ``prox-monai``: a table of sub-commands."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from prox_monai import __version__
from prox_monai.commands import deploy, export, general, monai, nnunet, predict, report, search
from prox_monai.commands.command import Command
from prox_monai.commands.interruption import terminable

EXAMPLES = """examples:
  export nnUNet_extTrainer="$(prox-monai nnunet-path)"   let nnU-Net find ProXTrainer
  prox-monai doctor                                      what this installation lacks
  prox-monai demo --data Task04_Hippocampus              the whole way, on real data, in minutes
  prox-monai deploy MODEL_FOLDER --max-latency-ms 10 --output laptop   a trained family's best subnet for this device
"""

COMMANDS: tuple[Command, ...] = tuple(
    command
    for module in (general, nnunet, deploy, search, export, predict, report, monai)
    for command in module.COMMANDS
)


def build_parser(commands: Sequence[Command] = COMMANDS) -> argparse.ArgumentParser:
    """Make the parser of the whole command line; ``run`` of what it parses is the sub-command's function."""
    parser = argparse.ArgumentParser(
        prog="prox-monai",
        description="Elastic segmentation networks by progressive expansion.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    groups = {"": parser.add_subparsers(required=True, metavar="COMMAND")}
    for command in commands:
        group, _, name = command.name.rpartition(" ")
        if group not in groups:
            above = groups[""].add_parser(group, help=f"a group: see prox-monai {group} --help")
            groups[group] = above.add_subparsers(required=True, metavar="COMMAND")
        leaf = groups[group].add_parser(
            name,
            help=command.help,
            description=command.help,
            epilog=f"examples:\n{_indented(command.examples)}" if command.examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(leaf)
        leaf.set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None, commands: Sequence[Command] = COMMANDS) -> int:
    """Run one sub-command.

    Args:
        argv: arguments after the program's name; those of the process if not given.
        commands: what can be run.

    Returns:
        The exit code: the sub-command's own, 2 after an error, which is one line on stderr, 130 when interrupted
        or asked to end.
    """
    arguments = build_parser(commands).parse_args(argv)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("prox_monai").setLevel(logging.INFO)
    try:
        with terminable():
            return arguments.run(arguments)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from what is done, or begins anew", file=sys.stderr)
        return 130
    except (ValueError, FloatingPointError, OSError, RuntimeError, ImportError) as error:
        if arguments.debug:
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"prox-monai: error: {message}", file=sys.stderr)
        return 2


def _indented(lines: str) -> str:
    return "\n".join(f"  {line}" for line in lines.splitlines())
