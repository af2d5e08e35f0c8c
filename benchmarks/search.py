"""What search finds against random subnets, what a latency table predicts, how fast subnets are evaluated.

    python benchmarks/search.py front                        Pareto sets in a space of millions, synthetic Dice
    python benchmarks/search.py model MODEL_FOLDER           a real search of a trained model
    python benchmarks/search.py throughput MODEL_FOLDER      how much longer evaluating takes than its networks
    python benchmarks/search.py latency MODEL_FOLDER         predicted against measured latency, each runtime
    python benchmarks/search.py front --quick                tiny sizes, nothing written: does it run?

front    Subnets of the U-Net that nnU-Net plans for the hippocampus: depth 1, 2 or 3, width and kernel per level, three
         resolutions, 8.5 million subnets, multiply-adds at most a tenth of the largest's. Their Dice is SYNTHETIC: a
         function in closed form in which every section helps, each in its own measure and less and less, with a
         little noise that belongs to the subnet. The search and random subnets that meet the limit score equally
         many; compared is the hypervolume that each Pareto set dominates, and the share of the random set that a
         subnet of the search's beats or equals, for five seeds.
model    `prox-monai search` with a limit, and its time; the comparison with random subnets once more, with the Dice
         that the trained subnets have on the tuning half.
throughput  `evaluate` without latency on random subnets: its time against that of the same networks' windows alone.
latency  `prox-monai latency` with 50 held-out subnets.

The published figures are of the family of benchmarks/device.yaml, fold 3. `model` and `throughput` need
nnU-Net's variable nnUNet_preprocessed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from prox_monai.elastic import Supernet
from prox_monai.evaluation.cost import device_name
from prox_monai.evaluation.multiply_adds import MultiplyAdds
from prox_monai.evaluation.single_image import OneImage
from prox_monai.networks import UNetArchitecture
from prox_monai.search.pareto import hypervolume, pareto_front
from prox_monai.search.study import Problem, search
from prox_monai.space import SearchSpace, SubnetConfig
from prox_monai.space.groups import unet_groups

RESULTS = Path(__file__).parent / "results"
CHANNELS, PATCH = (32, 64, 128, 256), (1, 40, 56, 40)
SHARE = 0.1  # of the largest's multiply-adds that a subnet may have
NOISE = 0.002
SEEDS = range(5)

Points = list[tuple[float, float]]


def millions(levels: int = len(CHANNELS)) -> Supernet:
    """Return a supernet of the planned hippocampus network; its weights play no part."""
    strides = ((1, 1, 1), *((2, 2, 2),) * (levels - 1))
    architecture = UNetArchitecture(3, 1, 3, CHANNELS[:levels], strides)
    groups = unet_groups(levels)
    space = SearchSpace(2 * levels - 1, (1, 2, 3), (0.25, 0.5, 1.0), (3, 5), (0.6, 0.8, 1.0), groups)
    with torch.device("meta"):
        return Supernet(architecture, space)


def synthetic_dice(config: SubnetConfig) -> float:
    """A made-up Dice: every section helps, each in its own measure and less and less; noise belongs to the subnet."""
    gains = []
    for index, section in enumerate(config.sections):
        size = section.depth**0.5 * section.width**0.7 * (section.kernel / 3) ** 0.4
        gains.append((1 + index % 3) * (1 - math.exp(-1.8 * size)))
    share = sum(gains) / sum(1 + index % 3 for index in range(len(gains)))
    drawn = int.from_bytes(hashlib.sha256(config.name.encode()).digest()[:8]) / 2**64
    return 0.9 * config.resolution**0.15 * share**0.5 + NOISE * (2 * drawn - 1)


def dominated(ours: Points, theirs: Points) -> float:
    """Return the share of their Pareto set that one of our points beats or equals in both."""
    front = [theirs[i] for i in pareto_front(*zip(*theirs, strict=True))]
    return statistics.fmean(any(c <= cost and v >= value for c, v in ours) for cost, value in front)


def compare_fronts(
    supernet: Supernet,
    count: Callable[[SubnetConfig], int],
    dice: Callable[[SubnetConfig], float],
    trials: int,
    seeds: Sequence[int],
    share: float = SHARE,
) -> list[dict[str, Any]]:
    """Search and draw at random under one limit, once per seed; returns a row for each.

    Args:
        supernet: where the subnets come from.
        count: multiply-adds of a subnet.
        dice: of a subnet.
        trials: number of subnets that the search may try.
        seeds: of both.
        share: of the largest's multiply-adds that a subnet may have.
    """
    space = supernet.space
    limit = share * count(space.largest())
    worst = (limit, dice(space.smallest()) - 0.01)
    rows = []
    for seed in seeds:
        scored: Points = []

        def score(config: SubnetConfig, scored: Points = scored) -> float:
            scored.append((count(config), dice(config)))
            return scored[-1][1]

        problem = Problem(
            space,
            supernet.architecture.canonical,
            lambda config: {"macs": count(config)},
            score,
            cost="macs",
            at_most={"macs": limit},
        )
        start = time.perf_counter()
        search(problem, trials=trials, seed=seed)
        seconds = time.perf_counter() - start
        drawn = [(count(config), dice(config)) for config in _drawn(space, count, limit, len(scored), seed)]
        ours, theirs = (hypervolume(points, worst) for points in (scored, drawn))
        rows.append(
            {
                "seed": seed,
                "scored": len(scored),
                "hypervolume": ours / limit,
                "random_hypervolume": theirs / limit,
                "random_front_beaten": dominated(scored, drawn),
                "seconds": seconds,
            }
        )
    return rows


def _drawn(
    space: SearchSpace, count: Callable[[SubnetConfig], int], limit: float, subnets: int, seed: int
) -> list[SubnetConfig]:
    """Distinct random subnets that meet the limit; those that do not cost nothing."""
    rng, found = random.Random(f"random:{seed}"), dict[SubnetConfig, None]()
    while len(found) < subnets:
        config = space.sample(rng)
        if count(config) <= limit:
            found[config] = None
    return list(found)


def measure_search(folder: str, fold: int, limit_share: float, trials: int) -> dict[str, Any]:
    """Search a trained model under a limit on multiply-adds, in a new folder.

    Args:
        folder: nnU-Net's model folder.
        fold: of the model.
        limit_share: of the largest subnet's multiply-adds.
        trials: number of subnets to try at most.
    """
    from prox_monai.integrations.nnunet.search import Wanted, search_trained
    from prox_monai.integrations.nnunet.trained import load_trained
    from prox_monai.integrations.nnunet.unseen import preprocessed_folder

    model = load_trained(folder, fold)
    costs = model.multiply_adds()
    at_most = {"macs": limit_share * costs(model.space.largest())}
    with tempfile.TemporaryDirectory() as output:
        start = time.perf_counter()
        found = search_trained(
            model, Wanted("macs", at_most, trials=trials), preprocessed_folder(model, os.environ), output
        )
        seconds = time.perf_counter() - start
    front = [
        {"subnet": subnet.config.name, **subnet.costs, "dice_tuning": subnet.dice, "dice_reporting": row["dice"]}
        for subnet, row in zip(found.front, found.reporting, strict=True)
    ]
    return {
        "space_size": model.space.size(),
        "training_steps": _training_steps(model.folder, fold),
        "at_most": at_most,
        "scored": len(found.tuning),
        "seconds": seconds,
        "front": front,
    }


def _training_steps(folder: Path, fold: int) -> int:
    """Steps of a fold's training, by the settings in its checkpoint."""
    from prox_monai.integrations.nnunet.checkpoint import read_checkpoint

    settings = read_checkpoint(folder / f"fold_{fold}" / "checkpoint_final.pth")["prox"]["settings"]
    epochs = settings["epochs"]
    return settings["iterations_per_epoch"] * (epochs if isinstance(epochs, int) else sum(epochs))


