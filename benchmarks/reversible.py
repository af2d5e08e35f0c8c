"""What reversible blocks save: peak memory and time of a training step, forward and backward.

    python benchmarks/reversible.py                 on this CPU
    python benchmarks/reversible.py --device cuda   the same on a GPU
    python benchmarks/reversible.py --quick         tiny sizes, nothing written: does it run?

Four U-Nets of the same levels, blocks per section and channels:

plain       convolution blocks.
inverted    inverted residuals.
stored      inverted residuals in additive couplings, whose activations are stored.
reversible  the same function, but for rounding; activations are computed again in the backward pass.

First memory and time of all four at a base size, and their memory at others. Then the reversible one, larger in one
respect (volume, blocks per section, channels): by bisection, how much larger it may be in the memory that `stored` and
`inverted` take at the base size.

Every measurement is a process of its own. Memory is what it grows by at its peak, from before the network is built:
weights, gradients, activations, the runtime's workspace; of the resident set on a CPU, of torch's allocator on CUDA.
On a CPU the C library keeps what is freed in blocks below 32 MiB, whose fragments would be counted; where memory is
measured it is told to give them back (MALLOC_MMAP_THRESHOLD_). Time is measured with its defaults.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import statistics
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from comparison.markdown import markdown
from device_lines import reversible_table
from torch import nn

from prox_monai.evaluation import cost
from prox_monai.networks import InvertedUNetArchitecture, UNetArchitecture
from prox_monai.space import SubnetConfig

RESULTS = Path(__file__).parent / "results"
NETWORKS = ("plain", "inverted", "stored", "reversible")
BUDGETS = ("stored", "inverted")
LEVELS = 4


@dataclass(frozen=True)
class Size:
    """A network and its input.

    Args:
        depth: blocks per section.
        channels: of the first level; each level has twice those of the one above.
        patch: voxels per axis, multiples of 8.
    """

    depth: int
    channels: int
    patch: tuple[int, int, int]

    @property
    def voxels(self) -> int:
        """Voxels of the patch."""
        return math.prod(self.patch)


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Args:
        base: the size whose memory is the budget.
        others: further sizes at which the memory of all networks is compared.
        series: per respect the larger and larger sizes of the reversible network.
    """

    base: Size
    others: tuple[Size, ...]
    series: dict[str, tuple[Size, ...]]


def planned() -> Plan:
    """Return the sizes of the measurement."""
    base = Size(depth=4, channels=16, patch=(48, 48, 48))
    return Plan(
        base,
        (replace(base, depth=2), replace(base, depth=8), replace(base, channels=32), replace(base, patch=(64,) * 3)),
        {
            "volume": tuple(replace(base, patch=patch) for patch in _larger(base.patch, 15)),
            "depth": tuple(replace(base, depth=depth) for depth in (5, 6, 8, 12, 16, 24)),
            "channels": tuple(replace(base, channels=channels) for channels in range(18, 50, 2)),
        },
    )


def _larger(patch: tuple[int, int, int], count: int) -> Iterator[tuple[int, int, int]]:
    """Enlarge a patch by 8 voxels, an axis at a time."""
    edges = list(patch)
    for number in range(count):
        edges[number % 3] += 8
        yield tuple(edges)


def quick() -> Plan:
    """Return sizes of which a step takes a moment."""
    base = Size(depth=2, channels=2, patch=(16, 16, 16))
    larger = {"volume": {"patch": (24, 16, 16)}, "depth": {"depth": 3}, "channels": {"channels": 4}}
    return Plan(base, (), {name: (replace(base, **changes),) for name, changes in larger.items()})


def build(network: str, size: Size) -> nn.Module:
    """Build one of the four networks, for one image channel and three classes, with deep supervision."""
    fields = {
        "channels": tuple(size.channels * 2**level for level in range(LEVELS)),
        "strides": ((1,) * 3, *((2,) * 3,) * (LEVELS - 1)),
        "deep_supervision": True,
    }
    if network == "plain":
        architecture = UNetArchitecture(3, 1, 3, **fields)
    else:
        architecture = InvertedUNetArchitecture(3, 1, 3, **fields, reversible=network != "inverted")
    built = architecture.build(SubnetConfig.uniform(2 * LEVELS - 1, size.depth, 1.0, 3))
    if network == "stored":
        for section in (*built.encoder, *built.decoder):
            section.blocks = nn.Sequential(*section.blocks)
    return built.train()


