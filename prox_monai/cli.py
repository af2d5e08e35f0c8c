"""The command ``prox-monai``: a table of sub-commands; each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import logging
import os
import random
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prox_monai import __version__

EXAMPLES = """examples:
  export nnUNet_extTrainer="$(prox-monai nnunet-path)"   let nnU-Net find ProXTrainer
  prox-monai doctor                                      what this installation lacks
  prox-monai demo --data Task04_Hippocampus              the whole way, on real data, in minutes
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


def _demo(arguments: argparse.Namespace) -> int:
    with _extra("nnunet"):
        from prox_monai.demo import run_demo

    try:
        print(run_demo(arguments.data, arguments.output, arguments.device))
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="FOLDER|download", help="Decathlon layout; synthetic if not given")
    parser.add_argument(
        "--output", metavar="FOLDER", help="default: runs/demo; a demo on other data there is moved to runs/demo-1"
    )
    _device_argument(parser)


def _export_nnunet(arguments: argparse.Namespace) -> int:
    with _extra("nnunet"):
        from prox_monai.integrations.nnunet import unseen
        from prox_monai.integrations.nnunet.export import export_stock, stock_subnet
        from prox_monai.integrations.nnunet.trained import load_trained

    folds = tuple(dict.fromkeys(arguments.fold))
    models = [load_trained(arguments.model, fold, arguments.checkpoint) for fold in folds]
    config = stock_subnet(models[0], arguments.subnet, approximate=arguments.approximate)
    row, dice = unseen.describe(models[0], config), {}
    if arguments.approximate:
        dice = {model.fold: unseen.dice_at_full_resolution(model, config, os.environ) for model in models}
    destination = export_stock(models, config, arguments.output)
    cost = f"{row['parameters']:,} parameters, {row['macs'] / 1e9:.2f} GMAC per patch"
    print(f"{config} is in {destination}: {cost}.")
    for fold, value in dice.items():
        print(f"Dice {value:.3f} at resolution 1, on the reporting half of fold {fold}.")
    print(_predict_line(destination, *folds))
    return 0


def _export_nnunet_arguments(parser: argparse.ArgumentParser) -> None:
    _model_arguments(parser, several_folds=True)
    parser.add_argument("--subnet", required=True, metavar="NAME", help=_SUBNET)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="new folder, or an empty one")
    parser.add_argument("--checkpoint", default="checkpoint_final.pth", metavar="FILE", help="default: %(default)s")
    parser.add_argument(
        "--approximate",
        action="store_true",
        help="run weights of another resolution at 1; its Dice is measured",
    )


def _export_bundle(arguments: argparse.Namespace) -> int:
    with _extra("monai"):
        from prox_monai.integrations.monai.export import export_bundle

    config = export_bundle(
        arguments.bundle,
        arguments.output,
        subnet=arguments.subnet,
        max_latency_ms=arguments.max_latency_ms,
        ckpt_dir=arguments.ckpt_dir,
        configs=arguments.config,
    )
    print(f"{config} is in {arguments.output}, a bundle that needs no prox-monai:")
    print(f"  cd {shlex.quote(arguments.output)} && python -m monai.bundle run --config_file configs/inference.json")
    return 0


def _export_bundle_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of a trained bundle")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--subnet", default="largest", metavar="NAME", help=f"{_SUBNET}; default: %(default)s")
    chosen.add_argument("--max-latency-ms", type=float, metavar="MS", help="the best subnet known within this budget")
    parser.add_argument("--ckpt-dir", metavar="FOLDER", help="of the trained model, default: models of the bundle")
    help = "configuration files that the training had beside train.json, such as configs/quick.json"
    parser.add_argument("--config", nargs="+", default=[], metavar="FILE", help=help)
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


