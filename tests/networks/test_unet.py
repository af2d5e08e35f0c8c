from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, asdict, replace

import pytest
import torch
from torch import nn

from prox_monai.networks import UNetArchitecture
from prox_monai.space import SectionConfig, SubnetConfig

PLANAR = UNetArchitecture(2, 1, 3, (8, 12, 16), ((1, 1), (2, 2), (2, 2)))
VOLUME = UNetArchitecture(
    3,
    2,
    4,
    (8, 12, 16),
    ((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    planned_kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
)
INPUTS = {PLANAR: (1, 1, 16, 12), VOLUME: (1, 2, 4, 8, 12)}


def config(depths, widths, kernels, resolution=1.0):
    """Make a configuration from one value per section."""
    return SubnetConfig(tuple(map(SectionConfig, depths, widths, kernels)), resolution)


def mixed(width=0.5):
    return config((1, 2, 3, 2, 1), (1.0, width, 0.25, width, 1.0), (3, 5, 3, 5, 3))


@pytest.mark.parametrize("architecture", [PLANAR, VOLUME], ids=["2d", "3d"])
def test_logits_have_the_shape_of_the_input(architecture):
    x = torch.randn(INPUTS[architecture])
    network = architecture.build(mixed())
    assert network(x).shape == (1, architecture.out_channels, *x.shape[2:])


@pytest.mark.parametrize("architecture", [PLANAR, VOLUME], ids=["2d", "3d"])
def test_deep_supervision_returns_every_decoder_level_highest_resolution_first(architecture):
    x = torch.randn(INPUTS[architecture])
    network = replace(architecture, deep_supervision=True).build(mixed())
    full, half = network(x)
    assert full.shape[2:] == x.shape[2:]
    assert half.shape[2:] == tuple(n // s for n, s in zip(x.shape[2:], architecture.strides[1], strict=True))
    network.deep_supervision = False
    assert torch.equal(network(x), full)


def test_deep_supervision_does_not_change_names():
    plain, deep = (replace(PLANAR, deep_supervision=d).build(mixed()).state_dict() for d in (False, True))
    assert plain.keys() == deep.keys()


@pytest.mark.parametrize("architecture", [PLANAR, VOLUME], ids=["2d", "3d"])
def test_shapes_of_a_mixed_configuration(architecture):
    """Depth per section, width and kernel per level; the kernel only on axes that were planned above 1."""
    dims, tensors = architecture.spatial_dims, architecture.build(mixed()).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    first = (3,) * dims if architecture is PLANAR else (1, 3, 3)
    assert shapes["encoder.0.blocks.0.conv.weight"] == (8, architecture.in_channels, *first)
    assert shapes["encoder.1.blocks.1.conv.weight"] == (6, 6, *(5,) * dims)
    assert shapes["encoder.2.blocks.2.conv.weight"] == (4, 4, *(3,) * dims)
    assert shapes["decoder.0.upsample.weight"] == (4, 6, *architecture.strides[2])
    assert shapes["decoder.0.blocks.0.conv.weight"] == (6, 12, *(5,) * dims)
    assert shapes["decoder.1.blocks.0.conv.weight"] == (8, 16, *first)
    assert shapes["decoder.1.head.weight"] == (architecture.out_channels, 8, *(1,) * dims)
    blocks = {name.rsplit(".conv.", 1)[0] for name in shapes if ".conv." in name}
    assert len(blocks) == sum(mixed().depths)


@pytest.mark.parametrize("architecture", [PLANAR, VOLUME], ids=["2d", "3d"])
def test_names_and_shapes_nest_in_the_largest(architecture):
    """Invariant 2."""
    largest = architecture.build(SubnetConfig.uniform(5, 3, 1.0, 5)).state_dict()
    for name, tensor in architecture.build(mixed()).state_dict().items():
        sizes = zip(tensor.shape, largest[name].shape, strict=True)
        assert all(small <= large for small, large in sizes), name


def test_concatenation_is_up_then_skip():
    """The columns that `concatenated` announces are the inputs of those columns (invariant 5)."""
    network, channels = PLANAR.build(mixed()), PLANAR.concatenated(mixed())
    assert channels == {"decoder.0.blocks.0.conv.weight": (6, 6), "decoder.1.blocks.0.conv.weight": (8, 8)}
    seen = {}
    section = network.decoder[1]
    section.upsample.register_forward_hook(lambda _module, _inputs, output: seen.update(up=output))
    network.encoder[0].register_forward_hook(lambda _module, _inputs, output: seen.update(skip=output))
    section.blocks[0].register_forward_hook(lambda _module, inputs, _output: seen.update(both=inputs[0]))
    network(torch.randn(1, 1, 8, 8))
    up, skip = channels["decoder.1.blocks.0.conv.weight"]
    assert torch.equal(seen["both"][:, :up], seen["up"])
    assert torch.equal(seen["both"][:, up : up + skip], seen["skip"])


def test_block_prefixes_name_every_block_once():
    names, configuration = set(PLANAR.build(mixed()).state_dict()), mixed()
    covered = set()
    for section, depth in enumerate(configuration.depths):
        for block in range(depth):
            tensors = {name for name in names if name.startswith(PLANAR.block_prefix(section, block))}
            assert len(tensors) == 4
            assert covered.isdisjoint(tensors)
            covered |= tensors
        assert not any(name.startswith(PLANAR.block_prefix(section, depth)) for name in names)
    assert {name.split(".")[2] for name in names - covered} == {"upsample", "head"}


def test_canonical_configurations():
    """Invariant 13: widths of equal channels are one, the decoder takes width and kernel of its level."""
    tied = config((1, 2, 3, 2, 1), (1.0, 0.51, 0.25, 0.75, 0.25), (3, 5, 3, 3, 7))
    assert PLANAR.canonical(tied) == PLANAR.canonical(mixed()) == mixed()
    assert PLANAR.canonical(mixed(width=0.6)) != mixed()
    assert PLANAR.canonical(PLANAR.canonical(tied)) == PLANAR.canonical(tied)
    assert PLANAR.canonical(replace(mixed(), resolution=0.5)).resolution == 0.5


def test_a_level_without_a_kernel_has_one_configuration():
    flat = UNetArchitecture(2, 1, 2, (4, 4), ((1, 1), (2, 2)), planned_kernels=((1, 1), (3, 3)))
    three, five = (config((1, 1, 1), (1.0,) * 3, (kernel, 3, kernel)) for kernel in (3, 5))
    assert flat.canonical(three) == flat.canonical(five)
    assert flat.canonical(three).kernels == (1, 3, 1)
    assert flat.build(three).encoder[0].blocks[0].conv.kernel_size == (1, 1)


def test_decoder_values_play_no_part_in_the_network():
    tied = config((1, 2, 3, 2, 1), (1.0, 0.5, 0.25, 0.75, 0.25), (3, 5, 3, 3, 7))
    shapes = [{n: t.shape for n, t in PLANAR.build(c).state_dict().items()} for c in (tied, mixed())]
    assert shapes[0] == shapes[1]


def test_he_initialisation():
    network = UNetArchitecture(2, 1, 3, (64, 64), ((1, 1), (2, 2))).build(SubnetConfig.uniform(3, 2, 1.0, 3))
    weight = network.encoder[0].blocks[1].conv.weight
    assert weight.std().item() == pytest.approx((2 / (1 + 0.01**2) / (64 * 9)) ** 0.5, rel=0.05)
    assert not any(m.bias.any() for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d))


def test_building_on_the_meta_device_draws_no_random_numbers():
    before = torch.get_rng_state()
    with torch.device("meta"):
        network = VOLUME.build(mixed())
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}
    assert torch.equal(torch.get_rng_state(), before)


def test_batch_norm():
    network = replace(PLANAR, norm="batch").build(mixed())
    assert "encoder.0.blocks.0.norm.running_mean" in network.state_dict()


def test_architecture_is_a_value_that_json_can_hold():
    again = UNetArchitecture(**json.loads(json.dumps(asdict(VOLUME))))
    assert again == VOLUME
    assert hash(again) == hash(VOLUME)
    assert PLANAR.planned_kernels == ((3, 3),) * 3
    assert VOLUME.sections == 5
    assert VOLUME.stride == (2, 4, 4)
    with pytest.raises(FrozenInstanceError):
        VOLUME.in_channels = 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"spatial_dims": 4}, "spatial_dims must be 2 or 3, got 4"),
        ({"in_channels": 0}, "in_channels must be a positive integer, got 0"),
        ({"out_channels": 1.5}, "out_channels must be a positive integer, got 1.5"),
        ({"channels": (8, 0, 4)}, r"channels must be 2 or more positive integers, got \(8, 0, 4\)"),
        ({"channels": 8}, "channels must be 2 or more positive integers, got 8"),
        ({"channels": (8,)}, r"channels must be 2 or more positive integers, got \(8,\)"),
        ({"strides": ((1, 1), (2, 2))}, "strides must be 3 levels of 2 positive integers"),
        ({"strides": ((1, 1), (2, 2), (2,))}, "strides must be 3 levels of 2 positive integers"),
        ({"strides": (1, 2, 2)}, r"strides must be 3 levels of 2 positive integers, got \(1, 2, 2\)"),
        ({"strides": ((2, 1), (2, 2), (2, 2))}, r"strides of level 0 must be 1, got \(2, 1\)"),
        ({"planned_kernels": ((3, 3), (3, 3))}, "planned_kernels must be 3 levels of 2 positive integers"),
        ({"planned_kernels": ((3, 3), (3, 2), (3, 3))}, "planned_kernels must be odd"),
        ({"norm": "layer"}, r"norm must be one of \['batch', 'instance'\], got 'layer'"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        replace(PLANAR, **fields)


@pytest.mark.parametrize("method", ["build", "canonical", "concatenated"])
def test_bad_configurations(method):
    with pytest.raises(ValueError, match="a U-Net of 3 levels has 5 sections, the configuration has 4"):
        getattr(PLANAR, method)(SubnetConfig.uniform(4, 1, 1.0, 3))
    narrow = config((1,) * 5, (1.0, 0.04, 1.0, 1.0, 1.0), (3,) * 5)
    message = "width 0.04 of section 1 leaves none of its 12 planned channels; give more than 0.0416667"
    with pytest.raises(ValueError, match=message):
        getattr(PLANAR, method)(narrow)
