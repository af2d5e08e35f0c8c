"""Invariants 8, 9 and 10 of ARCHITECTURE.md, section 9, on a plain training loop."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from prox_monai.elastic import Supernet
from prox_monai.networks import InvertedUNetArchitecture, UNetArchitecture
from prox_monai.space import Dimension, PhaseSchedule, SearchSpace, unet_groups
from prox_monai.training import Distillation, ProgressiveTraining, load_checkpoint, save_checkpoint

ARCHITECTURE = UNetArchitecture(2, 1, 2, (4, 8), ((1, 1), (2, 2)), norm="batch", deep_supervision=True)
SPACE = SearchSpace(3, (1, 2), (0.5, 1), (3, 5), (0.5, 1), unet_groups(2))
SCHEDULE = PhaseSchedule.prox(SPACE, [2] * 5)
STEPS = 3


class Loop:
    """A plain training loop whose data are a function of epoch and step; phases are taught unless told not to."""

    def __init__(self, supernet, schedule=SCHEDULE, **settings):
        self.supernet = supernet
        settings = {"distillation": Distillation(0.5), **settings}
        self.training = ProgressiveTraining(supernet, schedule, seed=7, **settings)
        self.loss = self.training.criterion(lambda ours, target: sum(F.cross_entropy(y, target) for y in ours))
        self.optimizer = torch.optim.AdamW(supernet.parameters(), lr=0.01, weight_decay=0.1)

    def step(self, epoch, step):
        data = torch.Generator().manual_seed(100 * epoch + step)
        x, target = torch.randn(2, 1, 8, 8, generator=data), torch.randint(2, (2, 8, 8), generator=data)
        x, target = self.training.crop(step, x, target)
        self.optimizer.zero_grad()
        for _ in self.training.begin_step(step):
            self.training.distill(x)
            self.loss(self.supernet(x), target).backward()
        self.optimizer.step()

    def run(self, epochs):
        for epoch in epochs:
            self.training.begin_epoch(epoch)
            for step in range(STEPS):
                self.step(epoch, step)

    def save(self, folder):
        save_checkpoint(folder / "supernet.pth", self.supernet, self.training)
        torch.save(self.optimizer.state_dict(), folder / "optimizer.pth")

    @classmethod
    def load(cls, folder, **settings):
        checkpoint = load_checkpoint(folder / "supernet.pth", expected=ARCHITECTURE)
        loop = cls(checkpoint.supernet, checkpoint.schedule, **settings)
        loop.training.load_state_dict(checkpoint.training)
        loop.optimizer.load_state_dict(torch.load(folder / "optimizer.pth", weights_only=True))
        return loop


def fresh(**settings):
    torch.manual_seed(0)
    return Loop(Supernet(ARCHITECTURE, SPACE), **settings)


def test_8_the_subnet_is_a_function_of_seed_epoch_and_step():
    first, second = fresh().training, fresh().training
    second.begin_epoch(3)
    list(second.begin_step(1))
    drawn = [first.subnets_at(epoch, step) for epoch in range(10) for step in range(5)]
    assert drawn == [second.subnets_at(epoch, step) for epoch in range(10) for step in range(5)]
    other = ProgressiveTraining(first.supernet, SCHEDULE, seed=8)
    assert drawn != [other.subnets_at(epoch, step) for epoch in range(10) for step in range(5)]


def test_8_subnets_are_in_the_phase_and_every_candidate_is_reached():
    training = fresh().training
    for phase in SCHEDULE.phases:
        epoch = SCHEDULE.first_epoch(phase)
        drawn = [config for step in range(60) for config in training.subnets_at(epoch, step)]
        assert all(config in phase.space for config in drawn)
        assert {config.resolution for config in drawn} == set(phase.space.resolution)
        for section in range(SPACE.sections):
            for dimension in (Dimension.DEPTH, Dimension.WIDTH, Dimension.KERNEL):
                values = {getattr(config.sections[section], dimension) for config in drawn}
                assert values == set(phase.space.candidates(dimension))


def test_8_begin_step_activates_the_subnet_of_the_step():
    training = fresh().training
    training.begin_epoch(9)
    for step in range(5):
        for config in training.begin_step(step):
            assert config == training.supernet.active
            assert (config,) == training.subnets_at(9, step)


@pytest.mark.parametrize(
    "settings",
    [{}, {"freeze": "both", "distillation": Distillation(0.3, "kl")}, {"teacher_average": 0.8, "patch": "growing"}],
    ids=["mse", "frozen-kl", "averaged-growing"],
)
@pytest.mark.parametrize("cut", [1, 2, 5, 8], ids="after-{}".format)
def test_9_straight_equals_saved_and_loaded(tmp_path, cut, settings):
    """Epochs before the cut, then one; the cuts lie within the first phase, between phases, within others."""
    straight, saved = fresh(**settings), fresh(**settings)
    straight.run(range(cut + 1))
    saved.run(range(cut))
    saved.save(tmp_path)
    torch.manual_seed(999)
    resumed = Loop.load(tmp_path, **settings)
    resumed.run([cut])
    ours, theirs = straight.supernet.state_dict(), resumed.supernet.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    before = saved.supernet.state_dict()
    assert any(not torch.equal(ours[name], before[name]) for name in ours)


def test_9_an_epoch_that_was_killed_is_repeated(tmp_path):
    straight, killed = fresh(), fresh()
    straight.run(range(6))
    killed.run(range(5))
    killed.save(tmp_path)
    killed.training.begin_epoch(5)
    killed.step(5, 0)
    resumed = Loop.load(tmp_path)
    resumed.run([5])
    ours, theirs = straight.supernet.state_dict(), resumed.supernet.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_9_another_seed_is_refused():
    state = fresh().training.state_dict()
    other = ProgressiveTraining(fresh().supernet, SCHEDULE, seed=8)
    with pytest.raises(ValueError, match=r"seed is 8, but the training was begun with 7"):
        other.load_state_dict(state)


def test_10_the_teacher_is_the_largest_of_the_phase_before_as_it_was_at_its_end():
    loop = fresh()
    loop.run([0, 1])
    assert loop.training.teacher is None
    largest = SCHEDULE.phases[0].space.largest()
    x = torch.randn(2, 1, 8, 8)
    expected = loop.supernet.extract(largest)(x)
    loop.run([2])
    assert loop.training.teacher.config == largest
    assert all(map(torch.equal, loop.training.teacher(x), expected))
    teacher = loop.training.teacher
    loop.run([3])
    assert loop.training.teacher is teacher
    loop.training.begin_epoch(4)
    assert loop.training.teacher.config == SCHEDULE.phases[1].space.largest()


def test_10_a_teacher_may_be_the_average_of_the_weights_over_its_phase():
    loop, seen = fresh(teacher_average=0.8), []
    begin_step = loop.training.begin_step

    def noted(step):
        seen.append([p.detach().clone() for p in loop.supernet.parameters()])
        return begin_step(step)

    loop.training.begin_step = noted
    loop.run([0, 1])
    seen.append([p.detach().clone() for p in loop.supernet.parameters()])
    assert len(seen) == 2 * STEPS + 1
    average = seen[0]
    for weights in seen[1:]:
        average = [0.8 * a + 0.2 * w for a, w in zip(average, weights, strict=True)]
    expected = Supernet(ARCHITECTURE, SPACE)
    expected.load_state_dict(loop.supernet.state_dict())
    with torch.no_grad():
        for parameter, value in zip(expected.parameters(), average, strict=True):
            parameter.copy_(value)
    largest, x = SCHEDULE.phases[0].space.largest(), torch.randn(2, 1, 8, 8)
    loop.training.begin_epoch(2)
    taught = loop.training.teacher(x)
    for ours, theirs, now in zip(taught, expected.extract(largest)(x), loop.supernet.extract(largest)(x), strict=True):
        torch.testing.assert_close(ours, theirs)
        assert not torch.allclose(ours, now)


def test_10_an_average_is_taken_before_channels_are_put_in_another_order():
    space = SearchSpace(3, (1,), (0.5, 1), (3,), groups=unet_groups(2))
    architecture = UNetArchitecture(2, 1, 2, (8, 16), ((1, 1), (2, 2)), deep_supervision=True)
    schedule = PhaseSchedule.progressive_shrinking(space, 2, reorder=True)
    supernet = Supernet(architecture, space, growth="none", kernel_transforms=True)
    loop = Loop(supernet, schedule, teacher_average=0.5)
    loop.run([0])
    average = copy.deepcopy(loop.training._average)
    average.update_parameters(supernet)
    averaged = average.module.extract(space.largest())
    before = {name: tensor.clone() for name, tensor in supernet.extract(space.largest()).state_dict().items()}
    loop.training.begin_epoch(1)
    after = supernet.extract(space.largest()).state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(loop.training.teacher(x), averaged(x))


def test_10_nothing_is_averaged_that_teaches_nobody():
    def averages(**settings):
        loop, found = fresh(teacher_average=0.8, **settings), []
        for epoch in range(loop.training.schedule.total_epochs):
            loop.training.begin_epoch(epoch)
            found.append(loop.training.state_dict()["average"] is not None)
        return found

    assert averages() == [True] * 8 + [False] * 2
    assert averages(distillation=Distillation(0)) == [False] * 10
    assert averages(schedule=PhaseSchedule.progressive_shrinking(SPACE, 4)) == [True, False, False, False]


def test_a_growing_patch_is_a_function_of_seed_epoch_and_step_full_at_the_end_of_each_phase_and_in_polishing():
    architecture = UNetArchitecture(2, 1, 2, (4, 8), ((1, 1), (2, 2)), deep_supervision=True)
    schedule = PhaseSchedule.prox(SPACE.restrict(resolution=(1,)), [3] * 5, polish=True)
    training, other = (
        ProgressiveTraining(Supernet(architecture, SPACE), schedule, seed=7, patch="growing") for _ in range(2)
    )
    x = torch.arange(2 * 8 * 8.0).reshape(2, 1, 8, 8)
    target = [x[:, 0], x[:, 0, ::2, ::2]]
    sizes, corners = [], set()
    for epoch in range(15):
        for step in range(8):
            training.epoch = other.epoch = epoch
            image, (fine, coarse) = training.crop(step, x, target)
            assert torch.equal(image, other.crop(step, x, target)[0])
            assert torch.equal(image[:, 0], fine)
            assert torch.equal(coarse, fine[:, ::2, ::2])
            corners.add(float(image[0, 0, 0, 0]))
        sizes.append(tuple(image.shape[2:]))
    assert sizes == [(6, 4), (8, 6), (8, 8)] * 4 + [(8, 8)] * 3
    assert len(corners) > 4


def test_10_progressive_shrinking_keeps_one_teacher():
    loop = fresh(schedule=PhaseSchedule.progressive_shrinking(SPACE, 4))
    loop.run([0, 1])
    teacher = loop.training.teacher
    loop.run([2, 3])
    assert loop.training.teacher is teacher
    assert teacher.config == SPACE.largest()


def test_10_the_loss_has_a_teacher_s_term_only_after_the_first_phase_and_within_a_step():
    loop = fresh()
    loop.run([0, 1])
    assert loop.loss.distance is None
    loop.run([2])
    assert loop.loss.distance > 0
    x, target = torch.randn(2, 1, 8, 8), torch.zeros(2, 8, 8, dtype=torch.long)
    loop.loss(loop.supernet(x), target)
    assert loop.loss.distance is None


def test_10_weight_zero_has_no_teacher():
    loop = fresh(distillation=Distillation(0))
    loop.run([0, 1, 2])
    assert loop.training.teacher is None
    assert loop.loss.distance is None


def test_training_lowers_the_loss():
    loop = fresh()
    losses = []
    for epoch in (0, 1):
        loop.training.begin_epoch(epoch)
        for _ in range(10):
            loop.step(0, 0)
            losses.append(loop.loss.task.item())
    assert losses[-1] < 0.8 * losses[0]


def test_what_is_frozen_follows_the_phase():
    loop = fresh(freeze="both")
    moved = {}
    for phase in SCHEDULE.phases:
        epoch = SCHEDULE.first_epoch(phase)
        loop.training.begin_epoch(epoch)
        largest = phase.space.largest().sections[0]
        step = next(s for s in range(99) if loop.training.subnets_at(epoch, s)[0].sections[0] == largest)
        before = {name: p.detach().clone() for name, p in loop.supernet.named_parameters()}
        loop.step(epoch, step)
        core, ring = (f"tensors.encoder/0/blocks/0/conv/weight.0_0_{k}" for k in (0, 1))
        moved[phase.index] = [not torch.equal(loop.supernet.get_parameter(n), before[n]) for n in (core, ring)]
    stages = {phase.index: phase.stage for phase in SCHEDULE.phases}
    assert list(stages.values()) == ["depth", "depth", "width", "kernel", "resolution"]
    assert list(moved.values()) == [[True, False], [False, False], [True, False], [False, True], [True, True]]


@pytest.mark.parametrize("space", [SPACE.restrict(width=(0.5,)), SPACE.restrict(kernel=(3,))])
def test_a_schedule_outside_the_supernet_s_space_is_refused(space):
    with pytest.raises(ValueError, match=r"of section 0 is not in the search space"):
        ProgressiveTraining(Supernet(ARCHITECTURE, space), SCHEDULE)


def test_a_candidate_in_between_that_the_supernet_lacks_is_refused():
    wide = SearchSpace(3, (1,), (0.25, 0.5, 1), (3,), groups=unet_groups(2))
    supernet = Supernet(ARCHITECTURE, wide.restrict(width=(0.25, 1)))
    with pytest.raises(ValueError, match=r"width 0.5 of section 0 is not in the search space \(0.25, 1.0\)"):
        ProgressiveTraining(supernet, PhaseSchedule.prox(wide, 3))


def test_channels_that_cannot_be_re_ordered_are_refused_at_once():
    architecture = InvertedUNetArchitecture(2, 1, 2, (4, 8), ((1, 1), (2, 2)))
    schedule = PhaseSchedule.progressive_shrinking(SPACE, 4, reorder=True)
    with pytest.raises(TypeError, match="where channel_groups says which"):
        ProgressiveTraining(Supernet(architecture, SPACE), schedule)


def test_an_unknown_freeze_is_refused():
    with pytest.raises(ValueError, match=r"freeze must be one of \('none', 'depth', 'kernel', 'both'\), got 'all'"):
        fresh(freeze="all")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch": "small"}, r"patch must be one of \('full', 'growing'\), got 'small'"),
        ({"teacher_average": 1}, r"teacher_average must be in \[0, 1\), got 1"),
    ],
)
def test_other_options_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        fresh(**settings)


def test_a_training_does_not_go_on_with_another_patch():
    state = fresh(patch="growing").training.state_dict()
    with pytest.raises(ValueError, match="patch is full, but the training was begun with growing"):
        fresh().training.load_state_dict(state)


def test_an_epoch_after_the_last_is_refused():
    with pytest.raises(ValueError, match=r"epoch must be in 0 ... 9, got 10"):
        fresh().training.begin_epoch(10)


def test_several_subnets_of_a_step_add_their_gradients():
    """Two subnets per step: the gradient is the sum of those of each alone."""
    schedule = PhaseSchedule.prox(SPACE, [2] * 5, subnets_per_step=2)
    torch.manual_seed(0)
    training = ProgressiveTraining(Supernet(ARCHITECTURE, SPACE), schedule)
    training.begin_epoch(9)
    x, parameters = torch.randn(2, 1, 8, 8), list(training.supernet.parameters())

    def backward():
        sum(output.square().mean() for output in training.supernet.eval()(x)).backward()
        return [None if parameter.grad is None else parameter.grad.clone() for parameter in parameters]

    for _ in training.begin_step(0):
        together = backward()
    alone = []
    for config in training.subnets_at(9, 0):
        training.supernet.zero_grad()
        training.supernet.activate(config)
        alone.append(backward())
    assert len(alone) == 2
    assert training.subnets_at(9, 0)[0] != training.subnets_at(9, 0)[1]
    for ours, *parts in zip(together, *alone, strict=True):
        parts = [part for part in parts if part is not None]
        assert (ours is None) == (not parts)
        if parts:
            torch.testing.assert_close(ours, sum(parts))


def test_under_the_sandwich_rule_the_largest_teaches_the_others_of_its_step():
    schedule = PhaseSchedule.sandwich(SPACE, 1)
    torch.manual_seed(0)
    supernet = Supernet(ARCHITECTURE, SPACE).eval()
    training = ProgressiveTraining(supernet, schedule, in_place=Distillation(1.0, "mse"))
    training.begin_epoch(0)
    loss = training.criterion(lambda ours, target: ours[0].sum() * 0 + 7)
    x = torch.randn(2, 1, 8, 8)
    taught, outputs = [], []
    for _ in training.begin_step(0):
        training.distill(x)
        outputs.append([output.detach() for output in supernet(x)])
        taught.append(float(loss(supernet(x), None).detach()))
    assert taught[0] == 7
    for student, value in zip(outputs[1:], taught[1:], strict=True):
        expected = torch.stack([F.mse_loss(a, b) for a, b in zip(student, outputs[0], strict=True)]).mean()
        assert value == pytest.approx(float(expected))
        assert value > 0
    assert float(loss(supernet(x), None).detach()) == 7, "after the step the loss is the task's alone"


def test_a_teacher_looks_at_the_input_of_a_step_once():
    schedule = PhaseSchedule.prox(SPACE, [2] * 5, subnets_per_step=3)
    training = ProgressiveTraining(Supernet(ARCHITECTURE, SPACE), schedule, distillation=Distillation(0.5))
    training.begin_epoch(9)
    calls = []
    training.teacher.network.register_forward_hook(lambda *args: calls.append(1))
    for _ in training.begin_step(0):
        training.distill(torch.randn(2, 1, 8, 8))
    assert len(calls) == 1
    list(training.begin_step(1))
    training.begin_epoch(9)
    for _ in training.begin_step(1):
        training.distill(torch.randn(2, 1, 8, 8))
    assert len(calls) == 2


def test_the_teacher_of_progressive_shrinking_works_at_the_resolution_of_its_student():
    """Cai et al. give teacher and student the same image: neither its cost nor its view is that of a larger one."""
    schedule = PhaseSchedule.progressive_shrinking(SPACE, [1] * 4, subnets_per_step=4)
    loop = fresh(schedule=schedule)
    loop.training.begin_epoch(0)
    loop.training.begin_epoch(3)
    sizes, x = [], torch.randn(2, 1, 8, 8)
    teachers = {r: loop.supernet.extract(replace(SPACE.largest(), resolution=r)) for r in (0.5, 1.0)}
    loop.training.teacher.network.register_forward_hook(lambda module, inputs, output: sizes.append(inputs[0].shape[2]))
    loss = loop.training.criterion(lambda ours, target: ours[0].sum() * 0)
    seen = []
    for step in range(4):
        for config in loop.training.begin_step(step):
            loop.training.distill(x)
            seen.append(config.resolution)
            outputs = loop.supernet(x)
            taught = teachers[config.resolution](x)
            expected = torch.stack([F.mse_loss(a, b) for a, b in zip(outputs, taught, strict=True)]).mean()
            assert float(loss(outputs, None).detach()) == pytest.approx(0.5 * float(expected.detach()), rel=1e-4)
    assert set(seen) == {0.5, 1.0}
    assert sizes == [
        size for step in range(4) for size in dict.fromkeys(int(8 * r) for r in seen[4 * step : 4 * step + 4])
    ]
