"""Commands for models that ``ProXTrainer`` trained."""

from __future__ import annotations

import argparse
import os
import random
import re
import shlex
from pathlib import Path

from prox_monai.commands.command import SUBNET, Command, device_argument, extra

_EXAMPLE = "$nnUNet_results/Dataset004_Hippocampus/ProXTrainer__nnUNetPlans__3d_fullres"


def _nnunet_path(arguments: argparse.Namespace) -> int:
    from prox_monai.plugin_files import plugin_folder

    print(plugin_folder("nnunet"))
    return 0


def _export_nnunet(arguments: argparse.Namespace) -> int:
    with extra("nnunet"):
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
    parser.add_argument("--subnet", required=True, metavar="NAME", help=SUBNET)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="new folder, or an empty one")
    parser.add_argument("--checkpoint", default="checkpoint_final.pth", metavar="FILE", help="default: %(default)s")
    parser.add_argument(
        "--approximate",
        action="store_true",
        help="run weights of another resolution at 1; its Dice is measured",
    )


def _select(arguments: argparse.Namespace) -> int:
    with extra("nnunet"):
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
    parser.add_argument("--subnet", required=True, metavar="NAME", help=SUBNET)
    parser.add_argument("--as", dest="name", metavar="NAME", help="of checkpoint_<NAME>.pth; default: the subnet's")


def _evaluate(arguments: argparse.Namespace) -> int:
    with extra("nnunet"):
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
    device_argument(parser)


def _extend(arguments: argparse.Namespace) -> int:
    with extra("nnunet"):
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


def _predict_line(folder: Path, *folds: int | str, options: str = "") -> str:
    model, listed = shlex.quote(str(folder)), " ".join(map(str, folds))
    return f"  nnUNetv2_predict_from_modelfolder -m {model} -f {listed}{options} -i IMAGES -o PREDICTIONS"


COMMANDS = (
    Command(
        "nnunet-path",
        "print the folder that nnUNet_extTrainer must name",
        _nnunet_path,
        examples='export nnUNet_extTrainer="$(prox-monai nnunet-path)"\nnnUNetv2_train 4 3d_fullres 0 -tr ProXTrainer',
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
        "export nnunet",
        "write a subnet as a stock nnU-Net model folder, which needs no prox-monai",
        _export_nnunet,
        _export_nnunet_arguments,
        examples=f"prox-monai export nnunet {_EXAMPLE} --subnet middle --output stock/middle",
    ),
)
