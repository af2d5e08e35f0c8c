"""Learning from the model of the previous phase (ProX, sections 3.5 and 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from prox_monai.elastic.resolution import at_resolution, without_resolution
from prox_monai.space import SubnetConfig

Form = Literal["mse", "kl"]
Outputs = Tensor | Sequence[Tensor]


@dataclass(frozen=True, slots=True)
class Distillation:
    """How much, and in which form, a student learns from its teacher.

    Args:
        weight: λ of ``(1 - λ) * task + λ * distillation``; 0 trains without a teacher, 0.5 is the paper's.
        form: ``"mse"`` of the logits (the paper's), or ``"kl"``, the Kullback-Leibler divergence of the class
            probabilities from the teacher's.

    Raises:
        ValueError: When ``weight`` is not in [0, 1], or ``form`` is unknown.
    """

    weight: float
    form: Form = "mse"

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"distillation weight must be in [0, 1], got {self.weight!r}.")
        if self.form not in get_args(Form):
            raise ValueError(f"distillation form must be one of {get_args(Form)}, got {self.form!r}.")


class Teacher:
    """A subnet extracted at the end of a phase: evaluation mode, no gradient.

    BatchNorm normalises by the batch that the student sees, as once-for-all's teacher does: the statistics that a
    supernet keeps mix all its subnets and resolutions.

    Args:
        config: which subnet it is.
        network: the extracted network.
        stride: product of strides per spatial axis.
    """

    def __init__(self, config: SubnetConfig, network: nn.Module, stride: Sequence[int]) -> None:
        self.config = config
        self.network = network.eval().requires_grad_(False)
        self.stride = stride
        for module in self.network.modules():
            if isinstance(module, _BatchNorm):
                module.train()
                module.track_running_stats = False

    @torch.no_grad()
    def __call__(self, x: Tensor, resolution: float | None = None) -> list[Tensor]:
        """Return the outputs for an input of shape ``(B, C, *spatial)``, one per deep-supervision level.

        Args:
            x: the input, at the native resolution.
            resolution: at which the subnet works; its own unless given.
        """
        if resolution is None:
            return as_list(self.network(x))
        return as_list(at_resolution(without_resolution(self.network), x, self.stride, resolution))


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a teacher gave for the present input, and how much its student learns from it."""

    outputs: list[Tensor]
    distillation: Distillation


class DistillationLoss(nn.Module):
    """The host's loss, joined by the distance to a teacher's outputs while there is a lesson.

    Args:
        task_loss: the host's loss, called with ``(outputs, target)``.
        lesson: returns the present lesson, or None.
        show: is shown the outputs of every call, from which others may learn.
        weights, regions: see :func:`output_distance`.

    After a call ``task`` and ``distance`` hold the two terms, detached; ``distance`` is None without a lesson.
    """

    def __init__(
        self,
        task_loss: Callable[[Any, Any], Tensor],
        lesson: Callable[[], Lesson | None],
        show: Callable[[Outputs], None] = lambda outputs: None,
        *,
        weights: Sequence[float] | None = None,
        regions: bool = False,
    ) -> None:
        super().__init__()
        self.task_loss = task_loss
        self.lesson = lesson
        self.show = show
        self.weights = weights
        self.regions = regions
        self.task: Tensor | None = None
        self.distance: Tensor | None = None

    def forward(self, outputs: Outputs, target: Any) -> Tensor:
        """Return ``(1 - λ) * task + λ * distance``, a scalar."""
        task = self.task_loss(outputs, target)
        self.task, self.distance = task.detach(), None
        self.show(outputs)
        lesson = self.lesson()
        if lesson is None:
            return task
        form = lesson.distillation.form
        distance = output_distance(outputs, lesson.outputs, form, weights=self.weights, regions=self.regions)
        self.distance = distance.detach()
        return (1 - lesson.distillation.weight) * task + lesson.distillation.weight * distance


def output_distance(
    outputs: Outputs, taught: Outputs, form: Form, *, weights: Sequence[float] | None = None, regions: bool = False
) -> Tensor:
    """Return the sum over the deep-supervision outputs of their distance to the teacher's.

    Args:
        outputs: logits ``(B, C, *spatial)`` of the student, or a list of them.
        taught: the teacher's, of the same shapes.
        form: see :class:`Distillation`.
        weights: of the outputs in the host's loss; equal ones that add up to 1 if None. Where one is 0 the host trains
            nothing, and the teacher has nothing to teach.
        regions: channels are regions that may overlap, each with a probability of its own (sigmoid), instead of classes
            that exclude each other (softmax).

    Raises:
        ValueError: When student, teacher and weights differ in their number of outputs, no output has a weight, or
            there is one channel and it is no region: the one class has probability 1 in any case.
    """
    ours, theirs = as_list(outputs), as_list(taught)
    shares = [1 / len(ours)] * len(ours) if weights is None else weights
    if not len(ours) == len(theirs) == len(shares):
        raise ValueError(f"the student has {len(ours)} outputs, the teacher {len(theirs)}, the loss {len(shares)}.")
    if not any(shares):
        raise ValueError(f"weights of the outputs must not all be 0, got {list(shares)}.")
    if form == "kl" and not regions and ours[0].shape[1] == 1:
        raise ValueError("regions must be true where a network has one channel, which is no class among others.")
    divergence = _divergence_of_regions if regions else _divergence_of_classes
    distance = F.mse_loss if form == "mse" else divergence
    trained = ((share, a, b) for share, a, b in zip(shares, ours, theirs, strict=True) if share)
    return torch.stack([share * distance(a.float(), b.float()) for share, a, b in trained]).sum()


def _divergence_of_classes(outputs: Tensor, taught: Tensor) -> Tensor:
    per_class = F.kl_div(outputs.log_softmax(1), taught.log_softmax(1), reduction="none", log_target=True)
    return per_class.sum(1).mean()


def _divergence_of_regions(outputs: Tensor, taught: Tensor) -> Tensor:
    """The mean over regions: each is one of two classes, with its logit against 0."""
    pairs = (torch.stack((logits, torch.zeros_like(logits)), 1) for logits in (outputs, taught))
    return _divergence_of_classes(*pairs)


def as_list(outputs: Outputs) -> list[Tensor]:
    """Return the outputs of a network as a list, one per deep-supervision level."""
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)
