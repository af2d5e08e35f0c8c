from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from prox_monai.elastic import Architecture, check_architecture
from prox_monai.networks import UNetArchitecture
from prox_monai.space import SearchSpace, SectionConfig, SubnetConfig, unet_groups

UNET_SPACE = SearchSpace(3, (1, 2), (0.5, 1), (3, 5), (0.5, 1), unet_groups(2))
UNET = UNetArchitecture(2, 1, 2, (4, 8), ((1, 1), (2, 2)), deep_supervision=True)


@pytest.mark.parametrize(
    "architecture",
    [
        UNET,
        replace(UNET, norm="batch", deep_supervision=False),
        replace(UNET, planned_kernels=((1, 3), (3, 3))),
        UNetArchitecture(3, 2, 3, (4, 4), ((1, 1, 1), (1, 2, 2)), planned_kernels=((1, 1, 1), (3, 3, 3))),
    ],
    ids=["instance", "batch", "anisotropic", "3d"],
)
@pytest.mark.parametrize("groups", [unet_groups(2), {}], ids=["tied", "aliases"])
def test_unets_conform(architecture, groups):
    check_architecture(architecture, replace(UNET_SPACE, groups=groups))


def test_a_classifier_conforms(classifier_type, classifier_space):
    check_architecture(classifier_type(), classifier_space)
    check_architecture(classifier_type(), classifier_space, input_size=(1, 6, 10))
    assert isinstance(classifier_type(), Architecture)


def test_the_random_state_is_left_alone(classifier_type, classifier_space):
    before = torch.get_rng_state()
    check_architecture(classifier_type(), classifier_space)
    assert torch.equal(torch.get_rng_state(), before)


def test_something_else_is_no_architecture(classifier_space):
    with pytest.raises(ValueError, match=r"is no architecture; it lacks block_prefix, build, .*, stride"):
        check_architecture("unet", classifier_space)


def test_not_a_frozen_dataclass(classifier_type, classifier_space):
    @dataclass
    class Thawed:
        spatial_dims: int = 2
        sections: int = 2
        stride: tuple[int, ...] = (2, 2)
        build = classifier_type.build
        canonical = classifier_type.canonical
        concatenated = classifier_type.concatenated
        block_prefix = classifier_type.block_prefix
        continue_depth = classifier_type.continue_depth

    with pytest.raises(ValueError, match=r"Thawed must be a frozen dataclass"):
        check_architecture(Thawed(), classifier_space)


def test_not_hashable(classifier_type, classifier_space):
    with pytest.raises(ValueError, match=r"Classifier must be hashable: unhashable type: 'list'"):
        check_architecture(classifier_type(stride=[2, 2]), classifier_space)


def test_not_rebuilt_from_its_fields(classifier_type, classifier_space):
    class Forgetful(classifier_type):
        def __eq__(self, other):
            return self is other

        __hash__ = classifier_type.__hash__

    with pytest.raises(ValueError, match=r"Forgetful rebuilt from its fields must equal itself"):
        check_architecture(Forgetful(), classifier_space)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sections": 3}, r"the architecture has 3 sections, the search space 2"),
        ({"stride": (2,)}, r"stride \(2,\) must have 2 spatial axes"),
    ],
)
def test_numbers_that_do_not_fit(classifier_type, classifier_space, fields, message):
    with pytest.raises(ValueError, match=message):
        check_architecture(classifier_type(**fields), classifier_space)


class Skip(nn.Module):
    """Two sections whose outputs are concatenated."""

    def __init__(self, first, second, head):
        super().__init__()
        self.first, self.second, self.head = first, second, head

    def forward(self, x):
        x = self.first(x)
        return self.head(torch.cat((x, self.second(x)), 1))


def breaks_meta(self, config):
    return nn.Linear(int(torch.ones(1).item()), 3)


def leaves_meta(self, config):
    return nn.Sequential(nn.Linear(1, 3), nn.BatchNorm1d(3, device="cpu"))


def renames(self, config):
    narrow = self.width(config.sections[0]) < self.channels
    return nn.Sequential(*[nn.Identity()] * narrow, nn.Conv2d(1, 3, 3, 2, 1))


def shrinks(self, config):
    hidden = 8 - self.width(config.sections[0])
    return nn.Sequential(nn.Conv2d(1, hidden, 3, 2, 1), nn.Conv2d(hidden, 3, 1))


def loses_the_centre(self, config):
    return nn.Conv2d(1, 3, config.sections[0].kernel + (config.sections[0].kernel > 3), 2, 1)


def concatenates_free_sections(self, config):
    first, second = (self.width(section) for section in config.sections)
    return Skip(nn.Conv2d(1, first, 3, 2, 1), nn.Conv2d(first, second, 3, 1, 1), nn.Conv2d(first + second, 3, 1))


