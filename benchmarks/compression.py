"""What a subnet gains and gives up in int8, by fine-tuning, and by both, on real cases.

    python benchmarks/compression.py --model MODEL_FOLDER --fold 1 --subnet NAME
    make bench-compression MODEL=MODEL_FOLDER FOLD=1 SUBNET=NAME

One subnet of a family that ProXTrainer trained is exported for OpenVINO as `prox-monai export openvino` does: plain, in
16 and 8 bits, in 8 bits with accuracy control, fine-tuned with distillation from the largest subnet, and fine-tuned in
8 bits, the last time with quantisation in training, whether or not that is needed. Which layers stay in floating point
the tuning half of the unseen cases decides; Dice is reported on the other half. Whatever a way costs, it is measured:
here nothing is refused. All are timed per patch in one run, in turn. An export that is done is not done again. Results
go to benchmarks/results/compression.json and into benchmarks/RESULTS.md. Leave the machine alone while it runs.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import device_lines
import torch
import update_readme
from comparison.command import run
from comparison.summary import write_json
from comparison.workplace import environment
from tqdm import tqdm

from prox_monai.evaluation.cost import instruction_set
from prox_monai.export.description import read_description
from prox_monai.export.exported import load_exported
from prox_monai.export.timing import side_by_side
from prox_monai.integrations.nnunet import compression as int8
from prox_monai.integrations.nnunet.calibration import Cases, cases_of
from prox_monai.integrations.nnunet.compression import Compression
from prox_monai.integrations.nnunet.deploy import deploy
from prox_monai.integrations.nnunet.trained import load_trained
from prox_monai.space import SubnetConfig

RESULTS = Path(__file__).parent / "results"
TRAINED = "int8, trained with it"


def ways(steps: int, drop: float) -> dict[str, Compression]:
    """Return how the subnet is written, by name.

    Args:
        steps: of a fine-tuning.
        drop: Dice that accuracy control may lose.
    """
    return {
        "fp32": Compression(),
        "fp16": Compression(precision="fp16"),
        "int8": Compression(precision="int8"),
        "int8, accuracy control": Compression(precision="int8", accuracy_aware=True, max_dice_drop=drop),
        "fp32, fine-tuned": Compression(finetune=steps),
        "int8, fine-tuned": Compression(precision="int8", finetune=steps, max_dice_drop=1.0),
        TRAINED: Compression(precision="int8", finetune=steps),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Export, measure, write; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder that ProXTrainer trained")
    parser.add_argument("--fold", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--subnet", default="smallest", help="name or alias, default: %(default)s")
    parser.add_argument("--steps", type=int, default=300, help="of a fine-tuning, default: %(default)s")
    help = "Dice that accuracy control may lose, default: %(default)s"
    parser.add_argument("--drop", type=float, default=0.0001, help=help)
    help = "of them these only, by name in the table; default: all"
    parser.add_argument("--ways", nargs="+", choices=tuple(ways(1, 0.0)), metavar="WAY", help=help)
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("runs", "compression"), help="default: %(default)s")
    return run(measure, parser, argv)


def measure(arguments: argparse.Namespace) -> None:
    """Make all measurements, write the result."""
    torch.set_num_threads(arguments.threads)
    model = load_trained(arguments.model, arguments.fold)
    config, cases = model.multiply_adds().find(arguments.subnet), cases_of(model, os.environ)
    wanted = ways(arguments.steps, arguments.drop)
    wanted = {name: wanted[name] for name in arguments.ways or wanted}
    folders = {
        name: arguments.output / config.name / _folder(name, compression) for name, compression in wanted.items()
    }
    rows = {
        name: exported(cases, config, compression, folders[name], trained=name == TRAINED)
        for name, compression in tqdm(wanted.items(), desc="exports", disable=None, leave=False)
    }
    runtimes = {name: load_exported(folder, arguments.threads)[1] for name, folder in folders.items()}
    image = next(iter(cases.parity_patches()))
    for name, time in side_by_side(runtimes, image, repeats=15).items():
        rows[name]["latency_ms"] = time
        for half in ("tuning", "reporting"):
            rows[name][f"dice_{half}"] = cases.dice(runtimes[name], half)
    options = f"--fold {arguments.fold} --subnet {config.name} --steps {arguments.steps} --drop {arguments.drop:g}"
    if arguments.ways:
        options += f" --ways {shlex.join(arguments.ways)}"
    result = {
        "command": f"python benchmarks/compression.py --model MODEL_FOLDER {options}",
        "dataset": model.plans["dataset_name"],
        "model": model.digest,
        "subnet": config.name,
        "cases": len(cases.reporting),
        "threads": arguments.threads,
        "machine": {"instructions": instruction_set(), **environment()},
        "ways": rows,
    }
    write_json(result, RESULTS / "compression.json")
    update_readme.write_readme()
    print("\n".join(device_lines.compression_lines(RESULTS)))


def exported(
    cases: Cases, config: SubnetConfig, compression: Compression, folder: Path, *, trained: bool
) -> dict[str, Any]:
    """Export a subnet, unless it is there; returns what its description says.

    Args:
        cases: of the trained family.
        config: the subnet.
        compression: how it is written.
        folder: where.
        trained: train with quantisation, whatever int8 costs.

    Raises:
        ValueError: When the folder holds an export of another model.
    """
    if not folder.exists():
        forced = patch.object(int8, "_drop", lambda *_: 1.0) if trained else nullcontext()
        with patch.object(Compression, "check"), forced:
            deploy(cases.model, config, "openvino", folder, cases=cases, compression=compression)
    description = read_description(folder)
    if description.source["checkpoint"] != cases.model.digest:
        raise ValueError(f"{folder} is of another model ({description.source['checkpoint']}); give another --output.")
    return {"steps": list(description.source["steps"]), "megabytes": description.checks["megabytes"]["exported"]}


def _folder(name: str, compression: Compression) -> str:
    """The name of an export's folder: another number of steps or another limit is another export."""
    settings = [f"{compression.finetune}"] if compression.finetune else []
    settings += [f"{compression.max_dice_drop:g}"] if compression.accuracy_aware else []
    return "_".join([*name.replace(",", "").split(), *settings])


if __name__ == "__main__":
    sys.exit(main())
