"""Channels sorted by importance: the same function, whose narrower subnets keep the best channels."""

from __future__ import annotations

import pytest
import torch

from prox_monai.elastic import ReorderableArchitecture, Supernet, reorder_channels
from prox_monai.elastic.reorder import channel_importance, permute_channels
from prox_monai.networks import UNetArchitecture
from prox_monai.space import SearchSpace, SubnetConfig, unet_groups

PLANAR = UNetArchitecture(2, 1, 2, (8, 16, 16), ((1, 1), (2, 2), (2, 2)), norm="batch", deep_supervision=True)
FLAT = UNetArchitecture(
    3, 1, 2, (4, 8, 8), ((1, 1, 1), (1, 2, 2), (2, 2, 2)), deep_supervision=True, planned_kernels=((1, 3, 3),) * 3
)
INPUTS = {PLANAR: (2, 1, 16, 12), FLAT: (2, 1, 4, 8, 12)}
SPACE = SearchSpace(5, (1, 2, 3), (0.25, 0.5, 1), (3, 5), (1,), unet_groups(3))
LARGEST = SPACE.largest()


def outputs(supernet: Supernet, config: SubnetConfig, x: torch.Tensor) -> list[torch.Tensor]:
    supernet.activate(config)
    return supernet(x)


def assert_same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    assert len(ours) == len(theirs) == 2
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= 1e-12 * b.abs().max()


def importance_of(supernet: Supernet) -> dict[str, torch.Tensor]:
    return channel_importance(supernet.architecture, LARGEST, supernet.extract(LARGEST))


@pytest.mark.parametrize("architecture", [PLANAR, FLAT], ids=["2d", "3d"])
@torch.no_grad()
def test_the_widest_subnets_stay_the_same_functions(randomise, architecture):
    """At every depth and kernel, on all outputs of deep supervision; narrower ones become others."""
    supernet = randomise(Supernet(architecture, SPACE)).double().eval()
    x = torch.randn(INPUTS[architecture], dtype=torch.float64)
    mixed = SPACE.parse("d1.2.3.1.2-w1-k3.5.3.5.3-r1")
    configs = [SubnetConfig.uniform(5, depth, 1, kernel) for depth in SPACE.depth for kernel in SPACE.kernel]
    before = {config: outputs(supernet, config, x) for config in [*configs, mixed]}
    narrow = outputs(supernet, SPACE.smallest(), x)
    supernet.activate(mixed)
    reorder_channels(supernet)
    assert supernet.active == mixed
    for config, wanted in before.items():
        assert_same(outputs(supernet, config, x), wanted)
    assert not torch.allclose(outputs(supernet, SPACE.smallest(), x)[0], narrow[0])


@pytest.mark.parametrize("architecture", [PLANAR, FLAT], ids=["2d", "3d"])
def test_importance_does_not_increase_afterwards(randomise, architecture):
    supernet = randomise(Supernet(architecture, SPACE)).double()
    before = importance_of(supernet)
    reorder_channels(supernet)
    after = importance_of(supernet)
    assert after.keys() == {*(f"section {i}" for i in range(5)), "up 0", "up 1"}
    for group, norms in after.items():
        assert (norms.diff() <= 1e-12).all(), group
        assert not (before[group].diff() <= 1e-12).all(), group
        torch.testing.assert_close(norms, before[group].sort(descending=True).values)


def test_importance_is_the_l1_norm_of_the_weights_that_read_a_channel(randomise):
    """In closed form, for channels that blocks, a skip and an up-sampling read."""
    supernet = randomise(Supernet(PLANAR, SPACE)).double()
    state = supernet.extract(LARGEST).state_dict()

    def read(name: str, columns: slice = slice(None)) -> torch.Tensor:
        return state[name][:, columns].abs().sum((0, 2, 3))

    first = read("encoder.0.blocks.1.conv.weight") + read("encoder.0.blocks.2.conv.weight")
    first += read("encoder.1.blocks.0.conv.weight") + read("decoder.1.blocks.0.conv.weight", slice(8, 16))
    bottleneck = read("encoder.2.blocks.1.conv.weight") + read("encoder.2.blocks.2.conv.weight")
    bottleneck += state["decoder.0.upsample.weight"].abs().sum((1, 2, 3))
    last = read("decoder.1.blocks.1.conv.weight") + read("decoder.1.blocks.2.conv.weight")
    importance = importance_of(supernet)
    torch.testing.assert_close(importance["section 0"], first)
    torch.testing.assert_close(importance["section 2"], bottleneck)
    torch.testing.assert_close(importance["section 4"], last + read("decoder.1.head.weight"))
    torch.testing.assert_close(importance["up 1"], read("decoder.1.blocks.0.conv.weight", slice(8)))


@pytest.mark.parametrize("architecture", [PLANAR, FLAT], ids=["2d", "3d"])
@torch.no_grad()
def test_smaller_widths_keep_the_channels_that_matter(randomise, architecture):
    """Channels that nobody reads are put in front; re-ordered, the half-width subnet is the whole network again."""
    supernet = randomise(Supernet(architecture, SPACE)).double().eval()
    x, half = torch.randn(INPUTS[architecture], dtype=torch.float64), SubnetConfig.uniform(5, 3, 0.5, 5)
    for key, shells in supernet.tensors.items():
        reads = 0 if key.endswith("upsample/weight") else 1
        for cell in shells.grid.cells():
            if shells.grid.ndim > 1 and cell[reads] > 1:
                shells.cell(cell).zero_()
    wanted = outputs(supernet, half, x)
    network = supernet.extract(LARGEST)
    reversed_order = {group: torch.arange(len(n)).flip(0) for group, n in importance_of(supernet).items()}
    permute_channels(architecture, LARGEST, network, reversed_order)
    supernet.absorb(LARGEST, network)
    assert not torch.allclose(outputs(supernet, half, x)[0], wanted[0])
    reorder_channels(supernet)
    assert_same(outputs(supernet, half, x), wanted)


def test_sorted_channels_stay_where_they_are(randomise):
    supernet = randomise(Supernet(PLANAR, SPACE))
    reorder_channels(supernet)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    reorder_channels(supernet)
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


def test_at_a_lower_resolution(randomise):
    low = SearchSpace(5, (1, 2), (0.5, 1), (3, 5), (0.5,), unet_groups(3))
    supernet = randomise(Supernet(PLANAR, low)).double().eval()
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        wanted = outputs(supernet, low.largest(), x)
        reorder_channels(supernet)
        assert_same(outputs(supernet, low.largest(), x), wanted)


def test_an_architecture_that_does_not_say_which_channels_belong_together(classifier_type, classifier_space):
    assert isinstance(PLANAR, ReorderableArchitecture)
    assert not isinstance(classifier_type(), ReorderableArchitecture)
    with pytest.raises(TypeError, match=r"where channel_groups says which; Classifier\(.*\) has none"):
        reorder_channels(Supernet(classifier_type(), classifier_space))
