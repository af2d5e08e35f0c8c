"""The command that segments images."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prox_monai.commands.arguments import MODEL_EXAMPLE, at_least_one, fold, positive
from prox_monai.commands.command import SUBNET, Command, extra
from prox_monai.export.description import FILE as DESCRIPTION
from prox_monai.export.formats import RUNTIMES_IN_32_BITS

if TYPE_CHECKING:
    from prox_monai.integrations.nnunet.case_predictor import Predicted


def _predict(arguments: argparse.Namespace) -> int:
    if Path(arguments.model, "configs").is_dir() and not Path(arguments.model, DESCRIPTION).is_file():
        return _predict_by_bundle(arguments)
    if arguments.config:
        raise ValueError(f"--config is of a trained bundle, which has a folder configs; {arguments.model} is none.")
    with extra("nnunet"):
        from tqdm import tqdm

        from prox_monai.integrations.nnunet.choice import Choice
        from prox_monai.integrations.nnunet.predict import prepare_prediction

    choice = Choice(
        subnet=arguments.subnet,
        max_latency_ms=arguments.max_latency_ms,
        budget_s=arguments.budget_s,
        table=arguments.table,
    )
    prediction = prepare_prediction(
        arguments.model,
        arguments.input,
        arguments.output,
        choice=choice,
        fold=arguments.fold,
        runtime=arguments.runtime,
        mirror=arguments.mirroring,
        threads=arguments.threads,
        overwrite=arguments.overwrite,
    )
    print(", ".join(f"{name} {value}" for name, value in prediction.deployed.about.items()))
    cases, before = len(prediction.cases), len(prediction.cases) - len(prediction.todo())
    try:
        print(_table(list(tqdm(prediction.run(), total=cases, desc="cases", disable=None, leave=False))))
    except KeyboardInterrupt:
        print(f"\nstopped; {_after(prediction.output.is_file, arguments.overwrite)}", file=sys.stderr)
        return 130
    if before:
        print(f"{before} of {cases} cases were predicted with this model before; --overwrite does them again.")
    return 0


def _predict_by_bundle(arguments: argparse.Namespace) -> int:
    with extra("monai"):
        import torch

        from prox_monai.integrations.monai.inference import predict_bundle

    without_say = {"budget_s": None, "table": None, "runtime": None, "fold": 0, "mirroring": True}
    if given := [name for name, default in without_say.items() if getattr(arguments, name) != default]:
        option = "--no-mirroring" if given[0] == "mirroring" else f"--{given[0].replace('_', '-')}"
        raise ValueError(f"{option} has no say in a bundle's own inference.")
    logging.getLogger("monai.data.image_writer").setLevel(logging.WARNING)  # files are not yet where it says
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    choice = {name: value for name in ("subnet", "max_latency_ms") if (value := getattr(arguments, name)) is not None}
    try:
        written = predict_bundle(
            arguments.model,
            arguments.input,
            arguments.output,
            choice=choice,
            configs=arguments.config,
            overwrite=arguments.overwrite,
        )
    except KeyboardInterrupt:
        print("\nstopped; nothing was written", file=sys.stderr)
        return 130
    print(f"Files in {arguments.output}: {len(written)}, the first is {written[0].name}.")
    return 0


def _after(is_file: bool, overwrite: bool) -> str:
    """Say what is there after an interrupt, and how to go on."""
    if is_file:
        return "nothing was written"
    if overwrite:
        return "the same command begins anew; without --overwrite it goes on after the finished cases"
    return "the same command goes on after the finished cases"


def _table(rows: Sequence[Predicted]) -> str:
    from prox_monai.search.table import columns

    labels = list(rows[0].voxels)
    counts = ((f"{row.voxels[label]:,}" for label in labels) for row in rows)
    figures = [(row.case, f"{row.seconds:.2f}", *count) for row, count in zip(rows, counts, strict=True)]
    return columns([("case", "seconds", *(f"voxels of {label}" for label in labels)), *figures])


def _predict_arguments(parser: argparse.ArgumentParser) -> None:
    help = (
        "of prox-monai export, of nnU-Net (one of ProXTrainer holds all subnets), or a trained bundle of this package"
    )
    help += ", whose configuration is a program: run only those whose makers you trust"
    parser.add_argument("model", metavar="FOLDER", help=help)
    help = "image, or folder of images, named as nnU-Net wants it (CASE_0000.nii.gz); one channel: as you like"
    parser.add_argument("-i", "--input", required=True, metavar="IMAGES", help=help)
    help = "folder for the label maps; of one image also a file. Cases that this model finished are not redone (by a "
    help += "bundle: all appear at once, in a folder)"
    parser.add_argument("-o", "--output", required=True, metavar="OUTPUT", help=help)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--subnet", metavar="NAME", help=f"{SUBNET}; default: largest")
    chosen.add_argument("--max-latency-ms", type=positive, metavar="MS", help="best subnet in --table, per patch")
    help = "best subnet in --table with which the largest case's network passes take no longer, in seconds"
    chosen.add_argument("--budget-s", type=positive, metavar="SECONDS", help=help)
    parser.add_argument("--table", metavar="FILE", help="of prox-monai evaluate, or front.json of search")
    parser.add_argument("--fold", default=0, type=fold, help="default: %(default)s")
    help = "of a subnet that is not exported, default: the table's, or torch"
    parser.add_argument("--runtime", choices=RUNTIMES_IN_32_BITS, help=help)
    help = "one pass per window instead of nnU-Net's average over mirrored images"
    parser.add_argument("--no-mirroring", dest="mirroring", action="store_false", help=help)
    parser.add_argument(
        "--threads", type=at_least_one, metavar="N", help="CPU threads, default: the table's, or the runtime's choice"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace label maps in the output")
    help = "of a trained bundle: configuration files that the training had beside train.json"
    parser.add_argument("--config", nargs="+", default=[], metavar="FILE", help=help)


COMMANDS = (
    Command(
        "predict",
        "segment images with an exported model or a subnet of a trained one, back on their own grid",
        _predict,
        _predict_arguments,
        examples="prox-monai predict int8 -i images -o predictions\n"
        f"prox-monai predict {MODEL_EXAMPLE} --budget-s 1 --table tuning.jsonl -i images -o predictions",
    ),
)
