"""The command that takes a trained family to a device: measure, search, export, report."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

from prox_monai.commands.arguments import MODEL_EXAMPLE, at_least_one, fraction, model_arguments
from prox_monai.commands.command import Command, extra
from prox_monai.commands.search import limit_arguments, quiet_optuna, subnet_latency, wanted_of
from prox_monai.export.formats import MAX_DICE_DROP, RUNTIMES


def _deploy(arguments: argparse.Namespace) -> int:
    with extra("nnunet"):
        from prox_monai.integrations.nnunet.device import REPORT, SEARCH, subnet_for_device
        from prox_monai.integrations.nnunet.trained import load_trained
        from prox_monai.search.table import rows_table

    if arguments.force and not arguments.latency_table:
        raise ValueError("--force only says how to take a latency table: give --latency-table, too.")
    quiet_optuna()
    model, wanted = load_trained(arguments.model, arguments.fold), wanted_of(arguments)
    made = subnet_for_device(
        model,
        wanted,
        arguments.output,
        os.environ,
        runtime=arguments.runtime,
        threads=arguments.threads,
        latency=subnet_latency(arguments, model) if arguments.latency_table else None,
        max_dice_drop=arguments.max_dice_drop,
    )
    print(rows_table(made.rows, head="Dice, reporting half"))
    exported, largest, planned = made.rows
    best = "The best" if wanted.at_most else "The cheapest"
    print(
        f"{best} within the limits on the tuning half, of {len(made.found.tuning)} subnets that were scored. Dice of "
        f"the largest given up: {largest['dice'] - exported['dice']:+.4f}; "
        f"{planned['latency_ms'] / exported['latency_ms']:.1f} times as fast as nnU-Net's planned network in "
        f"{arguments.runtime}, threads: {arguments.threads}."
    )
    print(f"In {arguments.output}: {made.folder.name}, {SEARCH}, {REPORT}. To predict:")
    print(f"  prox-monai predict {shlex.quote(str(made.folder))} -i IMAGES -o PREDICTIONS")
    return 0


def _deploy_arguments(parser: argparse.ArgumentParser) -> None:
    model_arguments(parser)
    help = "of all results; what it holds is not done again"
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help=help)
    help = "in which it will run, of %(choices)s; default: %(default)s"
    parser.add_argument("--runtime", choices=RUNTIMES, default="openvino-int8", metavar="NAME", help=help)
    parser.add_argument("--threads", type=at_least_one, default=1, metavar="N", help="of it, default: %(default)s")
    limit_arguments(parser)
    help = "of prox-monai latency, from the device itself; without it this device is measured where latency is limited"
    parser.add_argument("--latency-table", metavar="FILE", help=help)
    help = "use a table of another device or version as it is"
    parser.add_argument("--force", action="store_true", help=help)
    help = "refuse an exported form that costs more mean Dice on the tuning half, default: %(default)s"
    parser.add_argument("--max-dice-drop", type=fraction, default=MAX_DICE_DROP, metavar="DICE", help=help)


COMMANDS = (
    Command(
        "deploy",
        "from limits to the best subnet as a file for a device: latency, search, export and report in one",
        _deploy,
        _deploy_arguments,
        examples=f"prox-monai deploy {MODEL_EXAMPLE} --max-latency-ms 10 --output laptop\n"
        f"prox-monai deploy {MODEL_EXAMPLE} --runtime onnxruntime --max-memory-mb 50 --max-params 1e6 --output box",
    ),
)
