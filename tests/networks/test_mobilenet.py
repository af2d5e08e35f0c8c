from __future__ import annotations

import itertools

import pytest
import torch

from prox_monai.elastic import Freeze, Supernet, check_architecture, reorder_channels
from prox_monai.networks import MobileNetArchitecture
from prox_monai.space import SearchSpace, SectionConfig, SubnetConfig
from prox_monai.training import Recipe

SMALL = {"channels": (8, 16), "strides": (2, 1), "stem": 8, "first": 8, "head": 16}
SPACE = SearchSpace(2, (1, 2), (3, 4, 6), (3, 5, 7), (0.5, 1))
STOCK_DEPTHS = (2, 3, 4, 3, 3, 1)


def test_the_stock_mobilenet_is_reproduced():
    """torchvision's MobileNetV2 with its weights, in this one's modules, gives the same output."""
    models = pytest.importorskip("torchvision").models
    torch.manual_seed(0)
    stock = models.mobilenet_v2(num_classes=7).train()
    for _ in range(2):
        stock(torch.randn(4, 3, 64, 64))  # statistics that are not 0 and 1
    config = SubnetConfig(tuple(SectionConfig(depth, 6, 3) for depth in STOCK_DEPTHS))
    ours = MobileNetArchitecture(2, 3, 7).build(config)
    theirs = stock.state_dict()
    assert len(theirs) == len(ours.state_dict())
    pairs = zip(ours.state_dict().items(), theirs.values(), strict=True)
    ours.load_state_dict({name: tensor.reshape(mine.shape) for (name, mine), tensor in pairs})
    x = torch.randn(2, 3, 96, 96)
    torch.testing.assert_close(ours.eval()(x), stock.eval()(x), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("multiplier", [0.35, 0.5, 0.75, 1.4])
def test_the_width_multiplier_is_torchvisions(multiplier):
    models = pytest.importorskip("torchvision").models
    config = SubnetConfig(tuple(SectionConfig(depth, 6, 3) for depth in STOCK_DEPTHS))
    ours = MobileNetArchitecture(2, 3, 5, multiplier=multiplier).build(config)
    theirs = models.mobilenet_v2(num_classes=5, width_mult=multiplier)
    shapes = [tuple(parameter.shape) for parameter in ours.parameters()]
    assert shapes == [tuple(parameter.shape) for parameter in theirs.parameters()]


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_it_is_an_architecture(spatial_dims):
    architecture = MobileNetArchitecture(spatial_dims, 1, 3, **SMALL)
    check_architecture(architecture, SPACE, input_size=(1, *(16,) * spatial_dims))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_shapes(spatial_dims):
    architecture = MobileNetArchitecture(spatial_dims, 2, 5, **SMALL)
    network = architecture.build(SPACE.largest()).eval()
    assert network(torch.randn(3, 2, *(16,) * spatial_dims)).shape == (3, 5)
    assert architecture.stride == (4,) * spatial_dims
    features = network.sections[0](network.first(network.stem(torch.randn(1, 2, *(16,) * spatial_dims))))
    assert features.shape[2:] == (4,) * spatial_dims


def test_a_new_depth_and_a_new_kernel_change_nothing():
    torch.manual_seed(0)
    network = Supernet(MobileNetArchitecture(2, 1, 3, **SMALL), SPACE).double().eval()
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64)

    def output(depth, width, kernel):
        network.activate(SubnetConfig.uniform(2, depth, width, kernel))
        with torch.no_grad():
            return network(x)

    network.open_depth(2)
    for width, kernel in itertools.product(SPACE.width, SPACE.kernel):
        torch.testing.assert_close(output(2, width, kernel), output(1, width, kernel), atol=1e-12, rtol=0)
        torch.testing.assert_close(output(2, width, kernel), output(2, width, 3), atol=1e-12, rtol=0)


def test_a_new_width_changes_nothing():
    """New channels of the depth-wise convolution are not read by the projection yet."""
    network = Supernet(MobileNetArchitecture(2, 1, 3, **SMALL), SPACE).double().eval()
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    outputs = []
    for width in SPACE.width:
        network.activate(SubnetConfig.uniform(2, 2, width, 3))
        with torch.no_grad():
            outputs.append(network(x))
    for other in outputs[1:]:
        torch.testing.assert_close(other, outputs[0], atol=1e-12, rtol=0)


