"""From a trained family to a device without a GPU: what the chosen subnet costs, and what it gives up.

    python benchmarks/deploy.py --model MODEL_FOLDER
    make bench-deploy MODEL=MODEL_FOLDER
    ONEDNN_MAX_CPU_ISA=AVX2_VNNI python benchmarks/deploy.py --model MODEL_FOLDER       a laptop's instructions

`MODEL_FOLDER` is one of ProXTrainer, for example what `make demo DATA=Task04_Hippocampus` leaves in
runs/demo/nnUNet_results; nnUNet_preprocessed names the data it was trained on. What is published is of the family of
benchmarks/device.yaml, `--fold 3`. One thread, one run:

1. A search on the tuning half of the unseen cases finds the best subnets with a tenth of the multiply-adds and of the
   parameters of the largest. Those of its Pareto set are timed in int8 beside the network that nnU-Net plans: the best
   that is 40 times as fast as that in PyTorch and 8 times as fast as that in int8, and a twentieth more, is chosen,
   where there is none, the fastest.
2. It is exported for OpenVINO in int8 and in 32 bits, for ONNX Runtime, by torch.export, and as a MONAI bundle, each
   compared with the plain network; the largest is exported as a stock nnU-Net folder, whose logits are compared, too.
3. Chosen, largest, and the network that nnU-Net plans are timed per patch in all runtimes, taking turns in each.
4. What is reported was not chosen on: Dice of the largest, of the chosen, and of its int8 form on the reporting half.

What is done is not done again. Results go to benchmarks/results/deploy.json and into benchmarks/RESULTS.md. Leave the
machine alone while it runs. Servers multiply matrices in 8 bits in units (AMX) that no laptop has. oneDNN, with which
both torch and OpenVINO compute, takes its instructions from ONEDNN_MAX_CPU_ISA, where it is set: the results of each
set have a file.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import device_lines
import torch
import update_readme
from comparison.command import run
from comparison.summary import write_json
from comparison.workplace import environment
from torch import nn
from tqdm import tqdm

from prox_monai.evaluation.cost import device_name, multiply_adds, parameters
from prox_monai.export.exported import load_exported
from prox_monai.export.runtimes import RUNTIMES, make_runtime
from prox_monai.export.timing import side_by_side
from prox_monai.integrations.nnunet.calibration import cases_of
from prox_monai.integrations.nnunet.compression import Compression
from prox_monai.integrations.nnunet.deploy import deploy
from prox_monai.integrations.nnunet.export import export_stock, stock_parity
from prox_monai.integrations.nnunet.planned import planned_module
from prox_monai.integrations.nnunet.scoring import CaseScorer, mean_dice
from prox_monai.integrations.nnunet.search import Wanted, search_trained
from prox_monai.integrations.nnunet.trained import TrainedModel, load_trained
from prox_monai.integrations.nnunet.unseen import evaluate_trained, preprocessed_folder, unseen_cases
from prox_monai.space import SubnetConfig

RESULTS = Path(__file__).parent / "results"
INSTRUCTIONS = "ONEDNN_MAX_CPU_ISA"
QUANTISED = "openvino-int8"
SMALLER = 10  # times, in multiply-adds and in parameters, than the largest subnet
FASTER = {"torch": 40, QUANTISED: 8}  # times, in int8, than the planned network in a runtime
MARGIN = 0.95  # of the time that this leaves: two measurements of one network differ by some percent
FORMS = (("openvino", "int8"), ("openvino", "fp32"), ("onnx", "fp32"), ("torch", "fp32"), ("bundle", "fp32"))


def main(argv: Sequence[str] | None = None) -> int:
    """Choose, export, measure; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder that ProXTrainer trained")
    parser.add_argument("--fold", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--trials", type=int, default=200, help="of the search, default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("runs", "deploy"), help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="of latency, default: %(default)s")
    return run(measure, parser, argv)


def measure(arguments: argparse.Namespace) -> None:
    """Make all measurements, write the result."""
    torch.set_num_threads(arguments.threads)
    model = load_trained(arguments.model, arguments.fold)
    output = arguments.output / model.digest
    output.mkdir(parents=True, exist_ok=True)
    chosen, tuned = choose(model, arguments.trials, output / "search", arguments.threads)
    exported = {form: export(model, chosen, form, output / chosen.name) for form in map("-".join, FORMS)}
    networks = {
        "planned": planned_module(model.plans_manager, model.configuration_name, model.dataset_json),
        "largest": model.supernet.extract(model.space.largest()).eval(),
        "chosen": model.supernet.extract(chosen).eval(),
    }
    times = timed(networks, model.input_shape, arguments.threads)
    result = {
        "dataset": model.plans["dataset_name"],
        "model": model.digest,
        "fold": model.fold,
        "subnets": model.space.size(),
        "width": list(model.space.width),
        "resolution": list(model.space.resolution),
        "subnet": chosen.name,
        "tuning": tuned,
        "networks": {
            name: {
                "parameters": parameters(network),
                "macs": multiply_adds(network, model.input_shape),
                "latency_ms": times[name],
            }
            for name, network in networks.items()
        },
        "exported": exported,
        "stock": stock(model, output / "stock"),
        "reporting": reported(model, networks, output / chosen.name / "openvino-int8"),
        "threads": arguments.threads,
        "machine": {"device": device_name("cpu"), "instructions": os.environ.get(INSTRUCTIONS), **environment()},
    }
    write_json(result, results_file(os.environ.get(INSTRUCTIONS)))
    update_readme.write_readme()
    print("\n".join(device_lines.deploy_lines(RESULTS)))


