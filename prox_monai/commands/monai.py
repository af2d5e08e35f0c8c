"""Commands for MONAI bundles."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from prox_monai.commands.arguments import MODEL_EXAMPLE, fold, positive
from prox_monai.commands.command import SUBNET, Command, extra
from prox_monai.commands.export import export_arguments, export_model
from prox_monai.export.description import FILE as DESCRIPTION

_RUN = "python -m monai.bundle run --config_file configs/inference.json"
_OF_BUNDLE = ("ckpt_dir", "config", "dataset_dir")
_OF_MODEL = ("fold", "table", "overwrite", "max_dice_drop", "finetune", "threads")


def _export_bundle(arguments: argparse.Namespace) -> int:
    if Path(arguments.folder, DESCRIPTION).is_file():
        raise ValueError(f"{arguments.folder} holds one subnet, exported already; give what was trained.")
    is_bundle = Path(arguments.folder, "configs").is_dir()
    is_of = "a model folder of ProXTrainer" if is_bundle else "a trained bundle, which has a folder configs"
    for name in _OF_MODEL if is_bundle else _OF_BUNDLE:
        if arguments.is_given(name, getattr(arguments, name)):
            raise ValueError(f"--{name.replace('_', '-')} is of {is_of}; {arguments.folder} is none.")
    if is_bundle:
        return _export_subnet_of_bundle(arguments)
    arguments.model = arguments.folder
    if arguments.max_latency_ms is None:
        arguments.subnet = arguments.subnet or "largest"
    code = export_model("bundle", arguments)
    print(f"  cd {shlex.quote(arguments.output)} && {_RUN} --dataset_dir IMAGES --output_dir PREDICTIONS")
    return code


def _export_subnet_of_bundle(arguments: argparse.Namespace) -> int:
    with extra("monai"):
        from prox_monai.integrations.monai.export import export_bundle

    config = export_bundle(
        arguments.folder,
        arguments.output,
        subnet=arguments.subnet or "largest",
        max_latency_ms=arguments.max_latency_ms,
        ckpt_dir=arguments.ckpt_dir,
        configs=arguments.config,
        dataset_dir=arguments.dataset_dir,
    )
    print(f"{config} is in {arguments.output}, a bundle that needs no prox-monai:")
    print(f"  cd {shlex.quote(arguments.output)} && {_RUN}")
    return 0


def _export_bundle_arguments(parser: argparse.ArgumentParser) -> None:
    help = "of a trained bundle, or nnU-Net's model folder <trainer>__<plans>__<configuration>"
    parser.add_argument("folder", metavar="FOLDER", help=help)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--subnet", metavar="NAME", help=f"{SUBNET}; default: largest")
    help = "the best subnet known within this budget"
    chosen.add_argument("--max-latency-ms", type=positive, metavar="MS", help=help)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="new folder, or an empty one")

    of_bundle = parser.add_argument_group("of a trained bundle")
    of_bundle.add_argument("--ckpt-dir", metavar="FOLDER", help="of the trained model, default: models of the bundle")
    help = "configuration files that the training had beside train.json, such as configs/quick.json"
    of_bundle.add_argument("--config", nargs="+", default=[], metavar="FILE", help=help)
    help = "of images to compare the new bundle on, default: random numbers"
    of_bundle.add_argument("--dataset-dir", metavar="FOLDER", help=help)

    of_model = parser.add_argument_group("of a model folder of ProXTrainer")
    of_model.add_argument("--fold", default=0, type=fold, help="default: %(default)s")
    export_arguments(of_model)
    parser.set_defaults(precision="fp32", is_given=lambda name, value: value != parser.get_default(name))


def _bundle(arguments: argparse.Namespace) -> int:
    from prox_monai.plugin_files import copy_bundle

    folder = copy_bundle(arguments.name, arguments.output or arguments.name)
    print(f"{folder} holds the bundle; docs/README.md in it says how to train, evaluate, search and predict:")
    print(f"  cd {shlex.quote(str(folder))} && python -m monai.bundle run --config_file configs/train.json")
    return 0


def _bundle_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="for example hippocampus_mri_prox_segmentation")
    parser.add_argument("--output", metavar="FOLDER", help="new folder, default: NAME")


COMMANDS = (
    Command(
        "bundle",
        "copy a MONAI bundle of this package to a folder of your own",
        _bundle,
        _bundle_arguments,
        examples="prox-monai bundle hippocampus_mri_prox_segmentation --output hippocampus",
    ),
    Command(
        "export bundle",
        "write a subnet of a trained MONAI bundle, or of ProXTrainer, as a bundle which needs no prox-monai",
        _export_bundle,
        _export_bundle_arguments,
        examples="prox-monai export bundle bundles/hippocampus_mri_prox_segmentation --subnet middle --output plain\n"
        f"prox-monai export bundle {MODEL_EXAMPLE} --max-latency-ms 20 --table tuning.jsonl --output plain",
    ),
)
