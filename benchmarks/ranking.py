"""Does the supernet rank subnets as training each alone does, and what does extraction cost?

    python benchmarks/paper.py --data Task04_Hippocampus --methods plus --seeds 0 1 2     the supernets
    python benchmarks/ranking.py --data Task04_Hippocampus --jobs 2                       two at a time, a thread each
    make bench-ranking DATA=DIR

Subnets stratified by multiply-adds are trained alone, with two seeds, and compared with those that the supernets of
benchmarks/paper.py hold, on the same unseen cases. Kendall's tau between the two Dice is set against its ceiling, the
tau between the two seeds of stand-alone training. Number of subnets, seeds and steps are in benchmarks/paper.yaml. What
is done is not done again. Only accuracy is measured, so several trainings may run at a time, and on several machines,
one after the other: each that ends is kept in benchmarks/results/units, as are the Dice of the supernets' subnets, and
with --published both are done elsewhere, too.
"""

from __future__ import annotations

import argparse
import logging
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import update_readme
from comparison.command import BENCHMARKS, parser_of, run
from comparison.methods import Comparison, Method, check_settings, read_comparison, total_epochs, with_steps
from comparison.pictures import ranking_picture
from comparison.published import UNITS, holds_published, publish_units, take_published
from comparison.summary import finished_units, write_json
from comparison.units import Unit, check_units, evaluate, evaluate_unit, train_unit
from comparison.workplace import Workplace, environment
from scipy.stats import bootstrap, kendalltau

from prox_monai.evaluation.multiply_adds import MultiplyAdds
from prox_monai.integrations.nnunet.trained import load_trained
from prox_monai.space import SubnetConfig

RESULTS = BENCHMARKS / "results"
FOLD = 1  # as in paper.py
EXTRACTED = "extracted"  # beside the stand-alone trainings, which have their subnets' names
POOL = 50  # random subnets per stratum
RESAMPLES = 2000
logger = logging.getLogger("prox_monai.benchmarks")


def main(argv: Sequence[str] | None = None) -> int:
    """Train, evaluate, compare; returns the exit code."""
    parser = parser_of(__doc__)
    parser.add_argument("--threads", type=int, help="those that the supernets were trained with, if they were given")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, one CPU thread each")
    parser.add_argument("--published", action="store_true", help="trainings of benchmarks/results/units are done")
    return run(rank, parser, argv)


def rank(arguments: argparse.Namespace) -> None:
    """Train what is missing, and write figures, picture and README.

    Raises:
        RuntimeError: When no supernet is trained yet, and none has been evaluated.
        ValueError: When the seeds are not two, for the ceiling, or something was trained with other settings.
    """
    comparison = read_comparison(arguments.settings, full=arguments.full, threads=arguments.threads)
    plan, root = comparison.ranking, arguments.output.absolute()
    if len(plan["seeds"]) != 2:
        raise ValueError(f"seeds of ranking must be two, for the ceiling, got {plan['seeds']}.")
    supernets = trained_supernets(comparison, root)
    if not (supernets or arguments.published):
        check_extracted(extracted_units(comparison, root), root, plan["method"])
    workplace = Workplace(arguments.data, arguments.output, arguments.device)
    name = workplace.results_name("ranking", full=arguments.full)
    keep = keeper(root / "ranking", RESULTS / UNITS / name, take=arguments.published)
    for unit in supernets:
        extract(unit, comparison, workplace)
    extracted = extracted_units(comparison, root)
    check_extracted(extracted, root, plan["method"])
    check_units(extracted, plan["subnets"], workplace.device)
    chosen = {row["name"]: row["macs"] for row in extracted[0].result["subnets"]}
    units = stand_alone_units(comparison, list(chosen), root)
    check_units(units, 0, workplace.device)
    for unit in extracted:
        keep(unit.folder)
    train(units, workplace, arguments.jobs, keep)
    dice = {(unit.method.name, unit.seed): unit.result["dice"]["mean"] for unit in units}
    alone = [[dice[subnet, seed] for subnet in chosen] for seed in plan["seeds"]]
    taken = [[row["dice"] for row in unit.result["subnets"]] for unit in extracted]
    settings = units[0].method.settings
    result = {
        "command": f"python benchmarks/ranking.py --data DIR --jobs 2{comparison.flags(full=arguments.full)}",
        "method": plan["method"],
        "seeds": plan["seeds"],
        "steps": total_epochs(settings) * settings["iterations_per_epoch"],
        **compare(taken, alone),
        "subnets": [
            {"name": subnet, "macs": macs, "extracted": [e[i] for e in taken], "alone": [a[i] for a in alone]}
            for i, (subnet, macs) in enumerate(chosen.items())
        ],
    }
    publish(result, name)


