"""The lines of the results on devices and hosts: search, export, int8, Auto3DSeg, OCT, reversible blocks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from comparison.markdown import markdown

from prox_monai.evaluation.multiply_adds import ALIASES
from prox_monai.export.formats import RUNTIMES
from prox_monai.export.parity import TOLERANCE


def auto3dseg_lines(results: Path) -> list[str]:
    """Return the lines on Auto3DSeg, alone and beside segresnet, as far as it was measured."""
    alone, beside = (_read(results / f"auto3dseg{name}.json") for name in ("", "_beside"))
    return [*(_auto3dseg_lines(alone) if alone else []), *(_beside_lines(beside) if beside else [])]


def _beside_lines(result: Mapping[str, Any]) -> list[str]:
    scores = ", ".join(f"{name} {score:.3f}" for name, score in result["scores"].items())
    return [
        "",
        f"`python benchmarks/auto3dseg.py --beside TEMPLATES`: the same beside MONAI's `segresnet`, which is trained "
        f"for one epoch only, {result['machine']['threads']} threads: {result['seconds'] / 60:.1f} minutes from "
        f"analysis to {result['predicted']} predictions of both together. Scores: {scores}.",
    ]


def _auto3dseg_lines(result: Mapping[str, Any]) -> list[str]:
    cases, machine = result["cases"], result["machine"]
    seconds = result["seconds"]  # None of a run that was interrupted
    duration = "" if seconds is None else f"{seconds / 60:.1f} minutes from analysis to predictions, "
    rows = [
        (
            f"{name} `{row['key']}`",
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['latency_ms']:.0f} ms",
            f"{row['predict_seconds_per_case']:.2f} s",
            f"{row['predict_dice']:.3f}",
        )
        for name, row in ((alias, result["subnets"][alias]) for alias in ALIASES)
    ]
    return [
        "",
        f"`make bench-auto3dseg`: `AutoRunner` with `prox` alone, {result['data']}, fold 0, "
        f"{cases['all'] - cases['validation']} training and {cases['validation']} validation cases, quick settings "
        f"({result['settings']['num_epochs']} epochs of {result['settings']['prox_iterations_per_epoch']} steps), one "
        f"seed, {machine['threads']} threads: {duration}score "
        f"{result['score']:.3f}. Through Auto3DSeg's own predict, reading and saving included:",
        "",
        *markdown(("subnet", "parameters", "one patch", "one case", "Dice of saved files"), "lrrrr", rows),
    ]


def oct_lines(results: Path) -> list[str]:
    """Return the lines on the OCT classifier, for the settings and data that were measured."""
    sizes = {
        "oct": ("make bench-oct", "quick settings, which were chosen on folds 0 and 1"),
        "oct_full": ("python benchmarks/oct.py --data DIR --full", "own size"),
        "oct_synthetic": (
            "python benchmarks/oct.py --data synthetic --folds 0 --methods plus",
            "quick settings, synthetic images of four classes",
        ),
    }
    found = ((name, *about, _read(results / f"{name}.json")) for name, about in sizes.items())
    return [line for *about, result in found if result is not None for line in _oct_lines(*about, result)]


def _oct_lines(name: str, command: str, size: str, result: Mapping[str, Any]) -> list[str]:
    methods, machine, latency = result["methods"], result["machine"], result["latency_buckets"]
    subnets = max(row["random"]["subnets"] for row in methods.values())
    folds = result["shared_folds"]
    shared = f"fold{'s' * (len(folds) > 1)} {_listed(folds) if folds else 'none'}"
    header = (
        "method",
        "folds",
        "training",
        "÷ PS",
        "random subnets: mean (least to most)",
        f"mean, {shared} alone",
        "largest, pooled (95 %)",
    )
    means = latency["mean_balanced_accuracy"]
    by_fold = f"{shared} alone" if folds else "each method over its own folds"
    return [
        "",
        f"`{command}`: methods on the OCT classifier, {result['images']} unseen images in all folds together, "
        f"grouped by patient; the bundle's {size}, {result['epochs']} epochs each, "
        f"{_listed(result['pixels'])} pixels; {machine['device']}, threads: {machine['threads']}. "
        f"Balanced accuracy (chance 0.25) on unseen images of {subnets} random subnets, each averaged over the folds, "
        f"and of the largest over the images of all folds with a bootstrap over patients; training per fold, without "
        f"validation, in minutes of the processor that most of progressive shrinking (PS) was trained on, and against "
        f"PS of the same fold on the same processor; methods compare on the folds that all have:",
        "",
        *markdown(header, "lrrrrrr", (_oct_cells(method, row) for method, row in methods.items())),
        "",
        f"The random subnets by latency, {by_fold}:",
        "",
        *markdown(
            ("method", *(f"{low:.1f} to {high:.1f} ms" for low, high in latency["milliseconds"])),
            "l" + "r" * len(latency["milliseconds"]),
            ((f"`{method}`", *map(_score, row)) for method, row in means.items()),
        ),
        "",
        f"![Balanced accuracy by latency](benchmarks/results/{name}.png)",
    ]


def _oct_cells(method: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    drawn, largest, ratio = row["random"], row["largest_pooled"], row["train_seconds_ratio"]
    return (
        f"`{method}`",
        str(len(row["folds"])),
        "" if row["train_seconds"] is None else f"{row['train_seconds'] / 60:.1f} min",
        "" if ratio is None else f"{ratio:.2f}",
        f"{drawn['mean']:.3f} ({drawn['min']:.3f} to {drawn['max']:.3f})",
        _score(row["random_mean_of_shared_folds"]),
        f"{largest['balanced_accuracy']:.3f} ({largest['low']:.3f} to {largest['high']:.3f})",
    )


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def deploy_lines(results: Path) -> list[str]:
    """Return the lines on the subnet for a device, with each set of instructions that was measured."""
    return [line for path in sorted(results.glob("deploy*.json")) for line in _deploy_lines(_read(path))]


def deploy_headline(results: Path) -> list[str]:
    """Return what a subnet for a device saves and costs, if it was measured."""
    if (result := _read(results / "deploy.json")) is None:
        return []
    reported, machine = result["reporting"], result["machine"]
    return [
        "",
        f"`make bench-deploy`: the largest subnet of another family ({_listed(result['width'])} of the planned "
        f"channels), one that was chosen for {machine['device']}, and the network that nnU-Net plans, which is timed, "
        f"not trained; one patch. The chosen one in int8 has a mean Dice of {reported['int8']:.3f} "
        f"on {reported['cases']} unseen cases, the largest {reported['largest']:.3f}. "
        f"{_times_faster(result)}",
        "",
        *_network_table(result),
    ]


def _network_table(result: Mapping[str, Any]) -> list[str]:
    rows = (
        (
            name,
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['macs'] / 1e9:.2f} G",
            *(f"{row['latency_ms'][runtime]:.1f} ms" for runtime in RUNTIMES),
        )
        for name, row in result["networks"].items()
    )
    return markdown(("network", "parameters", "multiply-adds", *RUNTIMES), "lrrrrrr", rows)


def _times_faster(result: Mapping[str, Any]) -> str:
    planned, chosen = (result["networks"][name]["latency_ms"] for name in ("planned", "chosen"))
    return (
        f"In int8 it takes {planned['torch'] / chosen['openvino-int8']:.0f} times less time than nnU-Net's planned "
        f"network in PyTorch, {planned['openvino-int8'] / chosen['openvino-int8']:.1f} times less than that in int8."
    )


def _deploy_lines(result: Mapping[str, Any]) -> list[str]:
    reported, threads, machine = result["reporting"], result["threads"], result["machine"]
    limit, tuning = machine["instructions"], result["tuning"]
    only = f" with no other instructions than those of {limit} (`ONEDNN_MAX_CPU_ISA`)" if limit else ""
    return [
        "",
        f"`make bench-deploy MODEL=... FOLD={result['fold']}` on {machine['device']}{only}: {result['dataset']}, a "
        f"family of {result['subnets']:,} subnets of {_listed(result['width'])} of the planned channels at "
        f"{_listed(result['resolution'])} of the resolution, one patch, {threads} thread{'s' * (threads > 1)}, all in "
        f"one run. A search on the tuning half tried {tuning['subnets']} subnets with at most a tenth of the largest's "
        f"multiply-adds and parameters. {tuning['candidates']} are in their Pareto set, {tuning['within']} of those "
        f"take at most {tuning['limit_ms']:.1f} ms in int8, a twentieth less than bars below allow. The "
        f"{'best' if tuning['within'] else 'fastest'} was chosen, `{result['subnet']}`. On the other "
        f"{reported['cases']} unseen cases the largest has {reported['largest']:.3f}, the chosen one "
        f"{reported['chosen']:.3f}, in int8 {reported['int8']:.3f}. {_times_faster(result)}",
        "",
        *_network_table(result),
        "",
        *markdown(("bar", "", "measured", "met"), "lrrl", _deploy_bars(result)),
    ]


def _deploy_bars(result: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """What a subnet for a device is held to, in the terms of one run."""
    networks, reported = result["networks"], result["reporting"]
    planned, largest, chosen = (networks[name] for name in ("planned", "largest", "chosen"))
    times = chosen["latency_ms"]["openvino-int8"]
    given_up = reported["largest"] - reported["int8"]
    bars = [
        ("times as fast in int8 as the planned network in PyTorch", 40, planned["latency_ms"]["torch"] / times),
        ("times as fast as the planned network, both in int8", 8, planned["latency_ms"]["openvino-int8"] / times),
        ("times fewer multiply-adds than the largest subnet", 10, largest["macs"] / chosen["macs"]),
        ("times fewer parameters than the largest subnet", 10, largest["parameters"] / chosen["parameters"]),
    ]
    most = [
        ("Dice in int8 below the largest subnet in 32 bits, reporting half", 0.01, given_up),
        ("Dice that int8 costs, reporting half", 0.005, reported["chosen"] - reported["int8"]),
    ]
    return [
        *((name, f">= {bar}", f"{value:.1f}", _met(value >= bar)) for name, bar, value in bars),
        *((name, f"<= {bar}", f"{value:.4f}", _met(value <= bar)) for name, bar, value in most),
        *_parity_bars(result),
    ]


def _parity_bars(result: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """What each form in 32 bits differs by, where the stock folder was compared as well."""
    if "stock" not in result:
        return []
    forms = {form: checks["parity"] for form, checks in result["exported"].items() if form.endswith("fp32")}
    forms["stock nnU-Net folder"] = result["stock"]["parity"]
    shares = {form: parity["max_difference"] / parity["max_logit"] for form, parity in forms.items()}
    return [
        (
            f"difference of a logit ÷ the largest, {form}, {forms[form]['patches']} unseen patches",
            f"<= {TOLERANCE:.0e}",
            f"{share:.0e}",
            _met(share <= TOLERANCE),
        )
        for form, share in shares.items()
    ]


def memory_format_lines(results: Path) -> list[str]:
    """Return the lines on the layout of kernels, for each capability that was measured."""
    lines = []
    for path in sorted(results.glob("memory_format_*.json")):
        result = _read(path)
        pairs = {name: (times["channels last"], times["as they are"]) for name, times in result["seconds"].items()}
        said = "; ".join(f"{name} {a:.3f} s instead of {b:.3f} s ({a / b - 1:+.0%})" for name, (a, b) in pairs.items())
        lines += [
            "",
            f"`python benchmarks/memory_format.py` on {result['machine']['device']} ({result['capability']}), threads: "
            f"{result['threads']}: a step of forward and backward pass with 3-D kernels channels last, {said}.",
        ]
    return lines


def single_image_lines(results: Path) -> list[str]:
    """Return the lines on convolutions of one image, if they were measured."""
    if (result := _read(results / "single_image.json")) is None:
        return []
    machine, threads = result["machine"], result["threads"]
    pairs = {name: (times["oneDNN"], times["as torch"]) for name, times in result["milliseconds"].items()}
    said = "; ".join(f"`{name}` {a:.0f} ms instead of {b:.0f} ms (x {b / a:.1f})" for name, (a, b) in pairs.items())
    return [
        "",
        f"`python benchmarks/single_image.py` on {machine['device']}, {machine['instructions']}, {threads} "
        f"thread{'s' * (threads > 1)}: a pass of one hippocampus patch in torch, with oneDNN for what torch would "
        f"unfold, {said}.",
    ]


def _listed(values: Sequence[float]) -> str:
    *first, last = (f"{value:g}" for value in values)
    return f"{', '.join(first)} and {last}" if first else last


def _met(yes: bool) -> str:
    return "yes" if yes else "no"


def compression_lines(results: Path) -> list[str]:
    """Return the lines on what int8 and fine-tuning cost and give, if they were measured."""
    if (result := _read(results / "compression.json")) is None:
        return []
    machine, threads = result["machine"], result["threads"]
    rows = [
        (
            name,
            "; ".join(row["steps"]),
            f"{row['dice_tuning']:.4f}",
            f"{row['dice_reporting']:.4f}",
            f"{row['latency_ms']:.1f} ms",
            f"{row['megabytes']:.2f} MB",
        )
        for name, row in result["ways"].items()
    ]
    return [
        "",
        f"`{result['command']}` on {machine['device']}, {machine['instructions']}, {threads} "
        f"thread{'s' * (threads > 1)}: `{result['subnet']}` for OpenVINO, in several ways; mean Dice on the half of "
        f"the unseen cases that decides and on the {result['cases']} of the other half, latency of one patch, size.",
        "",
        *markdown(("way", "how", "Dice, tuning half", "Dice, reporting half", "latency", "size"), "llrrrr", rows),
    ]


def search_lines(results: Path) -> list[str]:
    """Return the lines on search and on predicted latency, as far as they were measured."""
    lines = []
    if (latency := _read(results / "search_latency.json")) is not None:
        tables = latency["tables"]
        rows = [
            (
                table["runtime"],
                str(table["networks"]),
                f"{table['mean_error']:.1%}",
                f"{table['tau']:.3f}",
                _met(table["mean_error"] <= 0.05 and table["tau"] >= 0.95),
            )
            for table in tables
        ]
        lines += [
            "",
            f"`python benchmarks/search.py latency MODEL_FOLDER --fold {latency['fold']} --runtime "
            f"{' '.join(table['runtime'] for table in tables)}`: latency that `prox-monai latency` predicts from "
            f"blocks against that of whole subnets held out, {latency['machine']['device']}, "
            f"{latency['machine']['threads']} thread:",
            "",
            *markdown(
                ("runtime", "subnets held out", "mean error", "Kendall's tau", "bar: <= 5%, >= 0.95"), "lrrrl", rows
            ),
        ]
    if (fronts := _read(results / "search_front.json")) is not None:
        lines += [
            "",
            f"`make bench-search`: search among {fronts['space_size']:,} subnets with a synthetic Dice "
            f"{_against_random(fronts['rows'])}.",
        ]
    if (searched := _read(results / "search_model.json")) is not None:
        search = searched["search"]
        lines += [
            "",
            f"`python benchmarks/search.py model MODEL_FOLDER --fold {searched['fold']} --trials {searched['trials']}` "
            f"on {searched['machine']['device']}, threads: {searched['machine']['threads']}: `prox-monai search` of "
            f"{search['space_size']:,} subnets (of a family that was trained for {search['training_steps']:,} steps) "
            f"with a limit scored {search['scored']} in {search['seconds'] / 60:.1f} minutes. With the Dice of the "
            f"trained subnets on the tuning half the search {_against_random(searched['fronts'])}.",
            "",
            *markdown(("bar", "", "measured", "met"), "lrrl", _search_bars(searched)),
        ]
    if (throughput := _read(results / "search_throughput.json")) is not None:
        lines += [
            "",
            f"`python benchmarks/search.py throughput MODEL_FOLDER --fold {throughput['fold']}` on "
            f"{throughput['machine']['device']}, threads: {throughput['machine']['threads']}: `prox-monai evaluate "
            f"--no-latency` of {throughput['subnets']} random subnets takes {throughput['ratio']:.2f} times what the "
            f"networks alone take (bar: <= 1.15; met: {_met(throughput['ratio'] <= 1.15)}).",
        ]
    return lines


def _search_bars(searched: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """What searching and evaluating are held to."""
    minutes = searched["search"]["seconds"] / 60
    wins = _wins(searched["fronts"])
    seeds, threads = len(searched["fronts"]), searched["machine"]["threads"]
    cores = "two cores" if threads == 2 else f"threads: {threads} (the bar is for two cores)"
    return [
        (f"minutes of a search with a limit, {cores}", "<= 10", f"{minutes:.1f}", _met(minutes <= 10)),
        (
            "seeds for which a search dominates more than random subnets",
            "all",
            f"{wins} of {seeds}",
            _met(wins == seeds),
        ),
    ]


def two_processes_lines(results: Path) -> list[str]:
    """Return the lines on two processes of which one is killed, if they were run."""
    if (result := _read(results / "two_processes.json")) is None:
        return []
    rows = [
        (
            what,
            str(seen["rows"]),
            str(seen["killed_at"]),
            "" if seen.get("missing") is None else str(seen["missing"]),
            str(seen["lost"]),
            str(seen["doubled"] + seen.get("front_doubled", 0)),
        )
        for what, seen in ((f"`prox-monai {name}`", result[key]) for name, key in _TWO_PROCESSES.items())
    ]
    return [
        "",
        f"`{result['command']}` on {result['machine']['device']}: two processes of one thread each on one search of "
        f"{result['space_size']:,} subnets and on one table, on unseen cases; one of them is killed in the middle, the "
        f"other completes the run:",
        "",
        *markdown(("command", "rows", "killed at", "missing", "lost", "doubled"), "lrrrrr", rows),
    ]


_TWO_PROCESSES = {"search": "search", "evaluate": "table"}


def _wins(rows: Sequence[Mapping[str, Any]]) -> int:
    return sum(row["hypervolume"] > row["random_hypervolume"] for row in rows)


def _against_random(rows: Sequence[Mapping[str, Any]]) -> str:
    beaten = [row["random_front_beaten"] for row in rows]
    return (
        f"dominates a larger hypervolume than as many random subnets for {_wins(rows)} of {len(rows)} seeds; of the "
        f"random subnets' front it beats or equals {min(beaten):.0%} to {max(beaten):.0%}"
    )


_PUBLISHED_REVERSIBLE = {"volume": "x 3", "depth": "x 1.25", "channels": "x 2"}


def reversible_lines(results: Path) -> list[str]:
    """Return the lines on reversible blocks, for each device that was measured."""
    lines = []
    for path in sorted(results.glob("reversible_*.json")):
        result = _read(path)
        base, (memory, seconds) = result["base"], _memory_and_seconds(result)
        header, align, rows = reversible_table(result)
        rows.append(("published", "", *(_PUBLISHED_REVERSIBLE[fit] for fit in result["fits"]), ""))
        patch = "x".join(map(str, base["patch"]))
        lines += [
            "",
            f"`{result['command']}` on {result['machine']['device']}: reversible blocks take "
            f"{memory['reversible']:.0f} MiB for a training step of one image ({patch} voxels, {base['depth']} blocks "
            f"a section, {base['channels']} channels at first) and {seconds['reversible']:.2f} s. A plain U-Net of "
            f"these channels, without expansion, takes {memory['plain']:.0f} MiB and {seconds['plain']:.2f} s. In "
            f"the memory of the same blocks with activations stored, or of inverted residuals that are not coupled, "
            f"a reversible network may have, and what was published of such blocks (Pendse et al. 2020):",
            "",
            *markdown(header, align, rows),
        ]
    return lines


def reversible_table(result: Mapping[str, Any]) -> tuple[tuple[str, ...], str, list[tuple[str, ...]]]:
    """Return header, alignment and rows of what a reversible network may have in the memory of the others."""
    memory, seconds = _memory_and_seconds(result)
    rows = [
        (
            name,
            f"{memory[name]:.0f} MiB",
            *(_multiple(fit[name]) for fit in result["fits"].values()),
            f"x {seconds['reversible'] / seconds[name]:.2f}",
        )
        for name in ("stored", "inverted")
    ]
    return ("instead of", "memory", *result["fits"], "time of a step"), "lr" + "r" * len(result["fits"]) + "r", rows


def _memory_and_seconds(result: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """MiB and seconds of a step of each network at the base size, which only there is timed."""
    timed = [row for row in result["sizes"] if row["seconds"] is not None]
    memory = {row["network"]: row["memory_bytes"] / 2**20 for row in timed}
    return memory, {row["network"]: row["seconds"] for row in timed}


def _multiple(fit: Mapping[str, Any]) -> str:
    """How many times as large a network is that fits, in words."""
    if fit["times"] is None:
        return "does not fit"
    return f"{'>=' if fit['at_least'] else 'x'} {fit['times']:.2f}"


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
