"""Whether an exported network gives what the plain one gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Parity:
    """How far the logits of two networks are apart.

    Args:
        patches: how many patches were compared.
        max_difference: largest absolute difference of a logit.
        max_logit: largest absolute logit of the plain network.
        agreement: share of the voxels to which both give the same label, the worst patch's.
    """

    patches: int
    max_difference: float
    max_logit: float
    agreement: float


@torch.inference_mode()
def compare(network: nn.Module, exported: Callable[[Tensor], Tensor], patches: Iterable[Tensor]) -> Parity:
    """Compare an exported network with the plain one.

    Args:
        network: plain network in evaluation mode.
        exported: what was exported.
        patches: inputs ``(1, C, *spatial)``, one or more.

    Raises:
        ValueError: When there is no patch.
        RuntimeError: When the exported network's output has another shape, or is not finite.
    """
    count, worst, largest, agreement = 0, 0.0, 0.0, 1.0
    for patch in patches:
        expected, got = network(patch), exported(patch)
        if got.shape != expected.shape or not got.isfinite().all():
            raise RuntimeError(
                f"the exported network gives {list(got.shape)}, finite: {bool(got.isfinite().all())}; "
                f"the plain one gives {list(expected.shape)}."
            )
        count += 1
        worst = max(worst, float((got - expected).abs().max()))
        largest = max(largest, float(expected.abs().max()))
        agreement = min(agreement, float((got.argmax(1) == expected.argmax(1)).float().mean()))
    if not count:
        raise ValueError("there is no patch to compare on.")
    return Parity(count, worst, largest, agreement)


def check_parity(parity: Parity, what: str, tolerance: float = TOLERANCE) -> None:
    """Check that logits in 32 bits are equal but for rounding.

    Rounding is relative: runtimes add in different orders, and every layer passes on what the one before has rounded.
    So the tolerance is a share of the largest logit, where that is above 1.

    Raises:
        RuntimeError: When they differ by more.
    """
    allowed = tolerance * max(1.0, parity.max_logit)
    if not parity.max_difference <= allowed:
        raise RuntimeError(
            f"the logits of {what} differ by {parity.max_difference:.2g} from the plain network's (allowed: "
            f"{allowed:.2g}, that is {tolerance:g} of the largest, {parity.max_logit:.2g}; patches compared: "
            f"{parity.patches}). Nothing was written."
        )
