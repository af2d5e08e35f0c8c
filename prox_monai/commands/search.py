"""The commands that measure latency on this device and find the subnets that are worth having on it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from prox_monai.commands.arguments import MODEL_EXAMPLE, at_least_one, count, fraction, model_arguments, positive
from prox_monai.commands.command import Command, device_argument, extra
from prox_monai.export.formats import RUNTIMES

if TYPE_CHECKING:
    from prox_monai.integrations.nnunet.search import Found, Wanted
    from prox_monai.integrations.nnunet.trained import TrainedModel
    from prox_monai.search.predictor import LatencyPredictor, SubnetLatency

_LIMITS = {
    "latency_ms": "of one patch, batch 1",
    "params": "number of parameters",
    "macs": "multiply-adds per patch, 1e9 for example",
    "memory_mb": "weights and activations alive at once, for one patch",
}


def _latency(arguments: argparse.Namespace) -> int:
    with extra("nnunet"):
        from prox_monai.export.runtimes import runtime_maker
        from prox_monai.integrations.nnunet.latency import measured_latency
        from prox_monai.integrations.nnunet.trained import load_trained
        from prox_monai.search.latency import Conditions

    Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
    runtimes, threads = dict.fromkeys(arguments.runtime), arguments.threads
    for name in runtimes:  # all are there, before the first is measured
        Conditions.here(name, runtime_maker(name, threads), threads)
    model, sizes = load_trained(arguments.model, arguments.fold), {"fit": arguments.fit, "held_out": arguments.validate}
    measured = [measured_latency(model, name, threads, arguments.output, **sizes) for name in runtimes]
    print(_accuracy_table([latency.predictor for latency in measured]))
    return 0


def _latency_arguments(parser: argparse.ArgumentParser) -> None:
    model_arguments(parser)
    help = "one or more of %(choices)s; default: torch"
    parser.add_argument("--runtime", nargs="+", choices=RUNTIMES, default=["torch"], metavar="NAME", help=help)
    parser.add_argument("--threads", type=at_least_one, default=1, metavar="N", help="default: %(default)s")
    help = "JSON lines; times it holds are not taken again; let nothing else run meanwhile"
    parser.add_argument("--output", required=True, metavar="FILE", help=help)
    help = "whole subnets that the predictor is fitted to, default: %(default)s"
    parser.add_argument("--fit", type=count, default=60, metavar="N", help=help)
    help = "whole subnets on which it is tried, default: %(default)s"
    parser.add_argument("--validate", type=count, default=50, metavar="N", help=help)


def _search(arguments: argparse.Namespace) -> int:
    with extra("nnunet"):
        from tqdm import tqdm

        from prox_monai.integrations.nnunet import unseen
        from prox_monai.integrations.nnunet.found import draw_found
        from prox_monai.integrations.nnunet.search import PICTURE, search_trained
        from prox_monai.integrations.nnunet.trained import load_trained

    quiet_optuna()
    device = unseen.choose_device(arguments.device)
    model = load_trained(arguments.model, arguments.fold)
    wanted = wanted_of(arguments, arguments.cost)
    preprocessed = unseen.preprocessed_folder(model, os.environ)
    latency = subnet_latency(arguments, model)
    with tqdm(desc="subnets scored", unit="", disable=None, leave=False) as bar:
        found = search_trained(
            model,
            wanted,
            preprocessed,
            arguments.output,
            latency=latency,
            storage=arguments.storage,
            device=device,
            scored=bar.update,
        )
    _show(found, model, latency)
    draw_found(found, model, latency, Path(arguments.output) / PICTURE)
    print(f"In {arguments.output}: front.json, tuning.jsonl, reporting.jsonl, {PICTURE}.")
    return 0


def _search_arguments(parser: argparse.ArgumentParser) -> None:
    model_arguments(parser)
    help = "of the results; what it holds is not done again; several processes may share it"
    parser.add_argument("--output", required=True, metavar="FOLDER", help=help)
    parser.add_argument("--latency-table", metavar="FILE", help="of prox-monai latency; a limit on latency needs one")
    help = "of the table, where it holds several"
    parser.add_argument("--runtime", choices=RUNTIMES, metavar="NAME", help=f"{help}: %(choices)s")
    parser.add_argument("--threads", type=at_least_one, metavar="N", help=help)
    parser.add_argument("--force", action="store_true", help="use a table of another device or version as it is")
    limit_arguments(parser)
    help = "weighed against Dice; default: latency_ms with a table, else macs"
    parser.add_argument("--cost", choices=("latency_ms", "parameters", "macs", "memory_mb"), help=help)
    help = "Optuna URL of the study, or a file; default: study.log in the folder"
    parser.add_argument("--storage", metavar="URL|FILE", help=help)
    device_argument(parser)


def limit_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what is searched for: limits, and how many subnets are tried."""
    for name, help in _LIMITS.items():
        parser.add_argument(f"--max-{name.replace('_', '-')}", type=positive, metavar="N", help=help)
    parser.add_argument("--min-dice", type=fraction, default=0.0, metavar="DICE", help="on the tuning half")
    help = "subnets to try at most, default: %(default)s; a space of no more is enumerated"
    parser.add_argument("--trials", type=at_least_one, default=300, metavar="N", help=help)
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")


