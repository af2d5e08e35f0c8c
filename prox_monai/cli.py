"""The command ``prox-monai``: a table of sub-commands; each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prox_monai import __version__

EXAMPLES = """examples:
  export nnUNet_extTrainer="$(prox-monai nnunet-path)"   let nnU-Net find ProXTrainer
  prox-monai doctor                                      what this installation lacks
"""


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


def _nnunet_path(arguments: argparse.Namespace) -> int:
    from prox_monai.plugin_files import plugin_folder

    print(plugin_folder("nnunet"))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from prox_monai.doctor import Environment, Level, examine, table

    findings = examine(Environment.current())
    print(table(findings))
    return int(any(finding.level is Level.FAIL for finding in findings))


COMMANDS = (
    Command(
        "nnunet-path",
        "print the folder that nnUNet_extTrainer must name",
        _nnunet_path,
        examples='export nnUNet_extTrainer="$(prox-monai nnunet-path)"\n'
        "nnUNetv2_train 4 3d_fullres 0 -tr ProXTrainer",
    ),
    Command(
        "doctor",
        "check versions, variables, folders and GPU for nnU-Net; exit code 1 if something fails",
        _doctor,
        examples="prox-monai doctor",
    ),
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
        The exit code: the sub-command's own, or 2 after an error, which is one line on stderr.
    """
    arguments = build_parser(commands).parse_args(argv)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("prox_monai").setLevel(logging.INFO)
    try:
        return arguments.run(arguments)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if arguments.debug:
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"prox-monai: error: {message}", file=sys.stderr)
        return 2


def _indented(lines: str) -> str:
    return "\n".join(f"  {line}" for line in lines.splitlines())