def _select(arguments: argparse.Namespace) -> int:
    with _extra("nnunet"):
        from prox_monai.integrations.nnunet.checkpoint import subnet_checkpoint
        from prox_monai.integrations.nnunet.trained import load_trained

    name = arguments.name or arguments.subnet
    if re.fullmatch(r"final|best|latest|phase\d+", name) or not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(
            f"--as must be letters, digits, '.', '_' or '-' and no name of a training's own checkpoints "
            f"(final, best, latest, phase<N>), got {name!r}."
        )
    model = load_trained(arguments.model, arguments.fold)
    config = model.multiply_adds().find(arguments.subnet)
    source = model.folder / f"fold_{model.fold}" / "checkpoint_final.pth"
    target = source.with_name(f"checkpoint_{name}.pth")
    if target.exists() and (there := load_trained(model.folder, model.fold, target.name).supernet.active) != config:
        raise FileExistsError(f"{target} holds the subnet {there}, not {config}; give another name with --as.")
    subnet_checkpoint(source, config, name)
    print(f"{config} is in {target}; with ProXTrainer installed:")
    print(_predict_line(model.folder, model.fold, options=f" -chk {target.name}"))
    return 0


def _select_arguments(parser: argparse.ArgumentParser) -> None:
    _model_arguments(parser)
    parser.add_argument("--subnet", required=True, metavar="NAME", help=_SUBNET)
    parser.add_argument("--as", dest="name", metavar="NAME", help="of checkpoint_<NAME>.pth; default: the subnet's")


def _evaluate(arguments: argparse.Namespace) -> int:
    with _extra("nnunet"):
        from tqdm import tqdm

        from prox_monai.evaluation.multiply_adds import ALIASES
        from prox_monai.integrations.nnunet import unseen
        from prox_monai.integrations.nnunet.trained import load_trained
        from prox_monai.search.table import rows_table

    device = unseen.choose_device(arguments.device)
    model = load_trained(arguments.model, arguments.fold)
    costs, rng = model.multiply_adds(), random.Random(arguments.seed)
    named = [(name, costs.find(name)) for name in (ALIASES if arguments.subnets is None else arguments.subnets)]
    drawn = (model.space.sample(rng) for _ in range(arguments.random))
    named += [(config.name, config) for config in drawn]
    preprocessed = unseen.preprocessed_folder(model, os.environ)
    rows = unseen.evaluate_trained(model, named, preprocessed, arguments.output, half=arguments.half, device=device)
    print(rows_table(tqdm(rows, total=len(named), desc="subnets", disable=None, leave=False)))
    return 0


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    _model_arguments(parser)
    parser.add_argument("--subnets", nargs="*", metavar="NAME", help="default: smallest middle largest")
    parser.add_argument("--random", type=_count, default=0, metavar="N", help="random subnets besides")
    parser.add_argument("--seed", type=int, default=0, help="of the random subnets, default: %(default)s")
    parser.add_argument("--output", required=True, metavar="FILE", help="JSON lines; subnets it holds are not redone")
    parser.add_argument(
        "--half",
        choices=("tuning", "reporting", "both"),
        default="reporting",
        help="of the fold's unseen cases, default: %(default)s; choose subnets on the tuning half",
    )
    _device_argument(parser)


def _extend(arguments: argparse.Namespace) -> int:
    with _extra("nnunet"):
        from prox_monai.integrations.nnunet.extend import extend
        from prox_monai.space import Dimension

    candidates = {dimension: tuple(getattr(arguments, dimension)) for dimension in Dimension}
    epochs = arguments.epochs[0] if len(arguments.epochs) == 1 else arguments.epochs
    path, schedule = extend(arguments.checkpoint, candidates, epochs, arguments.output)
    new = schedule.phases[-sum(map(len, candidates.values())) :]
    print(f"{path} holds the trained subnets unchanged, and room for:")
    for phase in new:
        print(f"  {phase.stage} {phase.space.candidates(phase.stage)[-1]:g}, {phase.epochs} epochs")
    trainer, plans, configuration = path.parent.parent.name.split("__")
    dataset, fold = path.parents[2].name, path.parent.name.removeprefix("fold_")
    print("Train them (the optimizer starts afresh; settings are in the checkpoint, PROX_CONFIG is not needed) with:")
    results = shlex.quote(str(path.parents[3]))
    options = f"-tr {trainer} -p {plans} --c"
    print(f"  nnUNet_results={results} nnUNetv2_train {dataset} {configuration} {fold} {options}")
    return 0


