"""Invariant 4 of ARCHITECTURE.md, section 9: what is frozen does not move."""

from __future__ import annotations

import pytest
import torch

from prox_monai.elastic import Freeze, Supernet
from prox_monai.networks import UNetArchitecture
from prox_monai.space import SearchSpace, SubnetConfig, unet_groups

SPACE = SearchSpace(3, (1, 2), (0.5, 1), (3, 5, 7), groups=unet_groups(2))
ARCHITECTURE = UNetArchitecture(2, 1, 2, (4, 8), ((1, 1), (2, 2)), norm="batch", deep_supervision=True)
FULL = SubnetConfig.uniform(3, 2, 1, 5)
NARROW = SubnetConfig.uniform(3, 2, 0.5, 5)


def steps(supernet, optimizer, count):
    for _ in range(count):
        optimizer.zero_grad()
        torch.stack([y.square().mean() for y in supernet(torch.randn(2, 1, 8, 8))]).sum().backward()
        optimizer.step()


def train(supernet, config, freeze, fused):
    """Steps without the freeze, so that there is momentum, then steps with it; returns both states."""
    optimizer = torch.optim.AdamW(supernet.parameters(), lr=0.01, weight_decay=0.1, fused=fused)
    supernet.activate(config)
    steps(supernet, optimizer, 2)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    supernet.activate(config, freeze)
    steps(supernet, optimizer, 3)
    return before, supernet.state_dict()


def moved(before, after, name):
    return not torch.equal(before[name], after[name])


@pytest.mark.parametrize("fused", [False, True], ids=["adamw", "fused"])
def test_4_frozen_blocks_do_not_move_and_the_others_do(randomise, fused):
    supernet = randomise(Supernet(ARCHITECTURE, SPACE.restrict(kernel=(5,))))
    blocks = frozenset({(0, 0), (1, 0), (2, 1)})
    before, after = train(supernet, FULL, Freeze(blocks=blocks), fused)
    prefixes = tuple(f"{ARCHITECTURE.block_prefix(*block)}" for block in blocks)
    frozen = {n for n in before if n.removeprefix("tensors.").replace("/", ".").startswith(prefixes)}
    assert sum("running_var" in name for name in frozen) == len(blocks)
    assert sum("num_batches_tracked" in name for name in frozen) == len(blocks)
    for name in before.keys() - {"_extra_state"}:
        assert moved(before, after, name) == (name not in frozen), name


@pytest.mark.parametrize("fused", [False, True], ids=["adamw", "fused"])
def test_4_a_frozen_kernel_core_does_not_move_and_its_ring_does(randomise, fused):
    supernet = randomise(Supernet(ARCHITECTURE, SPACE))
    before, after = train(supernet, FULL, Freeze(kernel=3), fused)
    for key, shells in supernet.tensors.items():
        elastic = len(shells.grid.taps) > 1
        for cell in shells.grid.cells():
            name = f"tensors.{key}.{'_'.join(map(str, cell))}"
            expected = cell[2] == 1 if elastic else True
            assert moved(before, after, name) == expected, name
    assert supernet.tensors["decoder/0/upsample/weight"].cell((1, 1, 0)).grad is not None


@pytest.mark.parametrize("fused", [False, True], ids=["adamw", "fused"])
def test_4_shells_that_are_not_in_use_have_no_gradient_and_no_optimizer_state(randomise, fused):
    supernet = randomise(Supernet(ARCHITECTURE, SPACE))
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    optimizer = torch.optim.AdamW(supernet.parameters(), lr=0.01, weight_decay=0.1, fused=fused)
    supernet.activate(NARROW)
    steps(supernet, optimizer, 2)
    after, opened = supernet.state_dict(), 0
    for key, shells in supernet.tensors.items():
        inner = len(shells.grid.rows) > 1, len(shells.grid.columns) > 1, len(shells.grid.taps) > 1
        for cell in shells.grid.cells():
            limits = [(0 if grows else 9) for grows in inner[:2]] + [1]
            used = all(i <= limit for i, limit in zip(cell, limits, strict=True))
            parameter, name = shells.cell(cell), f"tensors.{key}.{'_'.join(map(str, cell))}"
            assert (parameter.grad is not None) == used, name
            assert (parameter in optimizer.state) == used, name
            assert moved(before, after, name) == used, name
            opened += used
    assert 0 < opened < len(list(supernet.parameters()))


def test_4_batch_norm_of_a_frozen_block_normalises_with_its_statistics(randomise):
    """The freeze is of a step, not of the network: the next activation trains everything again."""
    supernet = randomise(Supernet(ARCHITECTURE, SPACE))
    statistics = supernet.get_buffer("encoder/0/blocks/0/norm/running_mean")
    before = statistics.clone()
    supernet.activate(FULL, Freeze(blocks=frozenset({(0, 0)})))
    supernet(torch.randn(2, 1, 8, 8))
    assert torch.equal(statistics, before)
    supernet.activate(FULL)
    supernet(torch.randn(2, 1, 8, 8))
    assert not torch.equal(statistics, before)


def test_a_freeze_changes_no_output(randomise):
    supernet = randomise(Supernet(ARCHITECTURE, SPACE)).eval()
    x = torch.randn(2, 1, 8, 8)
    supernet.activate(FULL)
    free = supernet(x)
    supernet.activate(FULL, Freeze(frozenset({(0, 0), (2, 0)}), 3))
    assert all(map(torch.equal, supernet(x), free))
