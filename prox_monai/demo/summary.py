"""What a demonstration ends with: what it found, how long it took, where things lie, what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from prox_monai.evaluation.multiply_adds import ALIASES
from prox_monai.search.table import rows_table

_NAMED = (*ALIASES, "stock/")


def summary(
    output: Path,
    rows: Sequence[Mapping[str, Any]],
    seconds: Mapping[str, float],
    *,
    title: str,
    warning: str,
) -> str:
    """Return the closing text.

    Args:
        output: folder of the demonstration.
        rows: all evaluated subnets, those with a name of their own and random ones.
        seconds: time per step.
        title: data, cases and device.
        warning: what the reader must know about the data; empty for none.
    """
    named = [row for row in rows if row["name"].startswith(_NAMED)]
    random = [row["dice"] for row in rows if row not in named and row["dice"] is not None]
    lines = ["", title, *([warning] if warning else []), "", rows_table(named)]
    if random:
        span = f"{min(random):.3f} to {max(random):.3f}"
        lines.append(f"{len(random)} random subnets: Dice {fmean(random):.3f} on average, {span}")
    lines += ["", "minutes", *(f"  {step:<45} {spent / 60:5.1f}" for step, spent in seconds.items())]
    lines += [f"  {'all':<45} {sum(seconds.values()) / 60:5.1f}", "", *_next(output)]
    return "\n".join(lines)


def _next(output: Path) -> list[str]:
    stock = shlex.quote(str(output / "stock" / "largest"))
    trained = shlex.quote(str(model_folder(output)))
    return [
        f"In {output}:",
        "  report.html       all of this, and more, as a page for the browser",
        "  subnets.jsonl     every subnet that was evaluated",
        "  pareto.png        their Dice against their latency",
        "  stock/            three subnets, at resolution 1, as stock nnU-Net folders: no prox-monai needed",
        "  prediction.png    an unseen case, predicted by stock nnU-Net with stock/largest",
        "  settings.yaml     the settings of the training; logs/ has the output of nnU-Net",
        "",
        "Next:",
        f"  nnUNetv2_predict_from_modelfolder -m {stock} -f 0 -i IMAGES -o PREDICTIONS",
        f"  prox-monai export nnunet {trained} --subnet d1-w.5-k3-r1 --output MY_SUBNET",
        '  export nnUNet_extTrainer="$(prox-monai nnunet-path)"',
        "  nnUNetv2_train DATASET 3d_fullres 0 -tr ProXTrainer",
    ]


def model_folder(output: Path) -> Path:
    """Return the model folder that the demonstration trains, once there is one."""
    return next((output / "nnUNet_results").glob("Dataset*/ProXTrainer__nnUNetPlans__3d_fullres"))
