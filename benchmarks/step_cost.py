"""What a training step on the supernet costs, against the same subnets as plain networks.

    python benchmarks/step_cost.py                 the planned hippocampus network, 3-D and 2-D: ten minutes
    python benchmarks/step_cost.py --device cuda   the same on a GPU
    python benchmarks/step_cost.py --quick         two configurations a phase: does it run?

Three bars (docs/architecture.md, "Speed and memory"):

steps   forward, backward and optimizer of every phase on the supernet, new configurations included, divided by those
        of plain networks of the same configurations that exist already: <= 1.05 for each phase.
memory  gradients, optimizer state and opened shells of a phase, divided by parameters, gradients and optimizer state
        of the phase's largest plain network: <= 1.1.
fresh   the first step of a configuration divided by a later one, on a small 3-D network: <= 1.2.

What freezing blocks in the depth stage saves is measured too (about a sixth of a step at most).

Supernet and plain networks take turns within one process; ratios are medians over rounds.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from prox_monai import (
    PhaseSchedule,
    ProgressiveTraining,
    SearchSpace,
    SubnetConfig,
    Supernet,
    UNetArchitecture,
)
from prox_monai.elastic.memory_format import trained_fast
from prox_monai.evaluation.cost import device_name
from prox_monai.integrations.nnunet.architecture import PlainConvUNetArchitecture
from prox_monai.space.groups import unet_groups
from prox_monai.training import freeze_of

RESULTS = Path(__file__).parent / "results"
BARS = {"steps": 1.05, "memory": 1.1, "fresh": 1.2}
SPACE = {"depth": (1, 2), "width": (0.25, 0.5, 1.0), "kernel": (3, 5), "resolution": (0.6, 0.8, 1.0)}


@dataclass(frozen=True)
class Case:
    """A network and the batches that it trains on."""

    name: str
    architecture: PlainConvUNetArchitecture | UNetArchitecture
    levels: int
    patch: tuple[int, ...]
    batch: int


def planned(dims: int) -> PlainConvUNetArchitecture:
    """Return the network that nnU-Net plans for MSD Task04: 32-256 channels, two convolutions a stage."""
    kwargs = {
        "n_stages": 4,
        "features_per_stage": [32, 64, 128, 256],
        "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
        "kernel_sizes": [[3] * dims] * 4,
        "strides": [[1] * dims] + [[2] * dims] * 3,
        "n_conv_per_stage": [2] * 4,
        "n_conv_per_stage_decoder": [2] * 3,
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    imports = ("conv_op", "norm_op", "dropout_op", "nonlin")
    return PlainConvUNetArchitecture(1, 3, json.dumps(kwargs), imports)


def cases() -> list[Case]:
    """Return the networks of the main measurement, with patch and batch as nnU-Net plans them for these 200 cases."""
    return [
        Case("hippocampus, 3-D", planned(3), 4, (40, 56, 40), 7),
        Case("hippocampus, 2-D", planned(2), 4, (56, 40), 281),
    ]


class Stepper:
    """Trains one module: forward, backward, optimizer, timed together."""

    def __init__(self, network: nn.Module, x: Tensor) -> None:
        self.network, self.x = network.train(), x
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)

    def step(self, prepare=lambda: None) -> float:
        """Return the seconds of one step, ``prepare`` included."""
        _synchronise(self.x.device)
        start = time.perf_counter()
        prepare()
        self.optimizer.zero_grad(set_to_none=True)
        sum(output.square().mean() for output in self.network(self.x)).backward()
        self.optimizer.step()
        _synchronise(self.x.device)
        return time.perf_counter() - start

    def bytes_beside_activations(self) -> int:
        """Return the bytes of used parameters, gradients and optimizer state."""
        used = [p for p in self.network.parameters() if p in self.optimizer.state]
        state = sum(t.nbytes for p in used for t in self.optimizer.state[p].values() if torch.is_tensor(t))
        return state + sum(p.nbytes + (0 if p.grad is None else p.grad.nbytes) for p in used)


def measure_phases(case: Case, device: torch.device, steps: int, rounds: int) -> list[dict]:
    """Measure every phase of a ProX schedule, one after the other on one supernet."""
    space = SearchSpace(2 * case.levels - 1, **SPACE, groups=unet_groups(case.levels))
    schedule = PhaseSchedule.prox(space, 7)
    supernet = Supernet(case.architecture, space).to(device)
    training = ProgressiveTraining(supernet, schedule)
    x = torch.randn(case.batch, 1, *case.patch, device=device)
    elastic, rows = Stepper(supernet, x), []
    for phase in schedule.phases:
        training.begin_epoch(phase.index)
        training.teacher = None
        configs = [config for step in range(steps) for config in training.subnets_at(phase.index, step)]
        plain = {config: Stepper(laid_out(supernet.extract(config)), x) for config in configs}
        ratios, seconds = [], []
        for number in range(rounds + 1):
            forget_configurations(supernet)
            pairs = [
                alternate(elastic, plain[c], lambda c=c: supernet.activate(c), (n + number) % 2)
                for n, c in enumerate(configs)
            ]
            ours, theirs = map(sum, zip(*pairs, strict=True))
            if number:  # the first round warms up
                ratios.append(ours / theirs)
                seconds.append(theirs)
        memory = memory_ratio(elastic, supernet, phase.space.largest(), x)
        rows.append(
            {
                "phase": phase.index,
                "stage": str(phase.stage),
                "steps_ratio": statistics.median(ratios),
                "steps_ratio_range": [min(ratios), max(ratios)],
                "plain_seconds_per_step": statistics.median(seconds) / steps,
                "memory_ratio": memory,
            }
        )
        row = rows[-1]
        print(
            f"{case.name:18s} phase {phase.index + 1} {row['stage']:10s} "
            f"plain step {row['plain_seconds_per_step']:7.3f} s   "
            f"steps x {row['steps_ratio']:.3f} ({min(ratios):.3f}-{max(ratios):.3f})   memory x {memory:.3f}",
            flush=True,
        )
    return rows


def laid_out(network: nn.Module) -> nn.Module:
    """Give a plain network's kernels the layout that the supernet's have in training: overhead is what is measured."""
    for name, kernel in trained_fast(dict(network.named_parameters())).items():
        network.get_parameter(name).data = kernel.data
    return network


def alternate(elastic: Stepper, plain: Stepper, activate, plain_first: int) -> tuple[float, float]:
    """Return the seconds of a step on the supernet and on the plain network, in changing order."""
    if plain_first:
        theirs = plain.step()
        return elastic.step(activate), theirs
    return elastic.step(activate), plain.step()


def memory_ratio(elastic: Stepper, supernet: Supernet, largest: SubnetConfig, x: Tensor) -> float:
    """Compare what a step of the largest subnet leaves beside activations."""
    plain = Stepper(supernet.extract(largest), x[:1])
    plain.step()
    elastic.x, whole = x[:1], elastic.x
    elastic.step(lambda: supernet.activate(largest))
    elastic.x = whole
    return elastic.bytes_beside_activations() / plain.bytes_beside_activations()


def measure_fresh(device: torch.device, configurations: int) -> dict:
    """Measure first and later steps of configurations on a network of 8/16/32 channels."""
    architecture = UNetArchitecture(
        3, 1, 3, channels=(8, 16, 32), strides=((1,) * 3, (2,) * 3, (2,) * 3), deep_supervision=True
    )
    space = SearchSpace(5, **SPACE | {"resolution": (1.0,)}, groups=unet_groups(3))
    supernet = Supernet(architecture, space).to(device)
    training = ProgressiveTraining(supernet, PhaseSchedule.prox(space, 5))
    x = torch.randn(2, 1, 40, 56, 40, device=device)
    elastic = Stepper(supernet, x)
    ratios = []
    for number in range(configurations):
        (config,) = training.subnets_at(4, number)
        plain = Stepper(laid_out(supernet.extract(config)), x)
        plain.step()  # the backend prepares its kernels for these shapes, as it does for any network
        activate = functools.partial(supernet.activate, config)
        fresh = elastic.step(activate)
        cached = statistics.median(elastic.step(activate) for _ in range(3))
        ratios.append(fresh / cached)
    row = {"fresh_ratio": statistics.median(ratios), "fresh_ratio_range": [min(ratios), max(ratios)]}
    print(f"fresh configuration x {row['fresh_ratio']:.3f} ({min(ratios):.3f}-{max(ratios):.3f})")
    return row


def measure_freezing(case: Case, device: torch.device, rounds: int) -> dict:
    """Measure what freezing the first block of every section saves of a step of depth 2."""
    space = SearchSpace(2 * case.levels - 1, **SPACE, groups=unet_groups(case.levels))
    phase = PhaseSchedule.prox(space, 7).phases[1]
    config = phase.space.largest()
    supernet = Supernet(case.architecture, space).to(device)
    elastic = Stepper(supernet, torch.randn(case.batch, 1, *case.patch, device=device))
    ratios = []
    for number in range(3 * rounds + 1):
        seconds = [
            elastic.step(functools.partial(supernet.activate, config, freeze_of(phase, config, rule)))
            for rule in ("depth", "none")
        ]
        if number:
            ratios.append(seconds[0] / seconds[1])
    row = {"frozen_ratio": statistics.median(ratios), "frozen_ratio_range": [min(ratios), max(ratios)]}
    print(f"{case.name}, depth frozen x {row['frozen_ratio']:.3f} ({min(ratios):.3f}-{max(ratios):.3f})")
    return row


def forget_configurations(supernet: Supernet) -> None:
    """Drop the built skeletons, as if every configuration were met for the first time."""
    supernet.architecture = supernet.architecture


def draw(result: dict, path: Path) -> None:
    """Draw the ratio of every phase."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axis = figure.subplots()
    for offset, (name, rows) in enumerate(result["phases"].items()):
        positions = [row["phase"] + 0.4 * offset for row in rows]
        ratios = [row["steps_ratio"] for row in rows]
        spread = [
            [row["steps_ratio"] - row["steps_ratio_range"][0] for row in rows],
            [row["steps_ratio_range"][1] - row["steps_ratio"] for row in rows],
        ]
        axis.bar(positions, ratios, width=0.38, yerr=spread, capsize=3, label=name)
    axis.axhline(BARS["steps"], color="black", linestyle="--", label=f"bar {BARS['steps']}")
    axis.set_xticks([row["phase"] + 0.2 for row in rows], [f"{row['phase'] + 1}\n{row['stage']}" for row in rows])
    axis.set_ylim(0.8, None)
    axis.set_xlabel("phase")
    axis.set_ylabel("supernet / plain networks, time of the steps")
    axis.set_title(f"Step cost on {result['machine']['device']}", fontsize="medium")
    axis.legend(fontsize="small", ncols=3)
    figure.savefig(path, dpi=120)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _machine(device: torch.device) -> dict:
    name = device_name(device)
    return {
        "device": f"{name}, {torch.get_num_threads()} threads" if device.type == "cpu" else name,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def main() -> None:
    """Measure, print, write JSON and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--steps", type=int, default=6, help="configurations a phase")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="two configurations, one round, nothing written")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    gc.freeze()  # as ProXTrainer does
    steps, rounds = (2, 1) if arguments.quick else (arguments.steps, arguments.rounds)
    result = {
        "command": f"python benchmarks/step_cost.py --device {arguments.device} --threads {arguments.threads} "
        f"--steps {steps} --rounds {rounds}",
        "machine": _machine(device),
        "bars": BARS,
        "batch": {case.name: case.batch for case in cases()},
        **measure_fresh(device, steps),
        **measure_freezing(cases()[0], device, rounds),
        "phases": {case.name: measure_phases(case, device, steps, rounds) for case in cases()},
    }
    if arguments.quick:
        return
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"step_cost_{arguments.device}.json").write_text(json.dumps(result, indent=2) + "\n")
    draw(result, RESULTS / f"step_cost_{arguments.device}.png")


if __name__ == "__main__":
    main()
