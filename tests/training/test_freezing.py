from __future__ import annotations

import pytest

from prox_monai.elastic import Freeze
from prox_monai.space import Dimension, Phase, SearchSpace, SubnetConfig
from prox_monai.training import freeze_of


def subnet(depths, kernel=3):
    return SubnetConfig.from_dict({"depth": depths, "width": [1.0] * 3, "kernel": [kernel] * 3, "resolution": 1.0})


def phase(stage, depth=(1,), kernel=(3,)):
    return Phase(1, stage, SearchSpace(3, depth, (1,), kernel), 1, None)


@pytest.mark.parametrize(
    ("candidates", "depths", "blocks"),
    [
        ((1,), [1, 1, 1], set()),
        ((1, 2), [1, 1, 1], set()),
        ((1, 2), [2, 1, 2], {(0, 0), (2, 0)}),
        ((1, 2, 3), [3, 2, 1], {(0, 0), (0, 1), (1, 0)}),
        ((2, 4), [2, 4, 2], {(1, 0), (1, 1)}),
    ],
)
def test_depth_freezes_the_blocks_of_the_candidate_before(candidates, depths, blocks):
    """ProX, section 3.1."""
    freeze = freeze_of(phase(Dimension.DEPTH, depth=candidates), subnet(depths), "depth")
    assert freeze == Freeze(blocks=frozenset(blocks))


@pytest.mark.parametrize(("candidates", "core"), [((3,), 0), ((3, 5), 3), ((3, 5, 7), 5)])
@pytest.mark.parametrize("sampled", [3, 5])
def test_kernels_are_frozen_up_to_the_size_that_was_the_largest(candidates, core, sampled):
    """ProX, section 3.3."""
    freeze = freeze_of(phase(Dimension.KERNEL, kernel=candidates), subnet([1, 1, 1], sampled), "kernel")
    assert freeze == Freeze(kernel=core)


@pytest.mark.parametrize(
    ("rule", "depth", "kernel"),
    [("none", False, False), ("depth", True, False), ("kernel", False, True), ("both", True, True)],
)
def test_rules(rule, depth, kernel):
    in_depth = freeze_of(phase(Dimension.DEPTH, depth=(1, 2), kernel=(3, 5)), subnet([2, 2, 2], 5), rule)
    in_kernel = freeze_of(phase(Dimension.KERNEL, depth=(1, 2), kernel=(3, 5)), subnet([2, 2, 2], 5), rule)
    assert bool(in_depth.blocks) == depth
    assert bool(in_kernel.kernel) == kernel
    assert not in_depth.kernel
    assert not in_kernel.blocks


@pytest.mark.parametrize("stage", [Dimension.WIDTH, Dimension.RESOLUTION])
def test_no_freeze_outlasts_its_stage(stage):
    assert freeze_of(phase(stage, depth=(1, 2), kernel=(3, 5)), subnet([2, 2, 2], 5), "both") == Freeze()
