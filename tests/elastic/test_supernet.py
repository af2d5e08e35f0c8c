"""Invariants 1, 2 and 5 of ARCHITECTURE.md, section 9: a subnet is a plain network on corners."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from prox_monai.elastic import Supernet
from prox_monai.networks import UNetArchitecture
from prox_monai.space import Dimension, SearchSpace, SectionConfig, SubnetConfig, unet_groups

STRIDES = {2: ((1, 1), (2, 2)), 3: ((1, 1, 1), (1, 2, 2))}
INPUTS = {2: (2, 1, 8, 12), 3: (2, 1, 4, 8, 8)}
SPACE = SearchSpace(3, (1, 2), (0.5, 1), (3, 5), (0.5, 1), unet_groups(2))
ONE_DEPTH = replace(SPACE, groups=SPACE.groups | {Dimension.DEPTH: (0, 0, 0)})
DECODER = "decoder.0.blocks.0.conv.weight"


def unet(spatial_dims=2, **fields):
    return UNetArchitecture(spatial_dims, 1, 2, (4, 8), STRIDES[spatial_dims], **fields)


def same(ours, theirs):
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


def assert_forward_is_extracted_forward(supernet, config, x):
    supernet.activate(config)
    network = supernet.extract(config)
    assert same(supernet(x), network(x)), config
    if supernet.training:
        after = dict(supernet.extract(config).named_buffers())
        assert all(torch.equal(buffer, after[name]) for name, buffer in network.named_buffers()), config


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    ("spatial_dims", "space", "fields"),
    [
        (2, SPACE, {"norm": "batch"}),
        (2, ONE_DEPTH, {"norm": "instance", "deep_supervision": True}),
        (3, ONE_DEPTH, {"norm": "batch", "deep_supervision": True}),
        (3, ONE_DEPTH, {"norm": "instance", "planned_kernels": ((1, 3, 3), (3, 3, 3))}),
    ],
    ids=["2d-batch", "2d-instance", "3d-batch", "3d-anisotropic"],
)
def test_1_every_subnet_of_a_unet_equals_its_extracted_network(randomise, spatial_dims, space, fields, training):
    supernet = randomise(Supernet(unet(spatial_dims, **fields), space)).train(training)
    x = torch.randn(INPUTS[spatial_dims])
    with torch.no_grad():
        for config in space:
            assert_forward_is_extracted_forward(supernet, config, x)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_1_every_subnet_of_a_classifier_equals_its_extracted_network(
    randomise, classifier_type, classifier_space, training
):
    space = classifier_space.restrict(width=(0.25, 1))
    supernet = randomise(Supernet(classifier_type(), space)).train(training)
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        for config in space:
            assert_forward_is_extracted_forward(supernet, config, x)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_1_a_training_step_of_a_subnet_is_one_of_its_plain_network(randomise, optimizer):
    supernet = randomise(Supernet(unet(norm="batch"), SPACE))
    config = SPACE.parse("d2.1.2-w.5_1_.5-k5.3.5-r.5")
    supernet.activate(config)
    network, x = supernet.extract(config), torch.randn(2, 1, 8, 8)
    before = {name: p.detach().clone() for name, p in supernet.named_parameters()}
    for model in (supernet, network):
        steps = optimizer(model.parameters(), lr=0.1, weight_decay=0.1)
        model(x).square().mean().backward()
        steps.step()
    after = supernet.extract(config).state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in network.state_dict().items())
    unused = [name for name, p in supernet.named_parameters() if p.grad is None]
    assert unused
    assert all(torch.equal(supernet.get_parameter(name), before[name]) for name in unused)


def test_1_deep_supervision_may_be_switched_on_a_living_supernet(randomise):
    supernet = randomise(Supernet(unet(), SPACE)).eval()
    x = torch.randn(2, 1, 8, 8)
    plain = supernet(x)
    supernet.architecture = replace(supernet.architecture, deep_supervision=True)
    assert same(supernet(x), [plain])


def corner(large, small_shape, concatenated):
    """Leading channels of each concatenated input and the centre of the kernel, by plain slicing."""
    if large.ndim < 2:
        return large[tuple(slice(n) for n in small_shape)]
    starts = itertools.accumulate((n for n, _ in concatenated), initial=0)
    parts = [large[: small_shape[0], a : a + n] for a, (_, n) in zip(starts, concatenated, strict=False)]
    centre = (slice((n - m) // 2, (n + m) // 2) for n, m in zip(large.shape[2:], small_shape[2:], strict=True))
    return torch.cat(parts, 1)[(slice(None), slice(None), *centre)]


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_2_and_5_every_tensor_of_a_subnet_is_the_corner_of_the_largest(randomise, spatial_dims):
    architecture = unet(spatial_dims, norm="batch")
    supernet = randomise(Supernet(architecture, ONE_DEPTH))
    whole = supernet.extract(ONE_DEPTH.largest()).state_dict()
    joined = architecture.concatenated(ONE_DEPTH.largest())
    for config in ONE_DEPTH.restrict(resolution=(1,)):
        state, parts = supernet.extract(config).state_dict(), architecture.concatenated(config)
        for name, tensor in state.items():
            large = whole[name]
            inputs = zip(joined.get(name, large.shape[1:2]), parts.get(name, tensor.shape[1:2]), strict=True)
            assert torch.equal(tensor, corner(large, tensor.shape, list(inputs))), (config, name)
        if config.depths == ONE_DEPTH.largest().depths:
            assert state.keys() == whole.keys()


def test_5_changing_the_columns_of_the_skip_changes_nothing_else(randomise):
    supernet = randomise(Supernet(unet(), SPACE))
    small = SPACE.largest().sections[0]
    narrow = SubnetConfig.uniform(3, small.depth, 0.5, small.kernel)
    before = supernet.extract(narrow).get_parameter(DECODER).clone()
    network = supernet.extract(SPACE.largest())
    with torch.no_grad():
        network.get_parameter(DECODER)[:, 4:] += 1
    supernet.absorb(SPACE.largest(), network)
    after = supernet.extract(narrow).get_parameter(DECODER)
    assert before.shape[1] == 4
    assert torch.equal(after[:, :2], before[:, :2])
    assert torch.equal(after[:, 2:], before[:, 2:] + 1)


def test_absorb_is_the_inverse_of_extract(randomise):
    supernet, other = (randomise(Supernet(unet(norm="batch"), SPACE)) for _ in range(2))
    config = SPACE.parse("d2.1.2-w.5_1_.5-k5.3.5-r1")
    supernet.absorb(config, other.extract(config))
    taken, given = supernet.extract(config).state_dict(), other.extract(config).state_dict()
    assert all(torch.equal(tensor, given[name]) for name, tensor in taken.items())
    largest = SPACE.largest()
    assert not torch.equal(
        supernet.extract(largest).get_parameter(DECODER), other.extract(largest).get_parameter(DECODER)
    )


def test_absorbing_another_network_is_refused():
    supernet = Supernet(unet(), SPACE)
    with pytest.raises(
        ValueError, match=r"encoder.0.blocks.0.conv.weight has shape \(2, 1, 3, 3\) in .* \(4, 1, 5, 5\)"
    ):
        supernet.absorb(SubnetConfig.uniform(3, 1, 0.5, 3), supernet.extract(SPACE.largest()))
    with pytest.raises(ValueError, match=r"encoder.0.blocks.1.* but none was given"):
        supernet.absorb(SPACE.largest(), supernet.extract(SubnetConfig.uniform(3, 1, 1, 5)))


def test_an_extracted_network_shares_nothing(randomise):
    supernet = randomise(Supernet(unet(norm="batch"), SPACE))
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    network = supernet.extract(SPACE.largest())
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.add_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("method", ["activate", "extract"])
def test_a_subnet_outside_the_space_is_refused(method):
    config = SubnetConfig((SectionConfig(1, 1, 3), SectionConfig(1, 1, 3), SectionConfig(3, 1, 3)))
    with pytest.raises(ValueError, match=r"depth 3 of section 2 is not in the search space \(1, 2\)"):
        getattr(Supernet(unet(), SPACE), method)(config)


def test_a_space_of_another_number_of_sections_is_refused():
    with pytest.raises(ValueError, match=r"the search space has 5 sections, the architecture 3"):
        Supernet(unet(), SearchSpace(5, (1,), (1,), (3,)))
