from __future__ import annotations

import itertools
import json
import random
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from prox_monai.elastic import Freeze, Supernet, check_architecture
from prox_monai.elastic.architecture import ReorderableArchitecture
from prox_monai.networks import InvertedUNet, InvertedUNetArchitecture
from prox_monai.networks.blocks import ConvBlock, InvertedResidual
from prox_monai.networks.reversible import AdditiveCoupling
from prox_monai.space import SearchSpace, SectionConfig, SubnetConfig
from prox_monai.space.groups import unet_groups
from prox_monai.training import load_checkpoint, save_checkpoint

SPACE = SearchSpace(5, (1, 2, 3), (0.5, 1.0), (3, 5), (0.5, 1.0), groups=unet_groups(3))
CHECKED = replace(SPACE, depth=(1, 2))
MIXED = SubnetConfig(tuple(map(SectionConfig, (1, 2, 3, 2, 1), (1.0, 0.5, 0.7, 0.5, 1.0), (3, 5, 3, 5, 3))))
KINDS = [pytest.param(False, id="stored"), pytest.param(True, id="reversible")]
every_kind = pytest.mark.parametrize("reversible", KINDS)
both_dims = pytest.mark.parametrize("dims", [2, 3], ids=["2d", "3d"])


def image(dims, batch=2):
    return torch.randn(batch, 1, *(8, 16, 16)[-dims:])


@every_kind
@both_dims
@pytest.mark.parametrize("deep_supervision", [False, True])
def test_it_is_an_architecture(inverted, dims, deep_supervision, reversible):
    architecture = inverted(dims, deep_supervision=deep_supervision, reversible=reversible)
    check_architecture(architecture, CHECKED, input_size=image(dims).shape[1:])


@pytest.mark.parametrize("dims", [2, 3])
def test_it_is_an_architecture_with_batch_norm(inverted, dims):
    check_architecture(inverted(dims, norm="batch"), CHECKED, input_size=image(dims).shape[1:])


