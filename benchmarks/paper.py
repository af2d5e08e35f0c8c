"""The paper's experiments on real data: ProX, the paper's and ours, against progressive shrinking and others.

    python benchmarks/paper.py --data Task04_Hippocampus             the main comparison, seed 0
    python benchmarks/paper.py --data DIR --methods all --seeds 0 1 2
    python benchmarks/paper.py --data DIR --methods plus sandwich
    python benchmarks/paper.py --data DIR --full --device cuda       the planned network, batch and space
    python benchmarks/paper.py --data DIR --half tuning --methods plus plus_growing_patch      to choose a recipe
    make bench DATA=DIR                                              the first line, in the environment of make

Each method and seed is a unit: trained by nnU-Net's own command, then evaluated on random subnets and the unseen cases
of the reporting half. What is done is not done again; a unit that was broken off goes on where it was. Methods and
settings are in benchmarks/paper.yaml. Units run one after the other, so that their times can be compared: leave the
machine alone, or bind the command to a core of its own (taskset -c 0 ... --threads 1): on two cores two such commands,
for example of two seeds, do not disturb each other. After each unit the figures of all that are done are written to
benchmarks/results, with pictures, and into README.md; to the output folder while a published unit is not among them.
Each published unit is kept in benchmarks/results/units, without its model: with --published they are done here,
too, so that more methods and seeds can be added. Times are compared on one processor only. Fold 1 is reported, because
recipes are chosen on the tuning half of fold 0: with --half tuning, which writes into the output folder alone.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence

import torch
import update_readme
from comparison.command import BENCHMARKS, parser_of, run
from comparison.methods import Comparison, read_comparison
from comparison.pictures import draw
from comparison.published import UNITS, includes_published, publish_units, take_published
from comparison.summary import finished_units, summarise, write_json
from comparison.units import Unit, check_units, evaluate_unit, train_unit
from comparison.workplace import Workplace

from prox_monai.integrations.nnunet.unseen import Half, choose_device

RESULTS = BENCHMARKS / "results"
FOLDS: dict[Half, int] = {"reporting": 1, "tuning": 0}  # unless others are asked for
logger = logging.getLogger("prox_monai.benchmarks")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the units that are asked for; returns the exit code."""
    parser = parser_of(__doc__)
    parser.add_argument("--methods", nargs="+", default=["main"], help="methods or groups: main, others, all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--folds",
        nargs="+",
        type=int,
        choices=range(5),
        help="of nnU-Net's five; default: 1, with --half tuning 0, on which recipes are chosen",
    )
    help = "of the unseen cases, default: %(default)s; the default output of tuning is runs/bench_tuning"
    parser.add_argument("--half", choices=FOLDS, help=help)
    parser.add_argument("--threads", type=int, help="CPU threads; all cores unless given")
    parser.add_argument("--published", action="store_true", help="units of benchmarks/results/units are done")
    return run(compare, parser, argv)


def compare(arguments: argparse.Namespace) -> None:
    """Run all units, seeds outermost, and summarise after each."""
    device = choose_device(arguments.device)
    comparison = read_comparison(arguments.settings, full=arguments.full, threads=arguments.threads)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    methods = comparison.choose(arguments.methods)
    if min(arguments.seeds) < 0:
        raise ValueError(f"--seeds must be integers >= 0, got {' '.join(map(str, arguments.seeds))}.")
    folds = arguments.folds or [FOLDS[arguments.half]]
    units = [
        Unit(method, seed, fold, arguments.output.absolute())
        for seed in arguments.seeds
        for fold in folds
        for method in methods
    ]
    workplace = Workplace(arguments.data, arguments.output, device, arguments.half)
    if arguments.published:
        taken = take_published(RESULTS / UNITS / workplace.results_name("paper", full=arguments.full), workplace.output)
        logger.info("%d units are taken from what is published", taken)
    check_units(units, comparison.subnets, device, workplace.half)
    checked_units(comparison, workplace)
    missing = [unit for unit in units if unit.result is None]
    logger.info("%d of %d units are done", len(units) - len(missing), len(units))
    for number, unit in enumerate(missing, 1):
        logger.info("%d of %d: %s, seed %d, fold %d", number, len(missing), unit.method.name, unit.seed, unit.fold)
        train_unit(unit, workplace, comparison.subnets)
        result = evaluate_unit(unit, workplace, comparison.subnets)
        dice = result.get("dice")
        score = f"mean Dice {dice['mean']:.3f}" if dice else f"Dice {result['named']['largest']:.3f}"
        logger.info("  %.1f minutes of training, %s", result["train_seconds"] / 60, score)
        publish(comparison, workplace, full=arguments.full)
    if not missing:
        publish(comparison, workplace, full=arguments.full)


def publish(comparison: Comparison, workplace: Workplace, *, full: bool) -> None:
    """Write what is done as JSON, pictures and README.md's table; to the output folder where others are published.

    Raises:
        ValueError: When a unit was trained with other settings than those of now.
    """
    methods = list(comparison.methods.values())
    units = checked_units(comparison, workplace)
    results = [unit.result for unit in units]
    name = workplace.results_name("paper", full=full)
    ranking = RESULTS / f"{workplace.results_name('ranking', full=full)}.json"
    summary = summarise(
        results,
        methods,
        command=command_of(units, comparison, full=full, half=workplace.half),
        dataset=workplace.dataset,
        ranking=json.loads(ranking.read_text(encoding="utf-8")) if ranking.exists() else None,
    )
    all_published = workplace.half == "reporting" and includes_published(results, RESULTS / f"{name}.json")
    folder = RESULTS if all_published else workplace.output
    write_json(summary, folder / f"{name}.json")
    title = f"{workplace.dataset}, {summary['cases']} unseen cases"
    draw(results, folder, name, title=title, main=comparison.groups["main"])
    logger.info("  written to %s", folder / f"{name}.json")
    if all_published:
        publish_units([unit.folder for unit in units], workplace.output, RESULTS / UNITS / name)
        update_readme.write_readme()


def checked_units(comparison: Comparison, workplace: Workplace) -> list[Unit]:
    """Return the units that are done.

    Raises:
        ValueError: When one was trained with other settings than those of now: they do not belong into one table.
    """
    units = finished_units(workplace.output, list(comparison.methods.values()))
    for unit in units:
        unit.begin(unit.settings(), comparison.subnets, workplace.device, workplace.half)
    return units


def command_of(units: Sequence[Unit], comparison: Comparison, *, full: bool, half: Half) -> str:
    """Return the command that trains these units, and those that other seeds and folds have of their methods."""
    asked = {
        "methods": list(dict.fromkeys(unit.method.name for unit in units)),
        "seeds": sorted({unit.seed for unit in units}),
        "folds": sorted({unit.fold for unit in units}),
        "half": [half],
    }
    if asked["folds"] == [FOLDS[half]]:
        del asked["folds"]
    if half == "reporting":
        del asked["half"]
    options = " ".join(f"--{name} {' '.join(map(str, values))}" for name, values in asked.items())
    return f"python benchmarks/paper.py --data DIR {options}{comparison.flags(full=full)}"


if __name__ == "__main__":
    sys.exit(main())
