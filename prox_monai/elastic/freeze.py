"""Which shared tensors are handed to a subnet without gradient."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Freeze:
    """The parts of a supernet that do not learn in a step.

    A frozen tensor is handed over detached: it gets no gradient, no optimizer step and no weight decay, and the
    normalisation statistics of a frozen block are fixed.

    Args:
        blocks: ``(section, block)`` pairs that are frozen whole (ProX, section 3.1).
        kernel: elastic kernels are frozen up to this size in voxels; only rings outside it learn (ProX,
            section 3.3). 0 freezes none.
    """

    blocks: frozenset[tuple[int, int]] = frozenset()
    kernel: int = 0
