"""Invariant 10 of ARCHITECTURE.md, section 9: the distillation loss equals its closed form."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prox_monai.space import SubnetConfig
from prox_monai.training.distillation import Distillation, DistillationLoss, Lesson, Teacher, output_distance

CONFIG = SubnetConfig.uniform(1, 1, 1, 3)


def outputs(count=2, classes=3):
    return [torch.randn(2, classes, 8 >> i, 4 >> i) for i in range(count)]


def closed_form(student, teacher, form):
    """By hand: the mean of squares, or the sum over classes of p log(p / q), its mean over voxels."""
    if form == "mse":
        return ((student - teacher) ** 2).sum() / student.numel()
    p, q = (logits.exp() / logits.exp().sum(1, keepdim=True) for logits in (teacher, student))
    voxels = student.numel() / student.shape[1]
    return (p * (p / q).log()).sum() / voxels


@pytest.mark.parametrize("weight", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("form", ["mse", "kl"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_10_loss_equals_its_closed_form(form, weight, count):
    student, teacher, target = outputs(count), outputs(count), outputs(count)
    loss = DistillationLoss(
        lambda ours, wanted: sum(map(F.l1_loss, ours, wanted)), lambda: Lesson(teacher, Distillation(weight, form))
    )
    task = sum((a - b).abs().mean() for a, b in zip(student, target, strict=True))
    distance = sum(closed_form(a, b, form) for a, b in zip(student, teacher, strict=True)) / count
    torch.testing.assert_close(loss(student, target), (1 - weight) * task + weight * distance)
    torch.testing.assert_close((loss.task, loss.distance), (task, distance))


def test_10_a_single_output_may_be_a_tensor():
    student, teacher = outputs(1)[0], outputs(1)[0]
    assert torch.equal(output_distance(student, [teacher], "mse"), output_distance([student], teacher, "mse"))


def test_10_kl_is_zero_for_equal_probabilities_only():
    logits = torch.randn(2, 3, 4, 4)
    assert output_distance(logits, logits + 5, "kl").abs() < 1e-6
    assert output_distance(logits, 2 * logits, "kl") > 1e-2
    assert output_distance(logits, logits + 5, "mse") == 25


def test_kl_of_regions_is_that_of_each_alone():
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    ours, theirs = (torch.distributions.Bernoulli(logits=logits) for logits in (student, teacher))
    expected = torch.distributions.kl_divergence(theirs, ours).mean()
    torch.testing.assert_close(output_distance(student, teacher, "kl", regions=True), expected)
    assert output_distance(student, student + 5, "kl", regions=True) > 0.1
    assert output_distance(student[:, :1], teacher[:, :1], "kl", regions=True) > 0.01


def test_the_loss_compares_regions():
    student, teacher = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    loss = DistillationLoss(F.l1_loss, lambda: Lesson([teacher], Distillation(1.0, "kl")), regions=True)
    assert torch.equal(loss(student, student), output_distance(student, teacher, "kl", regions=True))


def test_outputs_count_for_what_they_do_in_the_hosts_loss():
    """nnU-Net gives the lowest output no weight: then nothing may be taught there either."""
    student, teacher = outputs(3), outputs(3)
    for output in student:
        output.requires_grad_()
    loss = DistillationLoss(
        lambda ours, wanted: (ours[0] - wanted).abs().mean(),
        lambda: Lesson(teacher, Distillation(0.5, "kl")),
        weights=(0.75, 0.25, 0),
    )
    made = loss(student, torch.zeros(()))
    distance = 0.75 * closed_form(student[0], teacher[0], "kl") + 0.25 * closed_form(student[1], teacher[1], "kl")
    torch.testing.assert_close(loss.distance, distance.detach())
    made.backward()
    assert [output.grad is None for output in student] == [False, False, True]


def test_10_without_a_teacher_the_loss_is_the_task():
    loss = DistillationLoss(F.l1_loss, lambda: None)
    student, target = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3)
    assert torch.equal(loss(student, target), F.l1_loss(student, target))
    assert loss.distance is None
    assert not loss.task.requires_grad


def test_10_no_gradient_reaches_the_teacher():
    network, student = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3)
    teacher = Teacher(CONFIG, network, (1, 1))
    x = torch.randn(2, 1, 8, 8)
    taught = teacher(x)
    DistillationLoss(F.mse_loss, lambda: Lesson(taught, Distillation(0.5)))(
        student(x), torch.zeros(2, 2, 6, 6)
    ).backward()
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(parameter.grad.any() for parameter in student.parameters())
    assert not any(output.requires_grad for output in taught)


def test_a_teacher_is_in_evaluation_mode():
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.9)).train()
    teacher, x = Teacher(CONFIG, network, (1, 1)), torch.randn(2, 1, 4, 4)
    assert torch.equal(teacher(x)[0], teacher(x)[0])
    assert not network[0].running_mean.any()


def test_a_teacher_normalises_by_the_batch_and_keeps_what_it_holds():
    """A supernet's statistics are those of no subnet."""
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    network[1].running_mean.fill_(7.0)
    held = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    teacher, x = Teacher(CONFIG, network, (1, 1)), torch.randn(2, 1, 4, 4)
    features = network[0](x)
    expected = F.batch_norm(features, None, None, training=True)
    torch.testing.assert_close(teacher(x), [expected])
    assert network.state_dict().keys() == held.keys()
    assert all(torch.equal(tensor, held[name]) for name, tensor in network.state_dict().items())


def test_half_precision_outputs_are_compared_in_single():
    student, teacher = (torch.full((1, 1, 2, 2), value, dtype=torch.float16) for value in (300.0, 0.0))
    assert output_distance(student, teacher, "mse") == 90000


def test_numbers_of_outputs_must_agree():
    with pytest.raises(ValueError, match=r"the student has 2 outputs, the teacher 3, the loss 2"):
        output_distance(outputs(2), outputs(3), "mse")
    with pytest.raises(ValueError, match=r"the student has 2 outputs, the teacher 2, the loss 1"):
        output_distance(outputs(2), outputs(2), "mse", weights=[1.0])
    with pytest.raises(ValueError, match=r"weights of the outputs must not all be 0, got \[0, 0\]"):
        output_distance(outputs(2), outputs(2), "mse", weights=[0, 0])


def test_one_class_alone_teaches_nothing():
    one = torch.randn(2, 1, 4, 4)
    with pytest.raises(ValueError, match="regions must be true where a network has one channel"):
        output_distance(one, one, "kl")
    assert output_distance(one, one + 1, "mse") == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weight": 1.5}, r"distillation weight must be in \[0, 1\], got 1.5"),
        ({"weight": float("nan")}, r"distillation weight must be in \[0, 1\], got nan"),
        ({"weight": 0.5, "form": "l1"}, r"distillation form must be one of \('mse', 'kl'\), got 'l1'"),
    ],
)
def test_settings_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        Distillation(**fields)
