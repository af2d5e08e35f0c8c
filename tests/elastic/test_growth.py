"""What an expansion opens hardly changes what is there."""

from __future__ import annotations

import pytest
import torch

from prox_monai.elastic import Supernet
from prox_monai.elastic.depth import measure_moments
from prox_monai.networks import UNetArchitecture
from prox_monai.space import Phase, PhaseSchedule, SearchSpace, Stage, SubnetConfig, unet_groups
from prox_monai.training import ProgressiveTraining

STRIDES = ((1, 1, 1), (2, 2, 2))
SPACE = SearchSpace(3, (1, 2, 3), (0.5, 1.0), (3, 5), groups=unet_groups(2))


def supernet(norm: str = "instance", growth: str = "preserving") -> Supernet:
    architecture = UNetArchitecture(3, 1, 2, channels=(8, 16), strides=STRIDES, norm=norm)
    network = Supernet(architecture, SPACE, growth=growth)
    with torch.no_grad():  # as if it had been trained: affine parameters that are not 1 and 0
        for name, parameter in network.named_parameters():
            if "/norm/" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return network.eval()


def outputs(network: Supernet, depth: int, width: float, kernel: int, x: torch.Tensor) -> torch.Tensor:
    network.activate(SubnetConfig.uniform(3, depth, width, kernel))
    with torch.no_grad():
        return network(x)


@pytest.mark.parametrize(("width", "kernel"), [(0.5, 3), (1.0, 3), (1.0, 5)])
def test_a_deeper_subnet_starts_close_to_the_shallower_one(width, kernel):
    """At every width and kernel; with the host's initialisation it is another function altogether."""
    x = torch.nn.functional.avg_pool3d(torch.randn(2, 1, 24, 24, 24), 3, 1, 1)
    network = supernet()
    shallow = outputs(network, 1, width, kernel, x)
    before = (outputs(network, 2, width, kernel, x) - shallow).std()
    network.open_depth(2)
    after = (outputs(network, 2, width, kernel, x) - shallow).std()
    assert after < 0.15 * shallow.std()
    assert after < 0.3 * before


@pytest.mark.parametrize(("width", "kernel"), [(0.5, 3), (1.0, 5)])
def test_a_deeper_subnet_starts_closer_where_it_can_look_at_inputs(width, kernel):
    """Sparse images are far from Gaussian; what was measured on some of them holds for others."""
    x = torch.nn.functional.avg_pool3d((torch.rand(12, 1, 16, 16, 16) < 0.02).float(), 5, 1, 2)
    network = supernet()
    shallow = outputs(network, 1, width, kernel, x[:2])
    network.open_depth(2)
    estimated = (outputs(network, 2, width, kernel, x[:2]) - shallow).std()
    network.open_depth(2, SubnetConfig.uniform(3, 1, width, kernel), [x[2:7], x[7:]])
    measured = (outputs(network, 2, width, kernel, x[:2]) - shallow).std()
    assert measured < 0.6 * estimated
    assert torch.equal(outputs(network, 1, width, kernel, x[:2]), shallow)


def test_moments_do_not_depend_on_how_images_are_batched():
    network = supernet()
    x, subnet = torch.rand(6, 1, 8, 8, 8), network.extract(SubnetConfig.uniform(3, 1, 1.0, 3))
    whole = measure_moments(network.architecture, subnet, 0, [x])
    parts = measure_moments(network.architecture, subnet, 0, [x[:1], x[1:]])
    assert whole.keys() == parts.keys() == {0, 1, 2}
    for section in whole:
        torch.testing.assert_close(whole[section], parts[section])
    first = subnet.encoder[0].blocks[0](x).flatten(2)
    torch.testing.assert_close(whole[0], (first.mean(2).mean(0).detach(), first.std(2, correction=0).mean(0).detach()))
    assert measure_moments(network.architecture, subnet, 0, []) == {}


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_opening_a_depth_changes_no_shallower_subnet(norm):
    x = torch.randn(2, 1, 8, 8, 8)
    network = supernet(norm)
    before = outputs(network, 1, 1.0, 5, x)
    network.open_depth(2)
    assert torch.equal(outputs(network, 1, 1.0, 5, x), before)


@pytest.mark.parametrize("depth", [1, 4])
def test_only_further_candidates_can_be_opened(depth):
    with pytest.raises(ValueError, match=rf"depth must be one of \(2, 3\) to be opened, got {depth}"):
        supernet().open_depth(depth)


@pytest.mark.parametrize(("growth", "opened"), [("preserving", [2, 3]), ("host", [])])
def test_a_training_opens_each_depth_when_its_phase_begins(growth, opened, monkeypatch):
    calls = []
    network = supernet(growth=growth)
    monkeypatch.setattr(network, "open_depth", lambda depth, like, batches: calls.append((training.epoch, depth)))
    training = ProgressiveTraining(network, PhaseSchedule.prox(SPACE, [2] * 5))
    for epoch in range(10):
        training.begin_epoch(epoch)
    assert calls == [(2 * (depth - 1), depth) for depth in opened]


def test_progressive_shrinking_opens_nothing(monkeypatch):
    network = supernet()
    monkeypatch.setattr(network, "open_depth", lambda *_: pytest.fail("opened"))
    training = ProgressiveTraining(network, PhaseSchedule.progressive_shrinking(SPACE, 5))
    for epoch in range(5):
        training.begin_epoch(epoch)


