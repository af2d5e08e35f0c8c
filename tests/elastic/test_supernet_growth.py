"""Invariants 3 and 6 of ARCHITECTURE.md, section 9: what expansion and growth leave as it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from prox_monai.elastic import Supernet
from prox_monai.networks import UNetArchitecture
from prox_monai.space import Dimension, SearchSpace, SubnetConfig, unet_groups

STRIDES = {2: ((1, 1), (2, 2)), 3: ((1, 1, 1), (1, 2, 2))}
INPUTS = {2: (2, 1, 8, 12), 3: (2, 1, 4, 8, 8)}
SPACE = SearchSpace(3, (1, 2), (0.5, 1), (3, 5), (0.5, 1), unet_groups(2))


def unet(spatial_dims=2, **fields):
    return UNetArchitecture(spatial_dims, 1, 2, (4, 8), STRIDES[spatial_dims], **fields)


def relative_change(output, reference):
    return ((output - reference).abs().max() / reference.abs().max()).item()


TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_3_fresh_rings_and_late_channels_change_no_output(spatial_dims, dtype):
    """A fresh supernet with preserving growth: every width and kernel gives the smallest's output."""
    supernet = Supernet(unet(spatial_dims), SPACE).to(dtype).eval()
    x = torch.randn(INPUTS[spatial_dims], dtype=dtype)
    with torch.no_grad():
        for depth in SPACE.depth:
            space = SPACE.restrict(depth=(depth,), resolution=(1,))
            supernet.activate(space.smallest())
            reference = supernet(x)
            for config in space:
                supernet.activate(config)
                assert relative_change(supernet(x), reference) <= TOLERANCES[dtype], config


@torch.no_grad()
def test_3_host_growth_changes_the_output():
    supernet = Supernet(unet(), SPACE, growth="host").eval()
    x, outputs = torch.randn(2, 1, 8, 8), []
    for width in SPACE.width:
        supernet.activate(SubnetConfig.uniform(3, 1, width, 3))
        outputs.append(supernet(x))
    assert relative_change(outputs[1], outputs[0]) > 1e-2


@torch.no_grad()
def test_3_trained_rings_change_the_output(randomise):
    supernet = randomise(Supernet(unet(), SPACE)).eval()
    x, outputs = torch.randn(2, 1, 8, 8), []
    for kernel in SPACE.kernel:
        supernet.activate(SubnetConfig.uniform(3, 1, 1, kernel))
        outputs.append(supernet(x))
    assert relative_change(outputs[1], outputs[0]) > 1e-2


def test_3_late_channels_can_learn():
    """The zeros of preserving growth are left at the first step."""
    supernet = Supernet(unet(), SPACE)
    supernet(torch.randn(2, 1, 8, 8)).square().mean().backward()
    reads_late_channels = supernet.tensors["encoder/0/blocks/1/conv/weight"].cell((0, 1, 0))
    assert not reads_late_channels.any()
    assert reads_late_channels.grad.any()


OLD = SearchSpace(3, (1,), (0.5, 1), (3, 7), (1,), unet_groups(2))
NEW = SearchSpace(3, (1, 2), (0.25, 0.5, 0.75, 1, 1.5), (3, 5, 7, 9), (0.5, 1), unet_groups(2))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_6_old_subnets_of_a_grown_supernet_give_the_same_output(randomise, spatial_dims, training):
    """Also where a width, a kernel and a smaller width come between the old ones."""
    old = randomise(Supernet(unet(spatial_dims, norm="batch"), OLD)).train(training)
    old.activate(OLD.smallest())
    new = old.grow(NEW)
    assert (new.space, new.active, new.training) == (NEW, OLD.smallest(), training)
    x = torch.randn(INPUTS[spatial_dims])
    with torch.no_grad():
        for config in OLD:
            for supernet in (old, new):
                supernet.activate(config)
            assert torch.equal(old(x), new(x)), config


@torch.no_grad()
def test_6_what_grows_preserves_the_largest(randomise):
    old = randomise(Supernet(unet(), OLD)).double().eval()
    new = old.grow(NEW)
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    new.activate(SubnetConfig.uniform(3, 1, 1.5, 9))
    assert relative_change(new(x), old(x)) <= 1e-12


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (OLD.restrict(width=(0.5,)), r"width 1.0 of section 0 is not in the search space \(0.5,\)"),
        (replace(OLD, width=(0.5, 1.5)), r"width 1.0 of section 0 is not in the search space \(0.5, 1.5\)"),
        (replace(OLD, groups={}, sections=2), r"3 sections, the search space has 2"),
    ],
)
def test_6_growing_into_a_space_without_the_old_subnets_is_refused(space, message):
    with pytest.raises(ValueError, match=message):
        Supernet(unet(), OLD).grow(space)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_the_supernet_of_a_smaller_space_gives_the_same_outputs(randomise, training):
    """The first candidates, the last, and some in between."""
    whole = randomise(Supernet(unet(norm="batch"), NEW)).train(training)
    x = torch.randn(INPUTS[2])
    for part in ({"depth": (1,), "kernel": (3, 5)}, {"width": (1, 1.5), "kernel": (9,)}, {"width": (0.5, 1)}):
        space = NEW.restrict(resolution=(1,), **part)
        smaller = whole.only(space)
        assert (smaller.space, smaller.training) == (space, training)
        assert smaller.opened_depth == max(space.depth)
        with torch.no_grad():
            for config in (space.smallest(), *[space.restrict(kernel=(k,)).largest() for k in space.kernel]):
                for supernet in (whole, smaller):
                    supernet.activate(config)
                assert torch.equal(whole(x), smaller(x)), config


def test_a_supernet_of_what_it_lacks_is_refused():
    with pytest.raises(ValueError, match=r"kernel 9 of section 0 is not in the search space \(3, 5\)"):
        Supernet(unet(), SPACE).only(replace(SPACE, kernel=(3, 9)))


def test_6_growing_must_keep_candidates_in_between():
    space = replace(OLD, width=(0.25, 0.5, 1))
    with pytest.raises(ValueError, match=r"width 0.5 of section 0 is not in the search space \(0.25, 1.0\)"):
        Supernet(unet(), space).grow(replace(space, width=(0.25, 1)))


def test_6_growing_must_not_tie_what_was_free():
    with pytest.raises(ValueError, match=r"groups \(0, 0, 0\) of depth tie sections that are free in groups"):
        Supernet(unet(), SPACE).grow(replace(SPACE, groups=SPACE.groups | {Dimension.DEPTH: (0, 0, 0)}))
