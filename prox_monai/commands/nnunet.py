"""Commands for models that ``ProXTrainer`` trained."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from pathlib import Path

from prox_monai.commands.arguments import MODEL_EXAMPLE, model_arguments
from prox_monai.commands.command import SUBNET, Command, extra
from prox_monai.commands.evaluate import EVALUATE


def _nnunet_path(arguments: argparse.Namespace) -> int:
    from prox_monai.plugin_files import plugin_folder

    print(plugin_folder("nnunet"))
    return 0


def _export_nnunet(arguments: argparse.Namespace) -> int:
    with extra("nnunet"):
        from prox_monai.integrations.nnunet import unseen
        from prox_monai.integrations.nnunet.calibration import cases_if_there
        from prox_monai.integrations.nnunet.export import export_stock, stock_subnet
        from prox_monai.integrations.nnunet.trained import load_trained

    folds = tuple(dict.fromkeys(arguments.fold))
    models = [load_trained(arguments.model, fold, arguments.checkpoint) for fold in folds]
    config = stock_subnet(models[0], arguments.subnet, approximate=arguments.approximate)
    row, dice = unseen.describe(models[0], config), {}
    if arguments.approximate:
        dice = {model.fold: unseen.dice_at_full_resolution(model, config, os.environ) for model in models}
    destination = export_stock(models, config, arguments.output, cases=cases_if_there(models[0], os.environ))
    cost = f"{row['parameters']:,} parameters, {row['macs'] / 1e9:.2f} GMAC per patch"
    print(f"{config} is in {destination}: {cost}.")
    for fold, value in dice.items():
        print(f"Dice {value:.3f} at resolution 1, on the reporting half of fold {fold}.")
    print(_predict_line(destination, *folds))
    return 0


def _export_nnunet_arguments(parser: argparse.ArgumentParser) -> None:
    model_arguments(parser, several_folds=True)
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
    model_arguments(parser)
    parser.add_argument("--subnet", required=True, metavar="NAME", help=SUBNET)
    parser.add_argument("--as", dest="name", metavar="NAME", help="of checkpoint_<NAME>.pth; default: the subnet's")


def _extend(arguments: argparse.Namespace) -> int:
    with extra("nnunet"):
        from prox_monai.integrations.nnunet.extend import extend
        from prox_monai.space import Dimension, Stage

    candidates = {dimension: tuple(getattr(arguments, dimension)) for dimension in Dimension}
    epochs = arguments.epochs[0] if len(arguments.epochs) == 1 else arguments.epochs
    path, schedule = extend(arguments.checkpoint, candidates, epochs, arguments.output)
    polished = schedule.phases[-1].stage == Stage.POLISH
    new = schedule.phases[-sum(map(len, candidates.values())) - polished :]
    print(f"{path} holds the trained subnets unchanged, and room for:")
    for phase in new:
        candidate = "" if phase.stage == Stage.POLISH else f" {phase.space.candidates(phase.stage)[-1]:g}"
        print(f"  {phase.stage}{candidate}, {phase.epochs} epochs")
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
    help = (
        "of the new phases, one per value and one that polishes, where the family had it: a total, or one number each"
    )
    parser.add_argument("--epochs", nargs="+", type=int, required=True, metavar="N", help=help)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="nnUNet_results of the new training")


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
    EVALUATE,
    Command(
        "select",
        "write a checkpoint with which nnUNetv2_predict -chk runs one subnet",
        _select,
        _select_arguments,
        examples=f"prox-monai select {MODEL_EXAMPLE} --subnet d1-w.5-k3-r.8 --as quick",
    ),
    Command(
        "extend",
        "add larger candidates to a trained family; nnUNetv2_train --c goes on through the new phases only",
        _extend,
        _extend_arguments,
        examples=f"prox-monai extend {MODEL_EXAMPLE}/fold_0/checkpoint_final.pth --depth 3 --width 2 --epochs 100 "
        "--output results_extended",
    ),
    Command(
        "export nnunet",
        "write a subnet as a stock nnU-Net model folder, which needs no prox-monai",
        _export_nnunet,
        _export_nnunet_arguments,
        examples=f"prox-monai export nnunet {MODEL_EXAMPLE} --subnet middle --output stock/middle",
    ),
)
