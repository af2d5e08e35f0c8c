"""Commands for MONAI bundles."""

from __future__ import annotations

import argparse
import shlex

from prox_monai.commands.arguments import positive
from prox_monai.commands.command import SUBNET, Command, extra


def _export_bundle(arguments: argparse.Namespace) -> int:
    with extra("monai"):
        from prox_monai.integrations.monai.export import export_bundle

    config = export_bundle(
        arguments.bundle,
        arguments.output,
        subnet=arguments.subnet,
        max_latency_ms=arguments.max_latency_ms,
        ckpt_dir=arguments.ckpt_dir,
        configs=arguments.config,
        dataset_dir=arguments.dataset_dir,
    )
    print(f"{config} is in {arguments.output}, a bundle that needs no prox-monai:")
    print(f"  cd {shlex.quote(arguments.output)} && python -m monai.bundle run --config_file configs/inference.json")
    return 0


def _export_bundle_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of a trained bundle")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--subnet", default="largest", metavar="NAME", help=f"{SUBNET}; default: %(default)s")
    help = "the best subnet known within this budget"
    chosen.add_argument("--max-latency-ms", type=positive, metavar="MS", help=help)
    parser.add_argument("--ckpt-dir", metavar="FOLDER", help="of the trained model, default: models of the bundle")
    help = "configuration files that the training had beside train.json, such as configs/quick.json"
    parser.add_argument("--config", nargs="+", default=[], metavar="FILE", help=help)
    help = "of images to compare the new bundle on, default: random numbers"
    parser.add_argument("--dataset-dir", metavar="FOLDER", help=help)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="new folder, or an empty one")


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
        "write a subnet of a trained MONAI bundle as a bundle of its own, which needs no prox-monai",
        _export_bundle,
        _export_bundle_arguments,
        examples="prox-monai export bundle bundles/hippocampus_mri_prox_segmentation --subnet middle --output plain\n"
        "prox-monai export bundle bundles/hippocampus_mri_prox_segmentation --max-latency-ms 20 --output plain",
    ),
)
