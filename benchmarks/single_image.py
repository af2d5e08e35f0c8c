"""What oneDNN saves where torch would unfold a single image, see prox_monai.evaluation.single_image.

    python benchmarks/single_image.py
    python benchmarks/single_image.py --threads 2 --passes 21

Subnets of the family of benchmarks/device.yaml and the network that nnU-Net plans for the hippocampus, one patch: the
forward pass as torch makes it and with oneDNN's convolutions, in turn. The result goes to benchmarks/results and into
benchmarks/RESULTS.md. Leave the machine alone while it runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import update_readme
from comparison.summary import write_json
from comparison.workplace import environment

from prox_monai.elastic import Supernet
from prox_monai.evaluation.cost import instruction_set
from prox_monai.export.runtimes import PlainRuntime
from prox_monai.export.timing import side_by_side
from prox_monai.networks import UNetArchitecture
from prox_monai.space import SearchSpace
from prox_monai.space.groups import unet_groups

RESULTS = Path(__file__).parent / "results"
PATCH, LABELS, CHANNELS = (40, 56, 40), 3, (32, 64, 128, 256)
SUBNETS = ("d1-w.125-k3-r.8", "d2-w.125-k3-r1", "d2-w.25-k3-r1", "d2-w1-k3-r1")  # the last one is planned


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads, default: %(default)s")
    parser.add_argument("--passes", type=int, default=11, help="of each network and way, default: %(default)s")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    result = {
        "threads": arguments.threads,
        "machine": {"instructions": instruction_set(), **environment()},
        "milliseconds": milliseconds(arguments.passes),
    }
    write_json(result, RESULTS / "single_image.json")
    update_readme.write_readme()
    for name, times in result["milliseconds"].items():
        print(name, ", ".join(f"{way}: {time:.1f} ms" for way, time in times.items()))
    return 0


def milliseconds(passes: int) -> dict[str, dict[str, float]]:
    """Return the median time of a pass by subnet and way; both ways take turns.

    Args:
        passes: that are timed, of each.
    """
    torch.manual_seed(0)
    architecture = UNetArchitecture(3, 1, LABELS, CHANNELS, ((1, 1, 1), *((2, 2, 2),) * 3))
    space = SearchSpace(7, (1, 2), (0.125, 0.25, 1.0), (3,), (0.8, 1.0), unet_groups(4))
    supernet, patch = Supernet(architecture, space), torch.randn(1, 1, *PATCH)
    found = {}
    for name in SUBNETS:
        network = supernet.extract(space.parse(name)).eval()
        ways = {"as torch": network, "oneDNN": PlainRuntime(network, torch.get_num_threads())}
        found[name] = side_by_side(ways, patch, repeats=passes)
    return found


if __name__ == "__main__":
    sys.exit(main())