class Hidden(nn.Module):
    """A convolution with a tensor that is neither parameter nor buffer."""

    def __init__(self, network):
        super().__init__()
        self.network, self.scale = network, torch.ones(1)

    def forward(self, x):
        return self.network(x) * self.scale


class Checkpointed(nn.Module):
    """Activation checkpointing inside the network."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return checkpoint(self.network, x, use_reentrant=False)


def other_on_meta(network):
    on_meta = next(network.parameters()).is_meta
    return nn.Sequential(network, nn.Tanh() if on_meta else nn.Identity())


def prefix_without_match(self, section, block):
    return f"sections.{section}.{block}."


def prefix_that_overlaps(self, section, block):
    return f"{section}."


def prefix_of_a_later_block(self, section, block):
    return f"{section}.{1 - block}."


def canonical_that_drifts(self, config):
    return replace(config, resolution=config.resolution / 2)


def canonical_of_the_smallest(self, config):
    return SubnetConfig.uniform(2, 1, 0.25, 3)


def canonical_that_keeps_aliases(self, config):
    return config


SKIPPED = {"concatenated": lambda self, config: {"head.weight": tuple(map(self.width, config.sections))}}


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"build": breaks_meta}, r'build\(d1-w.25-k3-r.5\) fails under torch.device\("meta"\): '),
        ({"build": leaves_meta}, r'puts 1.weight on cpu under torch.device\("meta"\)'),
        ({"build": renames}, r"1.weight of d1-w.25-k3-r.5 is not in the largest network"),
        ({"build": shrinks}, r"0.weight of d1-w.25-k3-r.5 .*: shape \(7, 1, 3, 3\) exceeds \(4, 1, 3, 3\)"),
        ({"build": loses_the_centre}, r"weight of .*: kernels \[\(3, 3\), \(6, 6\)\] do not share a centre"),
        (
            {"concatenated": lambda self, config: {"9.weight": (2, 2)}},
            r"names 9.weight, which that network does not",
        ),
        (
            {"concatenated": lambda self, config: {"4.weight": (2, 9)}},
            r"of 4.weight: .*\(2, 9\) channels do not add",
        ),
        (
            {"block_prefix": prefix_without_match},
            r"block_prefix\(0, 0\) = 'sections.0.0.' matches no tensor of",
        ),
        (
            {"block_prefix": prefix_that_overlaps},
            r"block_prefix\(0, 0\) and block_prefix\(0, 1\) both match 0.0.0",
        ),
        (
            {"block_prefix": prefix_of_a_later_block},
            r"block_prefix\(0, 0\) = '0.1.' matches no tensor of d1-",
        ),
        ({"canonical": canonical_that_drifts}, r"canonical is not idempotent: d1-w.25-k3-r.5 becomes"),
        ({"canonical": canonical_of_the_smallest}, r"canonical\(.*\) = d1-w.25-k3-r1 is another network"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_broken_promises(classifier_type, classifier_space, methods, message):
    with pytest.raises(ValueError, match=message):
        check_architecture(type("Broken", (classifier_type,), methods)(), classifier_space)


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (Hidden, r"forward of .* fails: .*meta"),
        (Checkpointed, r"backward of .* fails \(is there activation checkpointing in the network\?\)"),
        (other_on_meta, r"built under torch.device\(\"meta\"\) computes something else"),
    ],
)
def test_networks_that_need_more_than_their_tensors(classifier_type, classifier_space, wrap, message):
    prefix = "0." if wrap is other_on_meta else "network."
    methods = {
        "build": lambda self, config: wrap(classifier_type.build(self, config)),
        "block_prefix": lambda self, section, block: f"{prefix}{section}.{block}.",
    }
    with pytest.raises(ValueError, match=message):
        check_architecture(type("Broken", (classifier_type,), methods)(), classifier_space)


def test_random_outputs_differ_from_the_extracted_network(classifier_type, classifier_space):
    class Noise(nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)

    methods = {"build": lambda self, config: classifier_type.build(self, config).append(Noise())}
    with pytest.raises(ValueError, match=r"as a part of the supernet and extracted give different outputs"):
        check_architecture(type("Broken", (classifier_type,), methods)(), classifier_space)


def test_a_kernel_without_padding_is_another_function(classifier_type, classifier_space):
    class Broken(classifier_type):
        def block(self, inputs, outputs, kernel, stride):
            return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, 1), nn.ReLU())

        def continue_depth(self, network, section, block, moments=None):
            """New blocks stay as the host initialises them."""

    with pytest.raises(ValueError, match=r"kernel 5 with a zero ring is another function than 3"):
        check_architecture(Broken(), classifier_space, input_size=(1, 40, 40))


def groups_of_a_classifier(self, config):
    """Sections write one group each; the linear layer reads the second."""
    groups = {"4.": (("1",), None)}
    for section, depth in enumerate(config.depths):
        for block in range(depth):
            before = f"{section - 1 + (block > 0)}" if section or block else None
            groups[self.block_prefix(section, block)] = (before,), f"{section}"
    return groups


def changed(**groups):
    return lambda self, config: groups_of_a_classifier(self, config) | groups


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (groups_of_a_classifier, None),
        (lambda self, config: {"9.": ((None,), None)}, r"channel_groups\(.*\) names '9.', which matches no tensor of"),
        (changed(**{"4.": (("0",), None)}), r"channels in another order, as channel_groups says, are another function"),
        (changed(**{"4.": (("1", "0"), None)}), r"channel_groups\(.*\) do not fit that network: "),
        (changed(**{"1.0.": (("1",), "2")}), r"channels in another order, as channel_groups says, are another func"),
        (changed(**{"1.0.": ((None,), "1")}), r"channels in another order, as channel_groups says, are another func"),
    ],
    ids=["right", "unknown", "other-reads", "too-many", "other-writes", "left-out"],
)
def test_channel_groups(classifier_type, classifier_space, groups, message):
    """Checked where an architecture has them; they are not asked for otherwise."""
    architecture = type("Reorderable", (classifier_type,), {"channel_groups": groups})()
    with pytest.raises(ValueError, match=message) if message else contextlib.nullcontext():
        check_architecture(architecture, classifier_space)


def test_norms_have_the_order_of_their_channels(classifier_type, classifier_space):
    """Also where they are all 1 and 0 at first."""

    class Reorderable(classifier_type):
        norms = True

        def block(self, inputs, outputs, kernel, stride):
            convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
            return nn.Sequential(convolution, nn.InstanceNorm2d(outputs, affine=True), nn.ReLU())

        def channel_groups(self, config):
            groups = groups_of_a_classifier(self, config).items()
            return {prefix if self.norms or prefix == "4." else f"{prefix}0.": group for prefix, group in groups}

    check_architecture(Reorderable(), classifier_space)
    Reorderable.norms = False
    with pytest.raises(ValueError, match=r"channels in another order, as channel_groups says"):
        check_architecture(Reorderable(), classifier_space)


def test_blocks_that_may_be_the_last_share_their_channels(classifier_type, classifier_space):
    """A block with an order of its own is no other function in the deepest network, but in shallower ones."""

    def groups(self, config):
        deepest = groups_of_a_classifier(self, config)
        return deepest | {"0.0.": ((None,), "first"), "0.1.": (("first",), "0")}

    architecture = type("Reorderable", (classifier_type,), {"channel_groups": groups})()
    check_architecture(architecture, classifier_space.restrict(depth=(2,)))
    with pytest.raises(ValueError, match=r"channels in another order, as channel_groups says"):
        check_architecture(architecture, classifier_space)


def test_one_network_with_two_canonical_names(classifier_type):
    """Widths .3 and .25 of four channels are one channel both."""
    space = SearchSpace(2, (1,), (0.25, 0.3, 1), (3,))
    methods = {"canonical": canonical_that_keeps_aliases}
    with pytest.raises(ValueError, match=r"are one network, but canonical gives"):
        check_architecture(type("Broken", (classifier_type,), methods)(), space)


def test_concatenated_sections_of_independent_width_are_refused(classifier_type):
    """Shells are cut at uniform widths: mixed concatenations need sections that share their width."""

    class Joined(classifier_type):
        build = concatenates_free_sections
        concatenated = SKIPPED["concatenated"]

        def block_prefix(self, section, block):
            return ("first.", "second.")[section]

        def canonical(self, config):
            sections = classifier_type.canonical(self, config).sections
            return SubnetConfig(tuple(SectionConfig(1, s.width, 3) for s in sections), config.resolution)

    space = SearchSpace(2, (1,), (0.5, 1), (3,))
    with pytest.raises(ValueError, match=r"uniform widths and kernels do not span .* is not a corner of"):
        check_architecture(Joined(), space)
    check_architecture(Joined(), replace(space, groups={"width": (0, 0)}))


def test_a_depth_that_changes_shallower_subnets(classifier_type, classifier_space):
    class Broken(classifier_type):
        def continue_depth(self, network, section, block, moments=None):
            network[section][0][0].weight.data.zero_()

    with pytest.raises(ValueError, match=r"continue_depth changes subnets of depth 1 when depth 2 is opened"):
        check_architecture(Broken(), classifier_space)