def test_channel_groups():
    """Written out: what a block is inside has an order of its own."""
    config = SubnetConfig((SectionConfig(1, 6, 3), SectionConfig(2, 6, 3)))
    groups = MobileNetArchitecture(2, 1, 3, **SMALL).channel_groups(config)
    blocks = ("sections.0.0", "sections.1.0", "sections.1.1")
    assert groups == {
        f"{block}.{name}.": channels
        for block in blocks
        for name, channels in {
            "expand": ((None,), block),
            "depthwise": ((None,), block),
            "project": ((block,), None),
        }.items()
    }


@torch.no_grad()
def test_reordered_channels():
    """The widest stays the same function; of importance 0, channels go last, and a narrower subnet is the widest."""
    torch.manual_seed(0)
    architecture = MobileNetArchitecture(2, 1, 3, **SMALL)
    network = Supernet(architecture, SPACE, growth="none").double().eval()
    narrow, wide = (SubnetConfig.uniform(2, 2, width, 5) for width in (3, 6))
    plain = network.extract(wide)
    for name, tensor in plain.state_dict().items():
        if name.endswith("project.0.weight"):
            tensor[:, : tensor.shape[1] // 2] = 0
    network.absorb(wide, plain)
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    wanted = plain(x)
    assert not torch.allclose(network.extract(narrow)(x), wanted)
    reorder_channels(network)
    for config in (wide, narrow):
        torch.testing.assert_close(network.extract(config)(x), wanted, atol=1e-12, rtol=0)


def test_progressive_shrinking_trains():
    recipe = Recipe.of("progressive_shrinking")
    network = recipe.supernet(MobileNetArchitecture(2, 1, 3, **SMALL), SPACE)
    schedule = recipe.phase_schedule(SPACE, 6)
    training = recipe.training(network.train(), schedule)
    loss = training.criterion(torch.nn.functional.cross_entropy)
    x, labels = torch.randn(4, 1, 16, 16), torch.tensor([0, 1, 2, 0])
    for epoch in range(schedule.total_epochs):
        training.begin_epoch(epoch)
        for _ in training.begin_step(0):
            training.distill(x)
            loss(network(x), labels).backward()
    assert [phase.reorder for phase in schedule.phases] == [False, False, False, False, True, False]
    depthwise = network.tensors["sections/0/0/depthwise/0/weight"]
    assert all(depthwise.cell(cell).grad.any() for cell in depthwise.grid.cells())


def test_a_state_of_a_smaller_space_is_loaded():
    """Statistics of what the smaller space does not have are gone."""
    small = SPACE.restrict(depth=(1,), width=(3,), kernel=(3,))
    architecture, x = MobileNetArchitecture(2, 1, 3, **SMALL), torch.randn(2, 1, 16, 16)
    saved, network = (Supernet(architecture, space).eval() for space in (small, SPACE))
    network.load_state_dict(saved.state_dict())
    assert network.space == small
    assert network.state_dict().keys() == saved.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(network(x), saved(x))


def test_statistics_of_a_frozen_block_stay():
    network = Supernet(MobileNetArchitecture(2, 1, 3, **SMALL), SPACE).train()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network.activate(SPACE.largest(), Freeze(blocks=frozenset({(0, 0)})))
    network(torch.randn(4, 1, 16, 16))
    moved = {name for name, buffer in network.named_buffers() if not torch.equal(buffer, before[name])}
    statistics = {name for name in before if "running" in name}
    frozen = {name for name in statistics if name.startswith("sections/0/0/")}
    assert frozen
    assert moved & statistics == statistics - frozen


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MobileNetArchitecture(2, 1, 2, strides=(2, 1)), r"strides must be 6, one per section of channels"),
        (lambda: MobileNetArchitecture(2, 1, 2, multiplier=0), "multiplier must be a number > 0, got 0"),
        (
            lambda: MobileNetArchitecture(2, 1, 2, **SMALL).build(SubnetConfig.uniform(3, 1, 3, 3)),
            "the subnet has 3 sections, the architecture 2",
        ),
        (
            lambda: MobileNetArchitecture(2, 1, 2, **SMALL).build(SubnetConfig.uniform(2, 1, 1, 3)),
            "width 1 of section 0 is an expansion ratio and must be above 1",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