def _extend_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint_final.pth of a fold of ProXTrainer")
    kinds = {"depth": int, "width": float, "kernel": int, "resolution": float}
    for dimension, kind in kinds.items():
        help = f"larger than every {dimension} that is trained; one or more, increasing"
        parser.add_argument(f"--{dimension}", nargs="+", type=kind, default=[], metavar="VALUE", help=help)
    help = "of the new phases, one per value: a total, or one number each"
    parser.add_argument("--epochs", nargs="+", type=int, required=True, metavar="N", help=help)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="nnUNet_results of the new training")


_EXAMPLE = "$nnUNet_results/Dataset004_Hippocampus/ProXTrainer__nnUNetPlans__3d_fullres"
_SUBNET = "for example d2.2.1-w.5-k3-r1, or smallest, middle, largest"


def _model_arguments(parser: argparse.ArgumentParser, *, several_folds: bool = False) -> None:
    parser.add_argument("model", metavar="MODEL_FOLDER", help="nnU-Net's folder <trainer>__<plans>__<configuration>")
    if several_folds:
        parser.add_argument("--fold", nargs="+", default=[0], type=_fold, help="one or more, default: 0")
    else:
        parser.add_argument("--fold", default=0, type=_fold, help="default: %(default)s")


def _fold(text: str) -> int | str:
    return text if text == "all" else _count(text, "all, or ")


def _count(text: str, other: str = "") -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be {other}an integer >= 0, got {text!r}.")
    return int(text)


def _device_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: %(default)s")


def _predict_line(folder: Path, *folds: int | str, options: str = "") -> str:
    model, listed = shlex.quote(str(folder)), " ".join(map(str, folds))
    return f"  nnUNetv2_predict_from_modelfolder -m {model} -f {listed}{options} -i IMAGES -o PREDICTIONS"


@contextmanager
def _extra(name: str) -> Iterator[None]:
    """Imports that need an extra of the package."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(f'{error}; this needs an extra: pip install "prox-monai[{name}]"') from error


COMMANDS = (
    Command(
        "nnunet-path",
        "print the folder that nnUNet_extTrainer must name",
        _nnunet_path,
        examples='export nnUNet_extTrainer="$(prox-monai nnunet-path)"\nnnUNetv2_train 4 3d_fullres 0 -tr ProXTrainer',
    ),
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
    Command(
        "evaluate",
        "measure subnets of a trained model on unseen cases: Dice, latency, multiply-adds, parameters",
        _evaluate,
        _evaluate_arguments,
        examples=f"prox-monai evaluate {_EXAMPLE} --random 30 --half tuning --output rows.jsonl",
    ),
    Command(
        "select",
        "write a checkpoint with which nnUNetv2_predict -chk runs one subnet",
        _select,
        _select_arguments,
        examples=f"prox-monai select {_EXAMPLE} --subnet d1-w.5-k3-r.8 --as quick",
    ),
    Command(
        "extend",
        "add larger candidates to a trained family; nnUNetv2_train --c goes on through the new phases only",
        _extend,
        _extend_arguments,
        examples=f"prox-monai extend {_EXAMPLE}/fold_0/checkpoint_final.pth --depth 3 --width 2 --epochs 100 "
        "--output results_extended",
    ),
    Command(
        "bundle",
        "copy a MONAI bundle of this package to a folder of your own",
        _bundle,
        _bundle_arguments,
        examples="prox-monai bundle hippocampus_mri_prox_segmentation --output hippocampus",
    ),
    Command(
        "export nnunet",
        "write a subnet as a stock nnU-Net model folder, which needs no prox-monai",
        _export_nnunet,
        _export_nnunet_arguments,
        examples=f"prox-monai export nnunet {_EXAMPLE} --subnet middle --output stock/middle",
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