def measure_fronts(folder: str, fold: int, limit_share: float, trials: int) -> list[dict[str, Any]]:
    """Compare searches of a trained model with random subnets; what one of them scored, others do not score again.

    Args:
        folder: nnU-Net's model folder.
        fold: of the model.
        limit_share: of the largest subnet's multiply-adds.
        trials: number of subnets that each search may try.
    """
    from prox_monai.integrations.nnunet.trained import load_trained
    from prox_monai.integrations.nnunet.unseen import preprocessed_folder, trained_evaluator

    model = load_trained(folder, fold)
    with tempfile.TemporaryDirectory() as output:
        evaluate = trained_evaluator(
            model, preprocessed_folder(model, os.environ), Path(output, "rows.jsonl"), half="tuning", repeats=0
        )

        def dice(config: SubnetConfig) -> float:
            (row,) = evaluate([(config.name, config)])
            return row["dice"]

        return compare_fronts(model.supernet, model.multiply_adds(), dice, trials, SEEDS, limit_share)


def measure_throughput(folder: str, fold: int, subnets: int) -> dict[str, Any]:
    """Evaluate random subnets without latency, and run the same networks on the same windows alone.

    Args:
        folder: nnU-Net's model folder.
        fold: of the model.
        subnets: how many.
    """
    from prox_monai.integrations.nnunet.trained import load_trained
    from prox_monai.integrations.nnunet.unseen import preprocessed_folder, trained_evaluator
    from prox_monai.search.sampling import random_subnets

    model = load_trained(folder, fold)
    alone = {"seconds": 0.0, "windows": 0}
    named = [(config.name, config) for config in random_subnets(model.space, subnets, seed=1)]
    with tempfile.TemporaryDirectory() as output:
        evaluate = trained_evaluator(
            model, preprocessed_folder(model, os.environ), Path(output, "rows.jsonl"), repeats=0
        )
        windows = _windows_of(model, evaluate)
        start = time.perf_counter()
        list(evaluate(named))
        whole = time.perf_counter() - start
    with torch.inference_mode(), OneImage():  # as they are evaluated
        for _, config in named:
            network = model.supernet.extract(config).eval()
            start = time.perf_counter()
            for window in windows:
                network(window)
            alone["seconds"] += time.perf_counter() - start
    return {
        "subnets": subnets,
        "windows_per_subnet": len(windows),
        "evaluate_seconds": whole,
        "network_seconds": alone["seconds"],
        "ratio": whole / alone["seconds"],
    }


