"""The command that writes what a run found as a page."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from prox_monai.commands.arguments import at_least_one, model_arguments
from prox_monai.commands.command import SUBNET, Command, extra


def _report(arguments: argparse.Namespace) -> int:
    with extra("nnunet"):
        from prox_monai.integrations.nnunet.report import Wanted, write_report
        from prox_monai.integrations.nnunet.trained import load_trained

    output = Path(arguments.output)
    if output.exists() and not arguments.overwrite:
        raise FileExistsError(f"{output} exists; give another --output, or --overwrite.")
    wanted = Wanted(
        tuple(arguments.rows),
        tuple(arguments.subnets),
        arguments.front,
        tuple(arguments.exported),
        arguments.stock,
        arguments.buckets,
    )
    write_report(load_trained(arguments.model, arguments.fold), wanted, output, os.environ)
    print(f"{output} holds the report; any browser shows it, without a network.")
    return 0


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    model_arguments(parser)
    parser.add_argument(
        "--rows",
        nargs="+",
        type=Path,
        required=True,
        metavar="FILE",
        help="tables of evaluate, or reporting.jsonl of search",
    )
    parser.add_argument(
        "--subnets",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"to draw, the first also predicts cases: {SUBNET}; default: the best, the fastest, those with an alias",
    )
    parser.add_argument("--front", type=Path, metavar="FILE", help="front.json of a search")
    help = "of prox-monai export"
    parser.add_argument("--exported", nargs="+", default=[], type=Path, metavar="FOLDER", help=help)
    help = "fold that nnU-Net's own trainer trained, to compare with: .../nnUNetTrainer__nnUNetPlans__3d_fullres/fold_0"
    parser.add_argument("--stock", type=Path, metavar="FOLDER", help=help)
    parser.add_argument("--buckets", type=at_least_one, default=5, metavar="N", help="of latency, default: %(default)s")
    parser.add_argument("--output", default="report.html", metavar="FILE", help="default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it is there")


COMMANDS = (
    Command(
        "report",
        "write tables and pictures of a trained family as one HTML page",
        _report,
        _report_arguments,
        examples="prox-monai report MODEL_FOLDER --rows subnets.jsonl --output report.html\n"
        "prox-monai report MODEL_FOLDER --rows found/reporting.jsonl --front found/front.json --exported device\n"
        "prox-monai report MODEL_FOLDER --rows subnets.jsonl --subnets d1-w.5-k3-r1 --stock STOCK_FOLDER/fold_0",
    ),
)
