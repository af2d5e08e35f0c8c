"""Commands that write a subnet of a trained model as a file for a device."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prox_monai.commands.arguments import MODEL_EXAMPLE, at_least_one, count, model_arguments, positive
from prox_monai.commands.command import SUBNET, Command, extra
from prox_monai.export.formats import FORMATS, MAX_DICE_DROP, timed_runtime

if TYPE_CHECKING:
    from prox_monai.integrations.nnunet.choice import Chosen

logger = logging.getLogger(__name__)

_HELP = {
    "onnx": "write a subnet as an ONNX model, checked with ONNX Runtime",
    "openvino": "write a subnet as an OpenVINO model, also in int8",
    "torch": "write a subnet as a program of torch.export",
}


def export_model(format: str, arguments: argparse.Namespace) -> int:
    """Write a subnet of a model folder of ``ProXTrainer`` in a format; the arguments are :func:`export_arguments`."""
    with extra("nnunet"):
        import torch

        from prox_monai.integrations.nnunet.calibration import cases_if_there, cases_of
        from prox_monai.integrations.nnunet.choice import Choice, choose
        from prox_monai.integrations.nnunet.compression import Compression
        from prox_monai.integrations.nnunet.deploy import deploy
        from prox_monai.integrations.nnunet.trained import load_trained

    choice = Choice(subnet=arguments.subnet, max_latency_ms=arguments.max_latency_ms, table=arguments.table)
    compression = Compression(
        precision=arguments.precision,
        max_dice_drop=arguments.max_dice_drop,
        accuracy_aware=getattr(arguments, "accuracy_aware", False),
        finetune=arguments.finetune,
    )
    model = load_trained(arguments.model, arguments.fold)
    chosen = choose(model, choice)
    if threads := arguments.threads or chosen.threads:
        torch.set_num_threads(threads)
    _warn_of_table(chosen, format, compression.precision, torch.get_num_threads())
    find_cases = cases_of if compression.needs_cases else cases_if_there
    description = deploy(
        model,
        chosen.config,
        format,
        arguments.output,
        cases=find_cases(model, os.environ),
        compression=compression,
        overwrite=arguments.overwrite,
    )
    if choice.max_latency_ms is not None:
        _warn_of_latency(chosen, choice.max_latency_ms, description.checks)
    print(_summary(description.subnet, description.checks, Path(arguments.output)))
    print(f"  prox-monai predict {shlex.quote(arguments.output)} -i IMAGES -o PREDICTIONS")
    return 0


def _warn_of_table(chosen: Chosen, format: str, precision: str, threads: int) -> None:
    """Warn where the latencies that decided are of something else than what is written."""
    if chosen.runtime is None:
        return
    table = f"the table's latencies are of {chosen.runtime}, threads: {chosen.threads}"
    if chosen.runtime != timed_runtime(format, precision):
        logger.warning("%s; %s in %s takes another time, the limit may not hold", table, format, precision)
    if chosen.threads != threads:
        logger.warning("%s; here it is compared with threads: %s (--threads)", table, threads)


def _warn_of_latency(chosen: Chosen, limit_ms: float, checks: Mapping[str, Any]) -> None:
    """Warn where what was written is slower than what was asked for."""
    if (measured := checks["latency_ms"]["exported"]) > limit_ms:
        logger.warning(
            "latency is %.2f ms (%s, threads: %s), above the limit of %g ms; by the table %.2f ms (%s, threads: %s)",
            measured,
            checks["runtime"]["name"],
            checks["threads"],
            limit_ms,
            chosen.latency_ms,
            chosen.runtime,
            chosen.threads,
        )


def _summary(subnet: str, checks: dict, folder: Path) -> str:
    parity, time, size = checks["parity"], checks["latency_ms"], checks["megabytes"]
    lines = [
        f"{subnet} is in {folder}; against the plain subnet in PyTorch:",
        f"  logits     differ by {parity['max_difference']:.2g} at most, labels agree on {parity['agreement']:.2%} of "
        f"the voxels of the worst of {parity['patches']} patches of {parity['patches_of']}",
        f"  latency    {time['exported']:.2f} ms instead of {time['plain']:.2f} ms per patch, "
        f"threads: {checks['threads']}, {checks['runtime']['name']} on {checks['device']}",
        f"  size       {size['exported']:.2f} MB instead of {size['plain']:.2f} MB",
    ]
    for name in ("dice", "dice_reporting"):
        if dice := checks.get(name):
            lines.append(
                f"  mean Dice  {dice['exported']:.4f} instead of {dice['plain']:.4f} on {dice['cases']} cases of the "
                f"{dice['half']} half{', where the limit holds' if dice['half'] == 'tuning' else ''}"
            )
    if dice := checks.get("label_maps"):
        lines.append(
            f"  label maps mean Dice {dice['exported']:.4f}, by nnU-Net's own preprocessing {dice['plain']:.4f}, of "
            f"{dice['cases']} images of the {dice['half']} half, where the limit holds"
        )
    return "\n".join(lines)


def _export_arguments(format: str, parser: argparse.ArgumentParser) -> None:
    model_arguments(parser)
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--subnet", metavar="NAME", help=SUBNET)
    chosen.add_argument("--max-latency-ms", type=positive, metavar="MS", help="the best subnet in --table within this")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="new folder, or an empty one")
    parser.add_argument("--precision", choices=FORMATS[format], default="fp32", help="default: %(default)s")
    if "int8" in FORMATS[format]:
        help = "of int8: keep layers in floating point until the drop is within the limit; not with --finetune"
        parser.add_argument("--accuracy-aware", action="store_true", help=help)
    export_arguments(parser)


def export_arguments(parser: argparse._ActionsContainer) -> None:
    """Declare the arguments that all formats have."""
    parser.add_argument("--table", metavar="FILE", help="of prox-monai evaluate, or front.json of search")
    parser.add_argument("--overwrite", action="store_true", help="replace an export that is in the output folder")
    help = "refuse what costs more mean Dice on the tuning half of the unseen cases, default: %(default)s"
    parser.add_argument("--max-dice-drop", type=float, default=MAX_DICE_DROP, metavar="DICE", help=help)
    help = "steps of fine-tuning, taught by the largest; of int8 again with quantisation if it drops too much"
    parser.add_argument("--finetune", type=count, default=0, metavar="STEPS", help=help)
    parser.add_argument(
        "--threads", type=at_least_one, metavar="N", help="CPU threads of the comparison; default: the table's"
    )


def _examples(format: str) -> str:
    lines = [f"prox-monai export {format} {MODEL_EXAMPLE} --subnet middle --output {format}_middle"]
    if format == "openvino":
        int8 = "--precision int8 --output int8"
        lines.append(f"prox-monai export openvino {MODEL_EXAMPLE} --max-latency-ms 20 --table tuning.jsonl {int8}")
    return "\n".join(lines)


COMMANDS = tuple(
    Command(
        f"export {format}", help, partial(export_model, format), partial(_export_arguments, format), _examples(format)
    )
    for format, help in _HELP.items()
)