def measure(network: str, size: Size, device: str, threads: int, steps: int) -> dict:
    """Measure peak memory and time of training steps, each in a fresh process; without steps to time, memory alone."""
    row = {"network": network, **asdict(size)}
    row["memory_bytes"] = _in_a_process({"MALLOC_MMAP_THRESHOLD_": "65536"}, _memory, network, size, device, threads)
    row["seconds"] = _in_a_process({}, _seconds, network, size, device, threads, steps) if steps else None
    patch = "x".join(map(str, size.patch))
    time_of_step = f"{row['seconds']:8.3f} s" if steps else ""
    print(
        f"{network:11s} {size.depth:3d} blocks {size.channels:4d} channels {patch:>11s} voxels "
        f"{row['memory_bytes'] / 2**20:9.0f} MiB {time_of_step}",
        flush=True,
    )
    return row


def _in_a_process(environment: dict[str, str], function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process that is started for it, in an environment that has these variables besides."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
            return executor.submit(function, *arguments).result()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _memory(network: str, size: Size, device: str, threads: int) -> int:
    where = _prepared(network, device, threads)
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    before = _peak(where)
    built = build(network, size).to(where)
    for _ in range(2):
        _step(built, size, where)
    return _peak(where) - before


def _seconds(network: str, size: Size, device: str, threads: int, steps: int) -> float:
    where = _prepared(network, device, threads)
    built = build(network, size).to(where)
    return statistics.median([_step(built, size, where) for _ in range(steps + 1)][1:])


def _prepared(network: str, device: str, threads: int) -> torch.device:
    """Load code, which is no network's cost, by a step of a tiny one."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    where = torch.device(device)
    _step(build(network, quick().base).to(where), quick().base, where)
    return where


def _step(network: nn.Module, size: Size, device: torch.device) -> float:
    """Return the seconds of a forward and a backward pass of one random image."""
    x = torch.randn(1, 1, *size.patch, device=device)
    network.zero_grad(set_to_none=True)
    cost._synchronise(device)
    start = time.perf_counter()
    sum(output.square().mean() for output in network(x)).backward()
    cost._synchronise(device)
    return time.perf_counter() - start


def _peak(device: torch.device) -> int:
    """Return the bytes that were held at most."""
    return cost._peak_resident_bytes() if device.type == "cpu" else torch.cuda.max_memory_allocated(device)


def largest_that_fits(sizes: Sequence[Size], budget: int, memory: Callable[[Size], int]) -> tuple[Size | None, bool]:
    """Return the largest size that fits into a budget, None if none does, and whether all of them do.

    Args:
        sizes: increasing.
        budget: bytes.
        memory: bytes that a size takes; asked for a few of them.
    """
    count = bisect_right(sizes, budget, key=memory)
    return (sizes[count - 1] if count else None), count == len(sizes)


def times_larger(respect: str, size: Size, base: Size) -> float:
    """Return how much larger a size is in one respect."""
    values = {"volume": lambda s: s.voxels, "depth": lambda s: s.depth, "channels": lambda s: s.channels}
    return values[respect](size) / values[respect](base)


def compare(plan: Plan, device: str, threads: int, steps: int) -> dict:
    """Measure all networks at the sizes of a plan, and of its series as many as it takes to find what fits."""
    rows = [measure(name, plan.base, device, threads, steps) for name in NETWORKS]
    rows += [measure(name, size, device, threads, 0) for size in plan.others for name in NETWORKS]
    at_base = {row["network"]: row for row in rows[: len(NETWORKS)]}
    fits, series = {}, {}
    for respect, sizes in plan.series.items():
        known = {plan.base: at_base["reversible"]}

        def memory(size: Size, known: dict[Size, dict] = known) -> int:
            if size not in known:
                known[size] = measure("reversible", size, device, threads, 0)
            return known[size]["memory_bytes"]

        found = {n: largest_that_fits((plan.base, *sizes), at_base[n]["memory_bytes"], memory) for n in BUDGETS}
        fits[respect] = {
            name: {"times": size and times_larger(respect, size, plan.base), "at_least": all_of_them}
            for name, (size, all_of_them) in found.items()
        }
        series[respect] = [known[size] for size in sizes if size in known]
    return {"base": asdict(plan.base), "sizes": rows, "series": series, "fits": fits}


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--steps", type=int, default=3, help="steps that are timed, after one that is not")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, nothing written")
    arguments = parser.parse_args()
    plan = quick() if arguments.quick else planned()
    result = {
        "command": f"python benchmarks/reversible.py --device {arguments.device} --threads {arguments.threads} "
        f"--steps {arguments.steps}",
        "machine": {
            "device": cost.device_name(arguments.device),
            "threads": arguments.threads,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        **compare(plan, arguments.device, arguments.threads, arguments.steps),
    }
    print(*markdown(*reversible_table(result)), sep="\n")
    if not arguments.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"reversible_{arguments.device}.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