def trained_supernets(comparison: Comparison, root: Path) -> list[Unit]:
    """Return the supernets whose models are there: published units have none."""
    method = comparison.methods[comparison.ranking["method"]]
    done = [unit for unit in finished_units(root, [method]) if unit.fold == FOLD]
    return [unit for unit in done if any(unit.folder.glob("nnUNet_results/*/*/*/checkpoint_final.pth"))]


def extracted_units(comparison: Comparison, root: Path) -> list[Unit]:
    """Return the supernets whose subnets have been evaluated, each as a unit of its own, which needs no model."""
    method = comparison.methods[comparison.ranking["method"]]
    return finished_units(root / "ranking", [replace(method, name=EXTRACTED)])


def check_extracted(units: Sequence[Unit], root: Path, method: str) -> None:
    """Raise RuntimeError when there is no supernet to compare with."""
    if not units:
        raise RuntimeError(f"{root} holds no finished {method} with its model; run benchmarks/paper.py first.")


def extract(supernet: Unit, comparison: Comparison, workplace: Workplace) -> None:
    """Evaluate the subnets that are ranked, as a supernet holds them; not again.

    Raises:
        ValueError: When the supernet, or its subnets, were begun with other settings.
    """
    count, settings = comparison.ranking["subnets"], supernet.settings()
    supernet.begin(settings, comparison.subnets, workplace.device)
    unit = replace(supernet, method=replace(supernet.method, name=EXTRACTED), root=supernet.root / "ranking")
    unit.begin(settings, count, workplace.device)
    if unit.result is not None:
        return
    model = load_trained(workplace.fold_folder(supernet).parent, supernet.fold)
    costs = model.multiply_adds()
    chosen = {config.name: config for config in stratified(costs, count)}
    rows = {row["name"]: row for row in evaluate(model, list(chosen.items()), unit.folder / "subnets.jsonl", workplace)}
    subnets = [{"name": name, "macs": costs(config), "dice": rows[name]["dice"]} for name, config in chosen.items()]
    unit.finish({"of": supernet.method.name, "environment": environment(workplace.device), "subnets": subnets})


def publish(result: dict[str, Any], name: str) -> None:
    """Write the result, its picture and README."""
    write_json(result, RESULTS / f"{name}.json")
    ranking_picture(result, RESULTS / f"{name}.png")
    update_readme.write_readme()


def stratified(costs: MultiplyAdds, count: int) -> list[SubnetConfig]:
    """Return the smallest, the largest, and a random subnet of each stratum of equal probability between them.

    Args:
        costs: counts multiply-adds, by which subnets are ordered.
        count: number of subnets, at least 3.

    Raises:
        ValueError: When the space has fewer.
    """
    space, rng = costs.space, random.Random("ranking")
    ends = [space.smallest(), space.largest()]
    pool = {space.sample(rng): None for _ in range(POOL * (count - 2))}
    ordered = sorted((config for config in pool if config not in ends), key=lambda config: (costs(config), config))
    if len(ordered) < count - 2:
        raise ValueError(f"subnets of ranking must be at most {len(ordered) + 2} in this space, got {count}.")
    edges = [round(i * len(ordered) / (count - 2)) for i in range(count - 1)]
    inner = [rng.choice(ordered[low:high]) for low, high in pairwise(edges)]
    return [ends[0], *inner, ends[1]]


