"""The command that measures subnets of a trained model."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from prox_monai.commands.arguments import MODEL_EXAMPLE, at_least_one, count, model_arguments
from prox_monai.commands.command import Command, device_argument, extra

if TYPE_CHECKING:
    from prox_monai.integrations.nnunet.trained import TrainedModel
    from prox_monai.space import SubnetConfig

HALVES = ("tuning", "reporting", "both")


def _evaluate(arguments: argparse.Namespace) -> int:
    with extra("nnunet"):
        import torch
        from tqdm import tqdm

        from prox_monai.integrations.nnunet import unseen
        from prox_monai.integrations.nnunet.trained import load_trained
        from prox_monai.search.table import buckets_table, rows_table

    device = unseen.choose_device(arguments.device)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.all and (arguments.subnets or arguments.random or arguments.per_bucket):
        raise ValueError("--all are all subnets: give it without --subnets, --random and --per-bucket.")
    if arguments.per_bucket and arguments.no_latency:
        raise ValueError("--per-bucket sorts subnets by latency, which --no-latency leaves out; give one of them.")
    model = load_trained(arguments.model, arguments.fold)
    total, named = _named(arguments, model)
    rows = unseen.evaluate_trained(
        model,
        named,
        unseen.preprocessed_folder(model, os.environ),
        arguments.output,
        half=arguments.half,
        device=device,
        tolerance_mm=arguments.tolerance_mm if arguments.surface else None,
        repeats=0 if arguments.no_latency else 5,
        peak_memory=arguments.peak_memory,
    )
    found = list(tqdm(rows, total=total, desc="subnets", disable=None, leave=False))
    print(rows_table(found, interval=True))
    if arguments.per_bucket:
        scored = [row for row in found if row["dice"] is not None]
        print(f"\nDice by latency:\n{buckets_table(scored, min(arguments.buckets, len(scored)))}")
    return 0


def _named(arguments: argparse.Namespace, model: TrainedModel) -> tuple[int, Iterable[tuple[str, SubnetConfig]]]:
    """How many subnets are asked for, and name and configuration of each."""
    from prox_monai.evaluation.multiply_adds import ALIASES
    from prox_monai.search.sampling import random_subnets

    if arguments.all:
        return model.space.size(), ((config.name, config) for config in model.space)
    costs = model.multiply_adds()
    names = ALIASES if arguments.subnets is None else arguments.subnets
    named = [(name, costs.find(name)) for name in names]
    drawn = arguments.random + arguments.per_bucket * arguments.buckets
    without = {config for _, config in named}
    named += [(config.name, config) for config in random_subnets(model.space, drawn, arguments.seed, without)]
    return len(named), named


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    model_arguments(parser)
    parser.add_argument("--subnets", nargs="*", metavar="NAME", help="default: smallest middle largest")
    parser.add_argument("--random", type=count, default=0, metavar="N", help="random subnets besides")
    help = "N * K random subnets besides, shown in K buckets of latency; 150 in the paper"
    parser.add_argument("--per-bucket", type=count, default=0, metavar="N", help=help)
    parser.add_argument("--buckets", type=at_least_one, default=5, metavar="K", help="default: %(default)s")
    parser.add_argument("--all", action="store_true", help="every subnet that was trained")
    parser.add_argument("--seed", type=int, default=0, help="of the random subnets, default: %(default)s")
    help = "JSON lines; subnets it holds are not redone; several processes may share it"
    parser.add_argument("--output", required=True, metavar="FILE", help=help)
    parser.add_argument(
        "--half",
        choices=HALVES,
        default="reporting",
        help="of the fold's unseen cases, default: %(default)s; choose subnets on the tuning half",
    )
    help = "surface Dice and 95th percentile of the Hausdorff distance as well (extra: monai)"
    parser.add_argument("--surface", action="store_true", help=help)
    help = "of the surface Dice, default: %(default)s"
    parser.add_argument("--tolerance-mm", type=float, default=1.0, metavar="MM", help=help)
    parser.add_argument("--peak-memory", action="store_true", help="measure it, in a process of its own per subnet")
    help = "CPU threads; latencies of one table are of as many. Let nothing else run while it measures them"
    parser.add_argument("--threads", type=at_least_one, metavar="N", help=help)
    parser.add_argument("--no-latency", action="store_true", help="Dice only, as fast as the networks predict")
    device_argument(parser)


EVALUATE = Command(
    "evaluate",
    "measure subnets of a trained model on unseen cases: Dice, latency, memory, multiply-adds, parameters",
    _evaluate,
    _evaluate_arguments,
    examples=f"prox-monai evaluate {MODEL_EXAMPLE} --random 30 --half tuning --output tuning.jsonl\n"
    f"prox-monai evaluate {MODEL_EXAMPLE} --per-bucket 150 --output rows.jsonl",
)
