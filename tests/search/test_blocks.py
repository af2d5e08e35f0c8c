"""A subnet is the blocks that it is run as."""

from __future__ import annotations

import pytest
import torch

from prox_monai.elastic import Supernet
from prox_monai.elastic.resolution import without_resolution
from prox_monai.networks import InvertedUNetArchitecture, MobileNetArchitecture
from prox_monai.search import blocks
from prox_monai.search.blocks import all_blocks, blocks_of, module_of
from prox_monai.space import SearchSpace, SubnetConfig


def uniform(depth=1, width=1.0, kernel=3, resolution=1.0, sections=3) -> SubnetConfig:
    return SubnetConfig.uniform(sections, depth, width, kernel, resolution)


def test_blocks_of_a_unet(unet, shape):
    """Sections of depth 2, 2 and 2, the up-sampling and the head, in the order they run."""
    found = blocks_of(unet.architecture, uniform(2), shape)
    assert [block.path for block in found] == [
        "encoder.0.blocks.0",
        "encoder.0.blocks.1",
        "encoder.1.blocks.0",
        "encoder.1.blocks.1",
        "decoder.0.upsample",
        "decoder.0.blocks.0",
        "decoder.0.blocks.1",
        "decoder.0.head",
    ]
    assert [block.shape for block in found[2:6]] == [(4, 16, 16), (8, 8, 8), (8, 8, 8), (8, 16, 16)]
    assert [block.elements for block in found[4:]] == [8 * 64 + 4 * 256, (8 + 4) * 256, 8 * 256, (4 + 3) * 256]


def test_all_weights_that_run_are_in_blocks(unet, shape):
    for config in (uniform(), uniform(2, 0.5, 5)):
        network = unet.extract(config)
        inside = sum(block.weights for block in blocks_of(unet.architecture, config, shape))
        assert inside == sum(parameter.numel() for parameter in network.parameters())


def test_resolution_adds_a_block_and_shrinks_the_others(unet, shape):
    native, half = (blocks_of(unet.architecture, uniform(resolution=r), shape) for r in (1.0, 0.5))
    assert [block.path for block in half] == [*(block.path for block in native), "resize"]
    assert half[0].shape == (1, 8, 8)
    assert half[-1].key == "resize: 1x16x16 to 1x8x8 and 3 back"


def test_equal_keys_are_equal_networks(unet, shape):
    seen = {}
    for config in unet.space:
        for block in blocks_of(unet.architecture, config, shape):
            module = module_of(unet, config, block)
            like = {name: tensor.shape for name, tensor in module.named_parameters()}, block.shape
            assert seen.setdefault(block.key, like) == like


def test_a_block_alone_gives_what_it_gives_in_its_network(unet, shape):
    config = uniform(2, 1.0, 5)
    network, inside = without_resolution(unet.extract(config)), {}
    for block in blocks_of(unet.architecture, config, shape):
        network.get_submodule(block.path).register_forward_hook(
            lambda module, inputs, output, path=block.path: inside.update({path: (inputs[0], output)})
        )
    with torch.no_grad():
        network(torch.rand(1, *shape))
        for block in blocks_of(unet.architecture, config, shape):
            x, output = inside[block.path]
            assert tuple(x.shape[1:]) == block.shape
            assert torch.equal(module_of(unet, config, block)(x), output)


def test_the_resizing_alone(unet, shape):
    config = uniform(resolution=0.5)
    block = blocks_of(unet.architecture, config, shape)[-1]
    assert module_of(unet, config, block)(torch.rand(1, *shape)).shape == (1, 3, 16, 16)


def test_every_block_of_the_space_is_found(unet, shape, monkeypatch):
    enumerated = all_blocks(unet.architecture, unet.space, shape)
    for config in unet.space:
        assert enumerated.keys() >= {block.key for block in blocks_of(unet.architecture, config, shape)}
    monkeypatch.setattr(blocks, "_PATIENCE", 60)  # the space is now one to draw from
    drawn = all_blocks(unet.architecture, unet.space, shape)
    assert drawn.keys() == enumerated.keys()
    for key, (config, block) in drawn.items():
        assert block.key == key
        assert block in blocks_of(unet.architecture, config, shape)


def test_coupled_spaces_are_drawn_from(unet, shape, monkeypatch):
    monkeypatch.setattr(blocks, "_PATIENCE", 5)
    coupled = unet.space.coupled()
    found = all_blocks(unet.architecture, coupled, shape)
    assert all(config in coupled for config, _ in found.values())


@pytest.mark.parametrize(
    ("architecture", "width", "shape"),
    [
        (InvertedUNetArchitecture(2, 1, 3, (4, 8), ((1, 1), (2, 2)), reversible=True), 1.0, (1, 16, 16)),
        (MobileNetArchitecture(2, 1, 3), 2.0, (1, 64, 64)),
    ],
    ids=["reversible", "mobilenet"],
)
def test_other_families(architecture, width, shape):
    space = SearchSpace(architecture.sections, (1, 2), (width,), (3,), (1.0,))
    supernet = Supernet(architecture, space).eval()
    for config in (space.smallest(), space.largest()):
        found = blocks_of(architecture, config, shape)
        network = supernet.extract(config)
        assert sum(block.weights for block in found) == sum(p.numel() for p in network.parameters())
        with torch.no_grad():
            for block in found:
                module_of(supernet, config, block)(torch.rand(1, *block.shape))
