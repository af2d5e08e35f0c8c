"""The lines of the results on trainings: the demo, the comparison, ranking, a step's cost, MONAI's bundles."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from comparison.command import BENCHMARKS
from comparison.markdown import markdown

from prox_monai.evaluation.multiply_adds import ALIASES


def demo_lines(results: Path) -> list[str]:
    """Return the lines on the subnets of the demo."""
    result = json.loads((results / "demo_hippocampus.json").read_text())
    rows = {row["name"]: row for row in result["subnets"]}
    random = [row["dice"] for row in result["subnets"] if row["name"] not in ALIASES and "/" not in row["name"]]
    device, minutes = result["measured_on"], sum(result["minutes"].values())
    return [
        "",
        f"`{result['command']}`: MSD Task04 (200 cases, CC BY-SA 4.0), fold 0, {result['cases']} unseen cases, whole "
        f"volumes, hard Dice, no mirroring, one seed; {device['device']}, threads: {device['threads']}, torch "
        f"{device['torch']}. One training of {result['train_seconds'] / 60:.1f} minutes gave them all; the whole demo "
        f"took {minutes:.1f}.",
        "",
        *markdown(
            ("subnet", "name", "parameters", "multiply-adds", "latency", "mean Dice", "anterior", "posterior"),
            "llrrrrrr",
            [*(subnet_cells(name, rows[name]) for name in ALIASES), random_cells(random)],
        ),
        "",
        "![Dice against latency](benchmarks/results/demo_hippocampus_pareto.png)",
    ]


def subnet_cells(name: str, row: dict) -> tuple[str, ...]:
    """Return the cells of a subnet."""
    return (
        name,
        f"`{row['key']}`",
        f"{row['parameters'] / 1e6:.2f} M",
        f"{row['macs'] / 1e9:.2f} G",
        f"{row['latency_ms']:.0f} ms",
        *(f"{dice:.3f}" for dice in (row["dice"], *row["dice_per_label"].values())),
    )


def random_cells(dice: list[float]) -> tuple[str, ...]:
    """Return the cells of the random subnets."""
    span = f"{fmean(dice):.3f} ({min(dice):.3f} to {max(dice):.3f})"
    return (f"{len(dice)} random subnets", "mean (least to most)", "", "", "", span, "", "")


def expansion_lines(results: Path) -> list[str]:
    """Return the lines on what each expansion of the demo did and gained."""
    phases = json.loads((results / "demo_hippocampus.json").read_text())["phases"]
    expanded = [phase for phase in phases if phase.get("gain")]
    if not expanded:
        return []
    gains = [phase["gain"] for phase in expanded]
    cells = (
        (
            phase["stage"],
            f"{phase['loss_before']:.3f}",
            f"{phase['loss_after']:.3f}",
            f"{gain['mean']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})",
            f"{gain['upper']:+.4f}",
            gain["decision"],
        )
        for phase, gain in zip(expanded, gains, strict=True)
    )
    header = ("opened", "loss before", "after", "gain in Dice (95 % interval)", "90 % upper bound", "the dimension")
    return [
        "",
        f"What each expansion did to the loss of the largest subnet, at once, and what it had gained at the end of its "
        f"phase, on {gains[0]['cases']} other unseen cases; where the 90 % upper bound is below {gains[0]['delta']:g}, "
        f"`expansion: stop` would open no further candidate of the dimension, had it more than these two:",
        "",
        *markdown(header, "lrrrrl", cells),
    ]


def paper_lines(results: Path, size: str = "") -> list[str]:
    """Return the lines on the comparison of trainings, if it was made; ``size`` is ``_full`` for that on a GPU."""
    path = results / f"paper_hippocampus{size}.json"
    if not path.exists():
        return []
    result = json.loads(path.read_text())
    machine = "{device}, threads: {threads}, torch {torch}".format_map(result["machine"])
    folds = ", ".join(map(str, sorted({unit["fold"] for unit in result["units"]})))
    subnets = max((unit["dice"]["subnets"] for unit in result["units"] if unit.get("dice")), default=0)
    return [
        "",
        f"`{result['command']}`: the same data, {result['cases']} unseen cases of fold {folds}; {subnets} "
        f"random subnets per training, the same for all methods of one space; every training with `ProXTrainer` has "
        f"as many steps as any other, except where the name says otherwise; `nnunet` makes as many as fit into the "
        f"time of PS, on a CPU a small part of the 250,000 that its own schedule is made for; medians over the seeds; "
        f"training time without validation, in minutes of the processor that most of progressive shrinking (PS) was "
        f"trained on, and against PS of the same seed on the same processor; {machine}. What each method is: "
        "[benchmarks/paper.yaml](benchmarks/paper.yaml).",
        "",
        *method_table(result["methods"]),
        *missing_lines(result["not_trained"]),
        "",
        *bar_table(result["bars"]),
        *stop_lines(result["units"]),
        *paper_pictures(results, size),
    ]


def comparison_headline(results: Path) -> list[str]:
    """Return the main methods of the comparison and what they are held to, if it was made."""
    path = results / "paper_hippocampus.json"
    if not path.exists():
        return []
    result = json.loads(path.read_text())
    main = yaml.safe_load((BENCHMARKS / "paper.yaml").read_text())["groups"]["main"]
    return [
        "",
        f"`make bench`: ProX as published (`paper`), ours (`plus`), and progressive shrinking (PS), the order of "
        f"once-for-all, from large to small; as many steps each, on {result['cases']} other unseen cases. Dice is the "
        f"mean over subnets drawn at random from the family, the same for all methods; all figures are medians over "
        f"the seeds. Time is without validation, in minutes on the processor that most of PS was trained on, against "
        f"PS over all seeds that have it on one processor. The last phase of `plus` is its polishing: each step trains "
        f"the largest, the smallest and a random subnet, and the largest teaches the others. A bar is a target that "
        f"was set before anything was measured.",
        "",
        *method_table({name: row for name, row in result["methods"].items() if name in main}),
        "",
        *bar_table(result["bars"]),
        "",
        "![Dice of random subnets](benchmarks/results/paper_hippocampus_dice.png)",
    ]


def method_table(methods: Mapping[str, dict]) -> list[str]:
    """Return a row per method."""
    header = ("method", "trainings", "time", "÷ PS", "subnets' multiply-adds ÷ PS", "mean Dice (least to most)")
    rows = (method_cells(name, row) for name, row in methods.items())
    return markdown((*header, "smallest", "largest"), "lrrrrrrr", rows)


def missing_lines(names: Sequence[str]) -> list[str]:
    """Return which methods are not trained yet."""
    return ["", f"Not trained yet: {', '.join(f'`{name}`' for name in names)}."] if names else []


def bar_table(bars: list[dict]) -> list[str]:
    """Return a row per bar."""
    said = {True: "yes", False: "no", None: "not measured"}
    rows = ((b["what"], b["bar"], _number(b["measured"]), said[b["met"]], str(b["seeds"])) for b in bars)
    return markdown(("bar", "", "measured", "met", "trainings"), "lrrlr", rows)


def stop_lines(units: list[dict]) -> list[str]:
    """Return what ``expansion: stop`` did to a larger space, for each seed that was trained with and without it."""
    off, stop = (
        {(unit["seed"], unit["fold"]): unit for unit in units if unit["method"] == name}
        for name in ("plus_wider", "plus_wider_stop")
    )
    lines = []
    for key in off.keys() & stop.keys():
        whole, stopped = off[key], stop[key]
        gains = [
            f"{phase['stage']} {phase['gain']['mean']:+.4f} (90 % upper bound {phase['gain']['upper']:+.4f}), "
            f"{'the dimension ends' if phase['gain']['decision'] == 'ends' else 'goes on'}"
            for phase in stopped["phases"]
            if phase.get("gain")
        ]
        lines += [
            "",
            f"`expansion: stop` on depths {whole['settings']['depth']} and widths {whole['settings']['width']} "
            f"(`plus_wider_stop` beside `plus_wider`, seed {key[0]}): {'; '.join(gains)}. "
            f"{len(stopped['phases'])} phases instead of {len(whole['phases'])}, "
            f"{stopped['train_seconds'] / 60:.1f} minutes instead of {whole['train_seconds'] / 60:.1f}; Dice of the "
            f"largest {stopped['named']['largest']:.3f} instead of {whole['named']['largest']:.3f}, mean of the random "
            f"subnets {stopped['dice']['mean']:.3f} instead of {whole['dice']['mean']:.3f}.",
        ]
    return lines


def paper_pictures(results: Path, size: str) -> list[str]:
    """Return the pictures of the comparison."""
    pictures = {
        "time": "Training time",
        "dice": "Dice of random subnets",
        "latency": "Dice by latency",
        "loss": "Losses and phases",
        "loss_minutes": "The same over the time",
    }
    files = {f"paper_hippocampus{size}_{name}.png": alt for name, alt in pictures.items()}
    lines = (["", f"![{alt}](benchmarks/results/{file})"] for file, alt in files.items() if (results / file).exists())
    return [line for pair in lines for line in pair]


def method_cells(name: str, row: dict) -> tuple[str, ...]:
    """Return the cells of a method."""
    span = "" if row["mean"] is None else f"{row['mean']:.3f} ({row['min']:.3f} to {row['max']:.3f})"
    return (
        f"`{name}`",
        str(row["units"]),
        "" if row["train_seconds"] is None else f"{row['train_seconds'] / 60:.1f} min",
        *(_number(row[f"{field}_ratio"], 2) for field in ("train_seconds", "multiply_adds_1e9")),
        span,
        *(_number(row[alias]) for alias in ("smallest", "largest")),
    )


def ranking_lines(results: Path, size: str = "") -> list[str]:
    """Return the lines on subnets that were trained alone, if they were; ``size`` as for the comparison."""
    path = results / f"ranking_hippocampus{size}.json"
    if not path.exists():
        return []
    result = json.loads(path.read_text())
    tau, ceiling, gap = (
        f"{part['mean']:.2f} ({part['low']:.2f} to {part['high']:.2f})"
        for part in (result["tau"], result["ceiling"], {k: 100 * v for k, v in result["gap"].items()})
    )
    return [
        "",
        f"`{result['command']}`: {len(result['subnets'])} subnets, each also trained alone with {result['steps']} "
        f"steps and {len(result['seeds'])} seeds. Kendall's tau between the Dice of extracted and stand-alone subnets "
        f"{tau}; between two seeds of stand-alone training, the ceiling, {ceiling}. Extracted - stand-alone: {gap} "
        f"points of Dice. Intervals: 95 %, bootstrap over subnets.",
        "",
        f"![Extracted against stand-alone subnets](benchmarks/results/ranking_hippocampus{size}.png)",
    ]


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def step_cost_lines(results: Path) -> list[str]:
    """Return the lines on step cost, for each device that was measured."""
    lines = []
    for path in sorted(results.glob("step_cost_*.json")):
        result = json.loads(path.read_text())
        phases = "; ".join(
            f"{name}: {min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} phases"
            for name, rows in result["phases"].items()
            for ratios in [[row["steps_ratio"] for row in rows]]
        )
        memory = max(row["memory_ratio"] for rows in result["phases"].values() for row in rows)
        lines += [
            "",
            f"`{result['command']}` on {result['machine']['device']}: time of a phase's training steps divided by that "
            f"of plain networks of the same configurations, {phases}; memory beside activations {memory:.2f} times "
            f"theirs at most; first step of a new configuration {result['fresh_ratio']:.2f} times a later one.",
        ]
    return lines


def bundle_lines(results: Path) -> list[str]:
    """Return the lines on the MONAI bundles, if they were measured."""
    path = results / "bundles.json"
    if not path.exists():
        return []
    result = json.loads(path.read_text())
    header = ("bundle", "data", "processor", "training", *ALIASES, "random subnets: mean (least to most)")
    count = max(bundle["random"]["subnets"] for bundle in result.values())
    return [
        "",
        f"`make bench-bundles`: MONAI bundles with their quick settings, one seed; mean Dice, for the classifier "
        f"balanced accuracy; {count} random subnets; training is the whole command, with its start and validations.",
        "",
        *markdown(header, "lllrrrrr", [_bundle_row(name, bundle) for name, bundle in result.items()]),
        "",
        "By class, the largest subnet: " + "; ".join(_classes(name, bundle) for name, bundle in result.items()) + ".",
        *_predicted_lines({name: bundle for name, bundle in result.items() if "predicted" in bundle}),
    ]


def _predicted_lines(result: Mapping[str, Any]) -> list[str]:
    """What the bundles that were measured whole took and wrote."""
    if not result:
        return []
    steps = list(dict.fromkeys(step for bundle in result.values() for step in bundle["seconds"]))
    rows = [_steps_row(name, bundle, steps) for name, bundle in result.items()]
    return [
        "",
        "Each command, with its start; all images are predicted, by the smallest subnet, the largest, and the best "
        "within the median latency of those known; whether each image has a prediction, of its geometry, was checked:",
        "",
        *markdown(("bundle", *steps, "predictions", "labels"), "l" + "r" * len(steps) + "rl", rows),
        "",
        "The largest subnet as a bundle that needs no prox-monai predicts the same as in its own bundle: "
        + "; ".join(_agreement(name, bundle["predicted"]["exported"]) for name, bundle in result.items())
        + ".",
    ]


def _bundle_row(name: str, bundle: Mapping[str, Any]) -> tuple[str, ...]:
    cases, drawn = bundle["cases"], bundle["random"]
    of = f"{cases['measured']} {'unseen' if cases['unseen'] else 'training'} cases"
    return (
        name,
        f"{bundle['data']}, {of}",
        f"{bundle['machine']['device']}, threads: {bundle['machine']['threads']}",
        _minutes(bundle["seconds"]["train"]),
        *(_number(bundle["named"][alias]["score"]) for alias in ALIASES),
        f"{drawn['mean']:.3f} ({drawn['min']:.3f} to {drawn['max']:.3f})",
    )


def _steps_row(name: str, bundle: Mapping[str, Any], steps: Sequence[str]) -> tuple[str, ...]:
    written = bundle["predicted"]["smallest"]
    seconds = (_minutes(bundle["seconds"].get(step)) for step in steps)
    return name, *seconds, str(written["images"]), ", ".join(map(str, written["labels"]))


def _agreement(name: str, exported: Mapping[str, Any]) -> str:
    """By how much an exported bundle differs, at most."""
    images = exported["images"]
    if "voxels_differ" in exported:
        return f"{name}, {images} images, {100 * exported['voxels_differ']:.2g} % of an image's voxels differ at most"
    return f"{name}, {images} images, probabilities differ by {exported['probabilities_differ']:.1g} at most"


def _minutes(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds / 60:.1f} min"


def _classes(name: str, bundle: Mapping[str, Any]) -> str:
    """Dice of each region, or recall of each class."""
    largest = bundle["named"]["largest"]
    values = next(iter(largest["per_class"].values()), None) or largest["metrics"]["val_recall"]
    names = bundle["classes"][-len(values) :]
    pairs = zip(names, values, strict=True)
    return f"{name} " + ", ".join(f"{each} {_number(value) or 'without a case'}" for each, value in pairs)