def wanted_of(arguments: argparse.Namespace, cost: str | None = None) -> Wanted:
    """Return what is searched for by arguments that :func:`limit_arguments` declares."""
    from prox_monai.integrations.nnunet.search import Wanted

    names = {"latency_ms": "latency_ms", "params": "parameters", "macs": "macs", "memory_mb": "memory_mb"}
    given = {field: getattr(arguments, f"max_{name}") for name, field in names.items()}
    at_most = {field: limit for field, limit in given.items() if limit is not None}
    return Wanted(cost, at_most, arguments.min_dice, arguments.trials, arguments.seed)


def quiet_optuna() -> None:
    """Keep Optuna from saying that it made a study."""
    if find_spec("optuna"):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)


def subnet_latency(arguments: argparse.Namespace, model: TrainedModel) -> SubnetLatency | None:
    """Return latency by the table that was given."""
    from prox_monai.export.runtimes import runtime_maker
    from prox_monai.search.latency import Conditions
    from prox_monai.search.predictor import SubnetLatency, read_table, rows_by_conditions

    if arguments.latency_table is None:
        given = [f"--{name}" for name in ("runtime", "threads", "force") if getattr(arguments, name)]
        if given:
            raise ValueError(f"{', '.join(given)} only says which latency table: give --latency-table, too.")
        return None
    asked = arguments.latency_table, arguments.runtime, arguments.threads
    kinds = {(conditions.runtime, conditions.threads) for conditions in rows_by_conditions(*asked)}
    here: Conditions | None = None
    if len(kinds) == 1 and not arguments.force:
        ((runtime, threads),) = kinds
        try:
            here = Conditions.here(runtime, runtime_maker(runtime, threads), threads)
        except ImportError as error:
            raise ImportError(f"{error}; --force takes a table that another device has measured as it is") from error
    predictor = read_table(arguments.latency_table, here, arguments.runtime, arguments.threads)
    return SubnetLatency(predictor, model.supernet.architecture, model.input_shape)


def _accuracy_table(predictors: Sequence[LatencyPredictor]) -> str:
    from prox_monai.search.table import columns

    lines = [("measured with", "blocks", "networks", "latency (ms)", "held out", "mean error", "Kendall's tau")]
    for predictor in predictors:
        times = [row["median_ms"] for row in predictor.networks]
        accuracy = predictor.accuracy()
        known = (
            ("-",) * 3
            if accuracy is None
            else (str(accuracy.networks), f"{accuracy.mean_error:.1%}", f"{accuracy.tau:.3f}")
        )
        counts = str(len(predictor.blocks)), str(len(predictor.networks))
        lines.append((str(predictor.conditions), *counts, f"{min(times):.2f} to {max(times):.2f}", *known))
    return columns(lines)


def _show(found: Found, model: TrainedModel, latency: SubnetLatency | None) -> None:
    """Print the front."""
    from prox_monai.search.table import columns, interval_cell, row_cells

    cells = row_cells(found.reporting, head="Dice, reporting half")
    ends = [interval_cell(row["dice_interval"]) for row in found.reporting]
    tuning = [f"{subnet.dice:.3f}" for subnet in found.front]
    more = zip(["95 % interval", *ends], ["Dice, tuning half", *tuning], strict=True)
    print(columns([(*line, *added) for line, added in zip(cells, more, strict=True)]))
    print(f"The Pareto set of {len(found.tuning)} subnets that were scored, of {model.space.size():,}.")
    if latency is not None:
        accuracy = latency.predictor.accuracy()
        error = f"; mean error {accuracy.mean_error:.1%} on {accuracy.networks} networks" if accuracy else ""
        print(f"Latency: predicted, {latency.predictor.conditions}{error}.")


COMMANDS = (
    Command(
        "latency",
        "measure a latency table of a trained model's subnets on this device",
        _latency,
        _latency_arguments,
        examples=f"prox-monai latency {MODEL_EXAMPLE} --runtime torch openvino --output latency.jsonl",
    ),
    Command(
        "search",
        "find the subnets that are worth having under limits",
        _search,
        _search_arguments,
        examples=f"prox-monai search {MODEL_EXAMPLE} --latency-table latency.jsonl --runtime openvino "
        "--max-latency-ms 10 --output found\n"
        f"prox-monai search {MODEL_EXAMPLE} --max-params 1e6 --max-macs 2e9 --output found",
    ),
)
