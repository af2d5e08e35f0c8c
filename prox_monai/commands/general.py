"""Commands that belong to no host: what is installed, the whole way in minutes."""

from __future__ import annotations

import argparse

from prox_monai.commands.command import Command, device_argument, extra


def _doctor(arguments: argparse.Namespace) -> int:
    from prox_monai.doctor import Environment, Level, examine, table

    findings = examine(Environment.current())
    print(table(findings))
    return int(any(finding.level is Level.FAIL for finding in findings))


def _demo(arguments: argparse.Namespace) -> int:
    with extra("nnunet"):
        from prox_monai.demo import run_demo

    print(run_demo(arguments.data, arguments.output, arguments.device))
    return 0


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="FOLDER|download", help="Decathlon layout; synthetic if not given")
    parser.add_argument(
        "--output", metavar="FOLDER", help="default: runs/demo; a demo on other data there is moved to runs/demo-1"
    )
    device_argument(parser)


COMMANDS = (
    Command(
        "doctor",
        "check versions, variables, folders and GPU for nnU-Net; exit code 1 if something fails",
        _doctor,
        examples="prox-monai doctor",
    ),
    Command(
        "demo",
        "prepare data, train a small family, evaluate it, deploy three subnets, predict with one",
        _demo,
        _demo_arguments,
        examples="prox-monai demo\nprox-monai demo --data Task04_Hippocampus --output runs/hippocampus",
    ),
)