def trained_block(network: Supernet) -> torch.Tensor:
    return network.extract(SPACE.largest()).get_submodule("encoder.0.blocks.1").conv.weight


def test_learnt_blocks_are_not_opened_again():
    """What was written by absorb (pretrained weights), or learnt before the space grew, stays."""
    source = supernet()
    before = trained_block(source)
    source.absorb(SPACE.largest(), source.extract(SPACE.largest()))
    training = ProgressiveTraining(source, PhaseSchedule.prox(SPACE, 5))
    for epoch in range(3):
        training.begin_epoch(epoch)
    assert torch.equal(trained_block(source), before)


def test_a_grown_supernet_opens_only_what_is_new(monkeypatch):
    network = supernet()
    training = ProgressiveTraining(network, PhaseSchedule.prox(SPACE, 5))
    training.begin_epoch(0)
    training.begin_epoch(1)
    assert network.opened_depth == 2
    larger = SearchSpace(3, (1, 2, 3, 4), (0.5, 1.0), (3, 5), groups=unet_groups(2))
    grown = network.grow(larger)
    loaded = Supernet(network.architecture, larger)
    loaded.load_state_dict(grown.state_dict())
    calls = []
    monkeypatch.setattr(loaded, "open_depth", lambda depth, *_: calls.append(depth))
    training = ProgressiveTraining(loaded, PhaseSchedule.prox(larger, 6))
    for epoch in range(4):
        training.begin_epoch(epoch)
    assert calls == [3, 4]


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_where_nothing_grows_the_largest_is_initialised_as_its_host_does(norm):
    """Rings and late channels too: bitwise the host's network."""
    architecture = UNetArchitecture(3, 1, 2, channels=(8, 16), strides=STRIDES, norm=norm)
    torch.manual_seed(1)
    network = Supernet(architecture, SPACE, growth="none")
    torch.manual_seed(1)
    host = architecture.build(SPACE.largest()).state_dict()
    ours = network.extract(SPACE.largest()).state_dict()
    assert ours.keys() == host.keys()
    assert all(torch.equal(tensor, host[name]) for name, tensor in ours.items())
    rings = [shells.cell(cell) for shells in network.tensors.values() for cell in shells.grid.cells() if cell[2] > 0]
    assert rings
    assert all(ring.all() for ring in rings)


def test_a_subnet_that_is_trained_alone_starts_as_its_host_initialises_it():
    config = SPACE.parse("d2.1.3-w.5_1_.5-k3.5.3-r1")
    network = Supernet(UNetArchitecture(3, 1, 2, channels=(8, 16), strides=STRIDES), SPACE, growth="none")
    torch.manual_seed(1)
    network.absorb(config, network.architecture.build(config))
    torch.manual_seed(1)
    host = network.architecture.build(config).state_dict()
    ours = network.extract(config).state_dict()
    assert ours.keys() == host.keys()
    assert all(torch.equal(tensor, host[name]) for name, tensor in ours.items())


def test_depths_open_one_after_the_other_in_a_coupled_space():
    """Where depth 2 goes with the middle width, there is no subnet of depth 2 and the largest width."""
    space = SearchSpace(3, (1, 2, 3), (0.25, 0.5, 1.0), (3,), groups=unet_groups(2)).coupled()
    network = Supernet(UNetArchitecture(3, 1, 2, channels=(8, 16), strides=STRIDES), space)
    training = ProgressiveTraining(network, PhaseSchedule.prox(space, 3))
    x, opened = torch.randn(1, 1, 8, 8, 8), []
    for epoch in range(3):
        training.begin_epoch(epoch, [x])
        opened.append(network.opened_depth)
    assert opened == [1, 2, 3]
    block = network.extract(space.largest()).get_submodule("encoder.0.blocks.2").conv
    assert torch.equal(block(torch.ones(1, 8, 3, 3, 3))[0, :, 1, 1, 1], torch.ones(8))


@pytest.mark.parametrize("coupled", [True, False])
def test_depths_that_open_together_continue_one_another(coupled):
    space = SearchSpace(3, (1, 2, 3, 4), (0.5, 1.0), (3,), groups=unet_groups(2))
    if coupled:
        space = space.coupled()
        schedule = PhaseSchedule.prox(space, 4, polish=False)
    else:
        narrow = space.restrict(depth=(1,))
        schedule = PhaseSchedule((Phase(0, Stage.DEPTH, narrow, 1), Phase(1, Stage.DEPTH, space, 1)))
    network = Supernet(UNetArchitecture(3, 1, 2, channels=(8, 16), strides=STRIDES), space)
    training = ProgressiveTraining(network, schedule)
    opened = [0]
    for epoch in range(schedule.total_epochs):
        training.begin_epoch(epoch, iter([torch.randn(1, 1, 8, 8, 8)]))
        opened.append(network.opened_depth)
    before = opened[opened.index(4) - 1]
    assert before <= 2
    for new in range(before, 4):  # one tap of one channel alone, as a continuation has
        weight = network.extract(space.largest()).get_submodule(f"encoder.0.blocks.{new}").conv.weight
        assert weight[:, :, 1, 1, 1].count_nonzero() == weight.count_nonzero() == 8
