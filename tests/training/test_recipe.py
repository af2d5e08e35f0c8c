from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from prox_monai.networks import UNetArchitecture
from prox_monai.space import SearchSpace, Stage, unet_groups
from prox_monai.training.recipe import PRESETS, Recipe

ARCHITECTURE = UNetArchitecture(2, 1, 2, (4, 8), ((1, 1), (2, 2)))
SPACE = SearchSpace(3, (1, 2), (0.5, 1), (3, 5), (0.5, 1), unet_groups(2))


def recipe(preset, **fields):
    return Recipe(**{**PRESETS[preset], **fields})


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains_in_a_plain_loop(preset):
    torch.manual_seed(0)
    method = recipe(preset)
    space = method.space_of(SPACE)
    supernet = method.supernet(ARCHITECTURE, space)
    schedule = method.phase_schedule(space, 12)
    training = method.training(supernet, schedule, seed=1)
    loss = training.criterion(F.cross_entropy)
    optimizer = torch.optim.AdamW(supernet.parameter_groups(1e-2))
    x, target = torch.randn(2, 1, 8, 8), torch.randint(2, (2, 8, 8))
    before = [parameter.detach().clone() for parameter in supernet.parameters()]
    trained = set()
    for epoch in range(schedule.total_epochs):
        training.begin_epoch(epoch)
        for step in range(3):
            optimizer.zero_grad()
            for config in training.begin_step(step):
                training.distill(x)
                value = loss(supernet(x), target)
                value.backward()
                assert value.isfinite()
                trained.add(config)
            optimizer.step()
    assert trained <= set(space)
    assert len(trained) == 1 if preset == "standalone" else len(trained) > 8
    assert any(not torch.equal(a, b) for a, b in zip(before, supernet.parameters(), strict=True))


def stages(preset):
    method = recipe(preset)
    return [phase.stage for phase in method.phase_schedule(method.space_of(SPACE), 30).phases]


def test_presets_are_the_methods_they_are_named_after():
    expansion = [Stage.DEPTH, Stage.DEPTH, Stage.WIDTH, Stage.KERNEL]
    shrinking = [Stage.KERNEL, Stage.KERNEL, Stage.DEPTH, Stage.WIDTH]
    assert stages("plus") == [*expansion, Stage.RESOLUTION, Stage.POLISH]
    assert stages("paper") == [*expansion, Stage.RESOLUTION]
    assert stages("paper_mr") == expansion
    assert stages("progressive_shrinking") == stages("progressive_shrinking_cai") == shrinking
    assert stages("compofa") == [Stage.KERNEL, Stage.KERNEL, Stage.WIDTH]
    assert stages("sandwich") == stages("standalone") == [Stage.JOINT]
    assert (recipe("paper").freeze, recipe("paper").distillation, recipe("paper").distillation_form) == (
        "both",
        0.5,
        "mse",
    )
    assert {name for name in PRESETS if recipe(name).ring_rate == "core_share"} == {"plus"}
    shrink = recipe("progressive_shrinking")
    assert (shrink.reorder, shrink.kernel_transforms, shrink.growth) == (True, True, "none")


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_have_known_fields(preset):
    assert set(PRESETS[preset]) <= {field.name for field in dataclasses.fields(Recipe)}


def test_a_subnet_alone_starts_as_its_host_starts_it():
    method = recipe("standalone", subnet="d1.2.1-w.5_1_.5-k5-r1")
    torch.manual_seed(3)
    supernet = method.supernet(ARCHITECTURE, SPACE)
    config = SPACE.parse(method.subnet)
    torch.manual_seed(3)
    method_of_all = recipe("sandwich")
    method_of_all.supernet(ARCHITECTURE, SPACE)
    expected = ARCHITECTURE.build(config).state_dict()
    ours = supernet.extract(config).state_dict()
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"schedule": "progressive_shrinking"},
            "polish must be false with schedule 'progressive_shrinking', got True",
        ),
        ({"schedule": "sandwich", "polish": False}, "growth must be none with schedule 'sandwich', got 'preserving'"),
        ({"reorder": True}, "reorder must be false with schedule 'prox', got True"),
        ({"teacher_average": 0.9}, r"teacher_average must be 0 where there is no teacher \(distillation 0\), got 0.9"),
        ({"kernel_transforms": True}, "kernel_transforms need growth 'none', got 'preserving'"),
        (
            {"schedule": "sandwhich"},
            "schedule must be one of prox, progressive_shrinking, sandwich, standalone, got 'sand",
        ),
        ({"optimizer": "sgd"}, "optimizer must be one of adamw, adam, got 'sgd'"),
        ({"growth": "slow"}, "growth must be one of preserving, host, none, got 'slow'"),
        (
            {"schedule": "progressive_shrinking", "polish": False, "growth": "none", "freeze": "both"},
            "freeze must be none with schedule 'progressive_shrinking', got 'both'",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**fields)


def test_the_sandwich_rule_has_as_many_random_subnets_as_are_wanted():
    (phase,) = recipe("sandwich").phase_schedule(SPACE, 3).phases
    assert (phase.fixed, phase.random) == ((SPACE.largest(), SPACE.smallest()), 2)
    with pytest.raises(
        ValueError, match=r"subnets_per_step of the sandwich rule must be an integer >= 0, got \(1, 2\)"
    ):
        recipe("sandwich", subnets_per_step=(1, 2)).phase_schedule(SPACE, 3)


def test_an_unknown_subnet_is_refused():
    with pytest.raises(ValueError, match="subnet: there is no subnet 'huge'"):
        recipe("standalone", subnet="huge").phase_schedule(SPACE, 3)


def test_an_optimizer_has_the_rate_of_the_rings():
    scales = {}
    for rate in ("core_share", "full"):
        method = recipe("plus", ring_rate=rate)
        groups = method.make_optimizer(method.supernet(ARCHITECTURE, SPACE)).param_groups
        scales[rate] = [group["scale"] for group in groups]
    assert scales == {"core_share": [1.0, 9 / 25], "full": [1.0]}


def test_a_training_has_its_patch_and_its_teacher_s_average():
    method = recipe("paper", patch="growing", teacher_average=0.9)
    training = method.training(method.supernet(ARCHITECTURE, SPACE), method.phase_schedule(SPACE, 12), regions=True)
    assert (training.patch, training.teacher_average) == ("growing", 0.9)
    assert training.criterion(F.cross_entropy).regions