def _windows_of(model: Any, evaluate: Callable) -> list[torch.Tensor]:
    """The windows that a subnet is given when it is evaluated; the cases are in memory afterwards."""
    windows: list[torch.Tensor] = []

    class Noting(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            windows.append(x.clone())
            return self.network(x)

    evaluate.keywords["score"](Noting(model.supernet.extract(model.space.smallest()).eval()))
    return windows


def fronts_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the comparison with random subnets as a Markdown table."""
    lines = ["| seed | scored | hypervolume | of random subnets | of their front beaten |", "|---|---|---|---|---|"]
    for row in rows:
        figures = f"{row['hypervolume']:.4f} | {row['random_hypervolume']:.4f} | {row['random_front_beaten']:.0%}"
        lines.append(f"| {row['seed']} | {row['scored']} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("front", "model", "throughput", "latency"))
    parser.add_argument("model", nargs="?", metavar="MODEL_FOLDER")
    parser.add_argument("--fold", type=int, default=0, help="of the model, default: %(default)s")
    parser.add_argument("--trials", type=int, default=400, help="of a search, default: %(default)s")
    help = "of each search that is compared with random subnets, `model` only, default: %(default)s"
    parser.add_argument("--compared", type=int, default=100, metavar="TRIALS", help=help)
    parser.add_argument("--share", type=float, default=SHARE, help="of the largest's multiply-adds, `model` only")
    parser.add_argument("--subnets", type=int, default=20, help="whose evaluation is timed, `throughput` only")
    parser.add_argument("--runtime", nargs="+", default=["torch", "onnxruntime", "openvino", "openvino-int8"])
    parser.add_argument("--table", default="runs/latency.jsonl", help="of `latency`, default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads, default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, nothing written")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if (arguments.what == "front") == (arguments.model is not None):
        parser.error("MODEL_FOLDER goes with all but `front`")
    machine = {
        "device": device_name("cpu"),
        "threads": arguments.threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if arguments.what == "latency":
        result = _latency(arguments)
    elif arguments.what == "model":
        result = {
            "fold": arguments.fold,
            "trials": arguments.trials,
            "search": measure_search(arguments.model, arguments.fold, arguments.share, arguments.trials),
            "fronts": measure_fronts(arguments.model, arguments.fold, arguments.share, arguments.compared),
        }
        print(json.dumps(result, indent=1))
    elif arguments.what == "throughput":
        result = {"fold": arguments.fold} | measure_throughput(arguments.model, arguments.fold, arguments.subnets)
        print(json.dumps(result, indent=1))
    else:
        supernet = millions(2 if arguments.quick else len(CHANNELS))
        trials, seeds = (40, range(1)) if arguments.quick else (arguments.trials, SEEDS)
        rows = compare_fronts(supernet, MultiplyAdds(supernet, PATCH), synthetic_dice, trials, seeds)
        result = {
            "space_size": supernet.space.size(),
            "dice": "synthetic",
            "noise": NOISE,
            "trials": trials,
            "rows": rows,
        }
        print(f"{supernet.space.size():,} subnets, SYNTHETIC Dice\n{fronts_table(rows)}")
    if not arguments.quick:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"search_{arguments.what}.json"
        path.write_text(json.dumps({"machine": machine, **result}, indent=1) + "\n")


def _latency(arguments: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import asdict

    from prox_monai.cli import main as command
    from prox_monai.commands.search import COMMANDS
    from prox_monai.search.predictor import read_table, rows_by_conditions

    Path(arguments.table).parent.mkdir(parents=True, exist_ok=True)
    options = ["--threads", str(arguments.threads), "--output", arguments.table, "--validate", "50"]
    model = [arguments.model, "--fold", str(arguments.fold)]
    if command(["latency", *model, "--runtime", *arguments.runtime, *options], commands=COMMANDS):
        raise SystemExit(2)
    found = []
    for conditions in rows_by_conditions(arguments.table, threads=arguments.threads):
        if conditions.runtime not in arguments.runtime:
            continue
        accuracy = read_table(arguments.table, conditions).accuracy()
        found.append({**asdict(conditions), **(asdict(accuracy) if accuracy else {})})
    return {"fold": arguments.fold, "tables": found}


if __name__ == "__main__":
    main()