def results_file(instructions: str | None) -> Path:
    """Return the file of the results with these instructions; with all that the processor has, if none are given."""
    return RESULTS / f"deploy{'_' + instructions.lower() if instructions else ''}.json"


def choose(model: TrainedModel, trials: int, folder: Path, threads: int) -> tuple[SubnetConfig, dict[str, Any]]:
    """Return the best subnet on the tuning half within the limits of size and time.

    Args:
        model: the trained family.
        trials: number of subnets that are tried.
        folder: of the search.
        threads: of latency.

    Returns:
        The subnet, and how it was chosen; ``limit_ms`` is that of its time in int8.
    """
    folder.mkdir(exist_ok=True)
    preprocessed, ends = preprocessed_folder(model, os.environ), [("largest", model.space.largest())]
    (largest,) = evaluate_trained(model, ends, preprocessed, folder / "tuning.jsonl", half="tuning", repeats=0)
    limits = {cost: largest[cost] / SMALLER for cost in ("macs", "parameters")}
    with tqdm(desc="subnets scored", unit="", disable=None, leave=False) as bar:
        wanted = Wanted("macs", at_most=limits, trials=trials)
        found = search_trained(model, wanted, preprocessed, folder, scored=bar.update)
    best_first = sorted(found.front, key=lambda subnet: subnet.dice, reverse=True)
    times, limit = candidate_times(model, [subnet.config for subnet in best_first], threads)
    within = [subnet for subnet in best_first if times[subnet.config.name] <= limit]
    chosen = within[0] if within else min(best_first, key=lambda subnet: times[subnet.config.name])
    tuned = {"largest": largest["dice"], "chosen": chosen.dice, "subnets": len(found.tuning)}
    return chosen.config, tuned | {"candidates": len(times), "within": len(within), "limit_ms": limit}


def candidate_times(
    model: TrainedModel, candidates: Sequence[SubnetConfig], threads: int
) -> tuple[dict[str, float], float]:
    """Return the milliseconds of subnets in int8 by name, and how many they may be, measured in turn."""
    shape, planned = (
        model.input_shape,
        planned_module(model.plans_manager, model.configuration_name, model.dataset_json),
    )
    runtimes = {runtime: make_runtime(runtime, planned, shape, threads) for runtime in FASTER}
    for config in tqdm(candidates, desc="candidates", disable=None, leave=False):
        runtimes[config.name] = make_runtime(QUANTISED, model.supernet.extract(config).eval(), shape, threads)
    times = side_by_side(runtimes, torch.randn(1, *shape))
    return times, MARGIN * min(times.pop(runtime) / factor for runtime, factor in FASTER.items())


def export(model: TrainedModel, config: SubnetConfig, form: str, output: Path) -> dict[str, Any]:
    """Export the subnet in one form, unless it is there; returns how it compares with the plain one."""
    format, precision = form.split("-")
    folder, cases = output / form, cases_of(model, os.environ)
    if not folder.exists():
        deploy(model, config, format, folder, cases=cases, compression=Compression(precision=precision))
    description, _ = load_exported(folder)
    if description.subnet != config.name:
        raise ValueError(f"{folder} holds {description.subnet}, not {config.name}; remove it.")
    return dict(description.checks)


def stock(model: TrainedModel, folder: Path) -> dict[str, Any]:
    """Compare the largest subnet with itself as nnU-Net reads it from a stock model folder, on patches of unseen cases.

    Args:
        model: the trained family.
        folder: of the export, which is made unless it is there.
    """
    config, cases = model.space.largest(), cases_of(model, os.environ)
    if not folder.exists():
        export_stock([model], config, folder, cases=cases)
    (parity,) = stock_parity([model], config, folder, list(cases.parity_patches()))
    return {"subnet": config.name, "parity": asdict(parity)}


def timed(networks: Mapping[str, nn.Module], shape: Sequence[int], threads: int) -> dict[str, dict[str, float]]:
    """Return the milliseconds of one patch by network and runtime; in each runtime the networks take turns."""
    times: dict[str, dict[str, float]] = {name: {} for name in networks}
    for runtime in RUNTIMES:
        made = {name: make_runtime(runtime, network, shape, threads) for name, network in networks.items()}
        for name, time in side_by_side(made, torch.randn(1, *shape), repeats=15).items():
            times[name][runtime] = time
    return times


def reported(model: TrainedModel, networks: Mapping[str, nn.Module], quantised: Path) -> dict[str, Any]:
    """Return the mean Dice of subnets and of the quantised one on cases that nothing was chosen on."""
    preprocessed = preprocessed_folder(model, os.environ)
    cases = unseen_cases(preprocessed, model.fold, "reporting")
    scorer = CaseScorer(model, preprocessed, cases)
    _, runtime = load_exported(quantised, torch.get_num_threads())
    scored = {"largest": networks["largest"], "chosen": networks["chosen"], "int8": runtime}
    dice = {name: mean_dice(scorer(network)) for name, network in scored.items()}
    return {"cases": len(cases), **dice}


if __name__ == "__main__":
    sys.exit(main())
