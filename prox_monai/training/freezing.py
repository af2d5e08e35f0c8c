"""The rule that says what is frozen: a phase and a subnet in, a :class:`Freeze` out."""

from __future__ import annotations

from typing import Literal, get_args

from prox_monai.elastic import Freeze
from prox_monai.space import Phase, Stage, SubnetConfig

FreezeRule = Literal["none", "depth", "kernel", "both"]
FREEZE_RULES: tuple[FreezeRule, ...] = get_args(FreezeRule)


def freeze_of(phase: Phase, config: SubnetConfig, rule: FreezeRule) -> Freeze:
    """Return what does not learn when ``config`` is trained in ``phase``.

    In the depth stage, a section sampled at a depth beyond the smallest candidate freezes the blocks of the
    candidate before ("Forward Thinking": ProX, section 3.1). In the kernel stage, kernels are frozen up to the
    size that was the largest before the phase (ProX, section 3.3). No freeze outlasts its stage.

    Args:
        phase: the phase that is being trained.
        config: the sampled subnet.
        rule: which of the two freezes are wanted.
    """
    if phase.stage is Stage.DEPTH and rule in ("depth", "both"):
        return Freeze(blocks=_earlier_blocks(config, phase.space.depth))
    if phase.stage is Stage.KERNEL and rule in ("kernel", "both") and len(phase.space.kernel) > 1:
        return Freeze(kernel=phase.space.kernel[-2])
    return Freeze()


def _earlier_blocks(config: SubnetConfig, candidates: tuple[int, ...]) -> frozenset[tuple[int, int]]:
    before = dict(zip(candidates[1:], candidates, strict=False))
    return frozenset(
        (section, block) for section, depth in enumerate(config.depths) for block in range(before.get(depth, 0))
    )
