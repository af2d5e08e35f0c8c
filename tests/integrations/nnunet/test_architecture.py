"""nnU-Net's own ``PlainConvUNet`` keeps the promises of an architecture: 2-D, 3-D, and anisotropic."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from prox_monai.elastic import Supernet, check_architecture, reorder_channels
from prox_monai.elastic.reorder import channel_importance
from prox_monai.integrations.nnunet.architecture import PlainConvUNetArchitecture
from prox_monai.integrations.nnunet.planning import plan_training
from prox_monai.integrations.nnunet.settings import ProXSettings
from prox_monai.space import SearchSpace, SectionConfig, SubnetConfig
from prox_monai.space.groups import unet_groups
from prox_monai.training.checkpoint import architecture_from_dict, architecture_to_dict

CONFIGURATIONS = ("tiny", "tiny_2d", "tiny_flat")


@pytest.fixture
def configuration(folders):
    plans = folders.preprocessed / folders.dataset / "nnUNetPlans.json"
    return PlansManager(str(plans)).get_configuration


@pytest.fixture
def build(configuration):
    def make(name: str, deep_supervision: bool = True) -> PlainConvUNetArchitecture:
        return PlainConvUNetArchitecture.from_plans(configuration(name), 1, 3, deep_supervision)

    return make


def space(resolution=(1.0,), width=(0.5, 1.0)) -> SearchSpace:
    return SearchSpace(5, (1, 2), width, (3, 5), resolution, groups=unet_groups(3))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_it_keeps_the_promises_of_an_architecture(build, name):
    size = {"tiny": (1, 16, 16, 16), "tiny_2d": (1, 16, 16), "tiny_flat": (1, 4, 16, 16)}[name]
    check_architecture(build(name), space((0.75, 1.0)), input_size=size)


@pytest.mark.parametrize("deep_supervision", [True, False])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_supernet_and_extracted_subnet_are_one_function(build, configuration, name, deep_supervision):
    """Invariant 1, on nnU-Net's own network: bitwise, at every resolution, in training and evaluation."""
    subnets = space((0.7, 1.0))
    supernet = Supernet(build(name, deep_supervision), subnets, growth="host")
    for parameter in supernet.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    rng = random.Random(0)
    x = torch.randn(2, 1, *configuration(name).patch_size)
    for config in (subnets.smallest(), subnets.largest(), *(subnets.sample(rng) for _ in range(4))):
        supernet.activate(config)
        with torch.no_grad():
            ours, theirs = supernet(x), supernet.extract(config)(x)
        pairs = zip(ours, theirs, strict=True) if deep_supervision else [(ours, theirs)]
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", CONFIGURATIONS)
@torch.no_grad()
def test_reordered_channels_are_the_same_function_on_all_outputs(build, configuration, name):
    """Of every depth and kernel at full width; the importance does not increase from channel to channel."""
    subnets = space()
    supernet = Supernet(build(name), subnets, growth="none").double().eval()
    for parameter in supernet.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 1, *configuration(name).patch_size, dtype=torch.float64)
    before = {}
    for config in (SubnetConfig.uniform(5, depth, 1.0, kernel) for depth in (1, 2) for kernel in (3, 5)):
        supernet.activate(config)
        before[config] = supernet(x)
    reorder_channels(supernet)
    for config, wanted in before.items():
        supernet.activate(config)
        for ours, theirs in zip(supernet(x), wanted, strict=True):
            assert (ours - theirs).abs().max() <= 1e-12 * theirs.abs().max()
    largest = subnets.largest()
    for norms in channel_importance(supernet.architecture, largest, supernet.extract(largest)).values():
        assert (norms.diff() <= 1e-12).all()


@torch.no_grad()
def test_kernel_transforms_are_part_of_an_extracted_subnet(build, configuration):
    supernet = Supernet(build("tiny_flat"), space(), growth="none", kernel_transforms=True)
    for parameter in supernet.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 1, *configuration("tiny_flat").patch_size)
    for config in (space().smallest(), space().parse("d1.2.2.1.2-w1-k5.3.5.3.5-r1")):
        supernet.activate(config)
        assert all(map(torch.equal, supernet(x), supernet.extract(config)(x)))


def test_every_subnet_is_the_network_that_stock_plans_describe(build, configuration):
    architecture, planned = build("tiny_flat"), configuration("tiny_flat")
    for config in (space().smallest(), space().sample(random.Random(3)), space().largest()):
        stock = get_network_from_plans(
            planned.network_arch_class_name,
            architecture.arch_kwargs_of(config),
            planned.network_arch_init_kwargs_req_import,
            1,
            3,
            deep_supervision=True,
        )
        stock.load_state_dict(Supernet(architecture, space()).extract(config).state_dict(), strict=True)


def test_kernels_apply_only_to_axes_whose_planned_kernel_is_larger_than_one(build):
    kwargs = build("tiny_flat").arch_kwargs_of(space().largest())
    assert kwargs["kernel_sizes"] == [[1, 5, 5], [1, 5, 5], [5, 5, 5]]
    assert kwargs["features_per_stage"] == [4, 8, 8] or kwargs["features_per_stage"] == (4, 8, 8)


def test_planned_is_the_planned_network(build, configuration):
    architecture = build("tiny")
    assert architecture.planned() == SubnetConfig.uniform(5, 2, 1.0, 3)
    kwargs = architecture.arch_kwargs_of(architecture.planned())
    planned = configuration("tiny").network_arch_init_kwargs
    assert {key: json_like(value) for key, value in kwargs.items()} == {
        key: json_like(value) for key, value in planned.items()
    }


def json_like(value):
    return list(map(json_like, value)) if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize(
    ("name", "stride", "dims"), [("tiny", (4, 4, 4), 3), ("tiny_2d", (4, 4), 2), ("tiny_flat", (2, 4, 4), 3)]
)
def test_stride_and_dimensions(build, name, stride, dims):
    assert build(name).stride == stride
    assert build(name).spatial_dims == dims
    assert build(name).sections == 5


def test_it_survives_a_checkpoint_as_name_and_fields(build):
    architecture = build("tiny_flat")
    assert architecture_from_dict(architecture_to_dict(architecture)) == architecture


def test_residual_plans_are_refused(build):
    with pytest.raises(NotImplementedError, match="ResidualEncoderUNet. Use plans with a plain U-Net"):
        build("tiny_residual")


def test_a_width_that_leaves_no_channel_is_refused(build):
    config = dataclasses.replace(space().smallest(), sections=(SectionConfig(1, 0.1, 3),) * 5)
    with pytest.raises(ValueError, match=r"width 0.1 .*section 0.* 4"):
        build("tiny").arch_kwargs_of(config)


def test_blocks_that_depth_cannot_grow_by_are_refused_before_the_training(configuration):
    planned = configuration("tiny")  # of plans that are read anew
    planned.network_arch_init_kwargs.update(nonlin="torch.nn.GELU", nonlin_kwargs={})
    with pytest.raises(NotImplementedError, match=r"growth `preserving` needs blocks of .* use growth `host`"):
        plan_training(ProXSettings(), planned)
    plan_training(ProXSettings(growth="host"), planned)
    plan_training(ProXSettings(depth=(2,)), planned)
