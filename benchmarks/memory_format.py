"""What kernels that lie channels last save of a training step on this processor, see prox_monai.elastic.memory_format.

    python benchmarks/memory_format.py
    python benchmarks/memory_format.py --threads 1 --steps 9

The smallest and the largest subnet of the comparison's space (benchmarks/paper.yaml), in the network that nnU-Net plans
for the hippocampus, on a batch of two patches: forward and backward pass with kernels as they are and channels last, in
turn. The result goes to benchmarks/results, a file for each capability that torch names, and into
benchmarks/RESULTS.md. Leave the machine alone while it runs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import torch
import update_readme
from comparison.summary import write_json
from comparison.workplace import environment
from torch import Tensor
from torch.nn.functional import cross_entropy

from prox_monai.elastic import Supernet
from prox_monai.networks import UNetArchitecture
from prox_monai.space import SearchSpace
from prox_monai.space.groups import unet_groups

RESULTS = Path(__file__).parent / "results"
LAYOUTS = {"as they are": "DEFAULT", "channels last": "AVX2"}  # of kernels, and where trained_fast makes them so
PATCH, BATCH, LABELS = (40, 56, 40), 2, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="CPU threads; all cores unless given")
    parser.add_argument("--steps", type=int, default=5, help="of each subnet and layout, default: %(default)s")
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    result = {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "machine": environment(),
        "seconds": seconds(arguments.steps),
    }
    write_json(result, RESULTS / f"memory_format_{result['capability'].lower()}.json")
    update_readme.write_readme()
    for name, times in result["seconds"].items():
        print(name, ", ".join(f"{layout}: {time:.3f} s" for layout, time in times.items()))
    return 0


def seconds(steps: int) -> dict[str, dict[str, float]]:
    """Return the median seconds of a step by subnet and layout; layouts take turns.

    Args:
        steps: that are timed, of each; one more comes before.
    """
    torch.manual_seed(0)
    architecture = UNetArchitecture(3, 1, LABELS, (32, 64, 128, 256), ((1, 1, 1), *((2, 2, 2),) * 3))
    space = SearchSpace(7, (1, 2), (0.25, 0.5), (3, 5), groups=unet_groups(4))
    supernet = Supernet(architecture, space).train()
    x, labels = torch.randn(BATCH, 1, *PATCH), torch.randint(0, LABELS, (BATCH, *PATCH))
    medians = {}
    for name, config in (("smallest", space.smallest()), ("largest", space.largest())):
        supernet.activate(config)
        times: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
        for _ in range(steps + 1):
            for layout, capability in LAYOUTS.items():
                with patch("torch.backends.cpu.get_cpu_capability", lambda found=capability: found):
                    times[layout].append(_step(supernet, x, labels))
        medians[f"{name} {config}"] = {layout: statistics.median(taken[1:]) for layout, taken in times.items()}
    return medians


def _step(supernet: Supernet, x: Tensor, labels: Tensor) -> float:
    supernet.zero_grad()
    start = time.perf_counter()
    cross_entropy(supernet(x), labels).backward()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