def stand_alone_units(comparison: Comparison, chosen: Sequence[str], root: Path) -> list[Unit]:
    """Return a unit per subnet's name and seed."""
    plan = comparison.ranking
    settings = with_steps({**comparison.common, **plan["settings"]}, plan["steps"])
    methods = [Method(name, {**settings, "subnet": name}) for name in chosen]
    check_settings("ranking", methods[0].settings)
    return [Unit(method, seed, FOLD, root / "ranking") for seed, method in product(plan["seeds"], methods)]


def keeper(output: Path, published: Path, *, take: bool) -> Callable[[Path], None]:
    """Return what keeps a unit's folder among the published ones, where all of those are done here.

    Args:
        output: folder of the units here.
        published: folder of the published ones; it need not exist.
        take: the published ones are done here, too.
    """
    if take:
        logger.info("%d trainings are taken from what is published", take_published(published, output))
    if holds_published(output, published):
        return lambda folder: publish_units([folder], output, published)
    logger.info("%s has others, so trainings stay in %s; --published takes them", published, output)
    return lambda folder: None


def train(units: Sequence[Unit], workplace: Workplace, jobs: int, keep: Callable[[Path], None]) -> None:
    """Run all units, ``jobs`` trainings at a time, and keep each; the first that fails ends all, as an interruption."""
    missing = [unit for unit in units if unit.result is None]
    logger.info("%d of %d stand-alone trainings are done", len(units) - len(missing), len(units))
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(train_unit, unit, workplace, 0) for unit in missing]
        try:
            for number, (unit, future) in enumerate(zip(missing, futures, strict=True), 1):
                future.result()
                dice = evaluate_unit(unit, workplace, 0)["dice"]["mean"]
                keep(unit.folder)
                logger.info("%d of %d: %s, seed %d: %.3f", number, len(missing), unit.method.name, unit.seed, dice)
        except BaseException:
            workplace.stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def compare(extracted: Sequence[Sequence[float]], alone: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return tau, its ceiling and the gap, each with the ends of its 95 % bootstrap interval over subnets.

    Args:
        extracted: Dice of each subnet, for each supernet.
        alone: Dice of each subnet, for each of two seeds of stand-alone training.
    """
    subnets = list(zip(zip(*extracted, strict=True), zip(*alone, strict=True), strict=True))

    def tau(rows: Sequence[Any]) -> float:
        return statistics.fmean(
            _tau([row[0][i] for row in rows], [row[1][j] for row in rows])
            for i in range(len(extracted))
            for j in range(len(alone))
        )

    def ceiling(rows: Sequence[Any]) -> float:
        return _tau([row[1][0] for row in rows], [row[1][1] for row in rows])

    def gap(rows: Sequence[Any]) -> float:
        return statistics.fmean(statistics.fmean(row[0]) - statistics.fmean(row[1]) for row in rows)

    measured = {"tau": tau, "ceiling": ceiling, "gap": gap}
    return {name: _with_interval(subnets, statistic) for name, statistic in measured.items()}


def _with_interval(items: Sequence[Any], statistic: Callable[[Sequence[Any]], float]) -> dict[str, float]:
    """A statistic with the ends of its 95 % percentile bootstrap interval, always the same."""
    interval = bootstrap(
        (np.arange(len(items)),),
        lambda drawn: statistic([items[i] for i in drawn]),
        vectorized=False,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=0,
    ).confidence_interval
    return {"mean": statistic(items), "low": float(interval.low), "high": float(interval.high)}


def _tau(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau-b; a resample that is all ties ranks nothing."""
    value = float(kendalltau(a, b).statistic)
    return 0.0 if value != value else value


if __name__ == "__main__":
    sys.exit(main())