@every_kind
@both_dims
def test_supernet_and_extracted_subnet_are_one_function(inverted, dims, reversible, monkeypatch):
    """Invariant 1: bitwise, in training mode, where gradients are wanted, too; with kernels in the same layout."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    supernet = Supernet(inverted(dims, reversible=reversible, deep_supervision=True), SPACE, growth="host")
    for parameter in supernet.parameters():
        nn.init.normal_(parameter, std=0.3)
    rng, x = random.Random(0), image(dims)
    for config in (SPACE.smallest(), SPACE.largest(), *(SPACE.sample(rng) for _ in range(3))):
        supernet.activate(config)
        assert all(map(torch.equal, supernet(x), supernet.extract(config)(x)))


@every_kind
def test_gradients_of_a_corner_are_those_of_the_extracted_subnet(inverted, reversible):
    """Cut at the same extents: every cell's gradient is its part of the extracted network's."""
    supernet = Supernet(inverted(reversible=reversible), SPACE, growth="host").double()
    config, x = SPACE.restrict(resolution=(1.0,)).smallest().at_depth(3), image(2).double()
    network = supernet.extract(config)
    supernet.activate(config)
    for output in (supernet(x), network(x)):
        output.sin().sum().backward()
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            (cell,) = (c for c in supernet.tensors[name.replace(".", "/")].parameters() if c.grad is not None)
            torch.testing.assert_close(cell.grad.flatten(), parameter.grad.flatten(), rtol=1e-9, atol=1e-9)


@every_kind
@both_dims
def test_logits_have_the_shape_of_the_input_and_its_levels(inverted, dims, reversible):
    x = image(dims)
    network = inverted(dims, reversible=reversible, deep_supervision=True).build(MIXED)
    full, half = network(x)
    assert full.shape == (2, 3, *x.shape[2:])
    assert half.shape == (2, 3, *(8, 8, 8)[-dims:])
    network.deep_supervision = False
    assert torch.equal(network(x), full)


@both_dims
def test_shapes_of_a_mixed_configuration(inverted, dims):
    """Depth per section, width and kernel per level; twice as many hidden channels as a block gives."""
    shapes = {name: tuple(tensor.shape) for name, tensor in inverted(dims).build(MIXED).state_dict().items()}
    one, first = (1,) * dims, (3, 3) if dims == 2 else (1, 3, 3)
    assert shapes["encoder.0.blocks.0.conv.weight"] == (6, 1, *first)
    assert shapes["encoder.1.blocks.0.expand.0.weight"] == (8, 6, *one)
    assert shapes["encoder.1.blocks.1.depthwise.0.weight"] == (8, 1, *(5,) * dims)
    assert shapes["encoder.2.blocks.2.project.0.weight"] == (7, 14, *one)
    assert shapes["decoder.0.blocks.0.expand.0.weight"] == (8, 8, *one)
    assert shapes["decoder.1.blocks.0.depthwise.0.weight"] == (12, 1, *first)
    assert shapes["decoder.1.head.weight"] == (3, 6, *one)


def test_shapes_of_a_coupling(inverted):
    """Of seven channels four are even; the branch that changes a half has hidden channels after that half."""
    tensors = inverted(reversible=True).build(SubnetConfig.uniform(5, 2, 1.0, 3)).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert shapes["encoder.1.blocks.1.to_even.expand.0.weight"] == (8, 3, 1, 1)
    assert shapes["encoder.1.blocks.1.to_even.project.0.weight"] == (4, 8, 1, 1)
    assert shapes["encoder.1.blocks.1.to_odd.expand.0.weight"] == (6, 4, 1, 1)
    assert shapes["encoder.1.blocks.1.to_odd.project.0.weight"] == (3, 6, 1, 1)


@every_kind
def test_what_blocks_are(inverted, reversible):
    """A convolution first, as in MobileNetV2; the first block of a section adds no input, later ones do."""
    network = inverted(channels=(6, 6, 6), reversible=reversible).build(SubnetConfig.uniform(5, 2, 1.0, 3))
    assert isinstance(network.encoder[0].blocks[0], ConvBlock)
    for section in (*network.encoder[1:], *network.decoder):
        first, later = section.blocks
        assert isinstance(first, InvertedResidual)
        assert not first.residual
        assert isinstance(later, AdditiveCoupling) if reversible else later.residual


@every_kind
def test_a_new_depth_width_and_kernel_change_nothing(inverted, reversible):
    network = Supernet(inverted(reversible=reversible), SPACE).double().eval()
    x = image(2).double()

    def output(depth, width, kernel):
        network.activate(SubnetConfig.uniform(5, depth, width, kernel))
        with torch.no_grad():
            return network(x)

    expected = output(1, 0.5, 3)
    network.open_depth(2)
    network.open_depth(3)
    for depth, width, kernel in itertools.product((1, 2, 3), (0.5, 1.0), (3, 5)):
        torch.testing.assert_close(output(depth, width, kernel), expected, atol=1e-12, rtol=0)
    for depth in (2, 3):
        assert torch.equal(output(depth, 0.5, 3), expected)


@every_kind
def test_a_frozen_block_gets_no_gradient(inverted, reversible):
    supernet = Supernet(inverted(reversible=reversible, deep_supervision=True), SPACE)
    supernet.activate(SPACE.largest(), Freeze(blocks=frozenset({(0, 0), (1, 1), (3, 2)}), kernel=3))
    sum(output.square().mean() for output in supernet(image(2))).backward()
    frozen = tuple(supernet.architecture.block_prefix(*block).replace(".", "/") for block in ((0, 0), (1, 1), (3, 2)))
    for name, shells in supernet.tensors.items():
        for cell in shells.grid.cells():
            still = name.startswith(frozen) or (len(shells.grid.taps) > 1 and cell[2] == 0)
            assert (shells.cell(cell).grad is None) == still, name


def test_canonical_configurations(inverted):
    architecture = inverted()
    tied = replace(MIXED, sections=(*MIXED.sections[:3], SectionConfig(2, 0.9, 7), SectionConfig(1, 0.2, 3)))
    assert architecture.canonical(tied) == architecture.canonical(MIXED)
    assert architecture.canonical(architecture.canonical(tied)) == architecture.canonical(tied)
    assert architecture.canonical(MIXED).widths == (1.0, 4 / 7, 0.7, 4 / 7, 1.0)


def test_channels_are_not_reordered(inverted):
    assert not isinstance(inverted(), ReorderableArchitecture)


def test_names_of_concatenated_inputs(inverted):
    assert inverted().concatenated(MIXED) == {
        "decoder.0.blocks.0.expand.0.weight": (4, 4),
        "decoder.1.blocks.0.expand.0.weight": (6, 6),
    }


@every_kind
def test_a_checkpoint_names_it(inverted, tmp_path, reversible):
    architecture = inverted(3, reversible=reversible, expansion=1.5)
    supernet = Supernet(architecture, SPACE)
    save_checkpoint(tmp_path / "family.pth", supernet)
    again = load_checkpoint(tmp_path / "family.pth", expected=architecture).supernet
    assert InvertedUNetArchitecture(**json.loads(json.dumps(asdict(architecture)))) == architecture
    x = image(3)
    assert torch.equal(again(x), supernet(x))


def test_building_on_the_meta_device_draws_no_random_numbers(inverted):
    before = torch.get_rng_state()
    with torch.device("meta"):
        network = inverted(3, reversible=True).build(MIXED)
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": (8,)}, r"channels must be 2 or more positive integers, got \(8,\)"),
        ({"expansion": 0}, "expansion must be a number > 0, got 0"),
        ({"expansion": "2"}, "expansion must be a number > 0, got '2'"),
        ({"reversible": 1}, "reversible must be true or false, got 1"),
        ({"reversible": True, "norm": "batch"}, "norm must be 'instance' for reversible blocks, got 'batch': .*twice"),
    ],
)
def test_bad_fields(inverted, fields, message):
    with pytest.raises(ValueError, match=message):
        inverted(**fields)


@pytest.mark.parametrize("method", ["build", "canonical", "concatenated"])
def test_bad_configurations(inverted, method):
    with pytest.raises(ValueError, match="a U-Net of 3 levels has 5 sections, the configuration has 4"):
        getattr(inverted(), method)(SubnetConfig.uniform(4, 1, 1.0, 3))
    message = "width 0.2 of section 0 leaves 1 of its 6 planned channels, but reversible blocks need 2; .* least 0.25"
    with pytest.raises(ValueError, match=message):
        getattr(inverted(reversible=True), method)(SubnetConfig.uniform(5, 1, 0.2, 3))
    assert inverted(reversible=True).channels_of(SubnetConfig.uniform(5, 1, 0.25, 3)) == [2, 2, 2]


def test_a_network_that_is_made_by_hand_is_checked_too():
    shape = {"strides": ((1, 1), (2, 2)), "kernels": ((3, 3),) * 2, "depths": (1, 1, 1), "out_channels": 2}
    with pytest.raises(ValueError, match=r"channels must be 2 or more per level for reversible blocks, got \(4, 1\)"):
        InvertedUNet(2, 1, channels=(4, 1), reversible=True, **shape)
    with pytest.raises(ValueError, match="norm must be 'instance' for reversible blocks, got 'batch'"):
        InvertedUNet(2, 1, channels=(4, 4), reversible=True, norm="batch", **shape)
