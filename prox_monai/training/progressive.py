"""Progressive expansion as four calls that any training loop can make."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor, distributed
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from prox_monai.elastic import Supernet
from prox_monai.elastic.reorder import check_reorderable, reorder_channels
from prox_monai.space import Phase, PhaseSchedule, Stage, SubnetConfig
from prox_monai.training.distillation import Distillation, DistillationLoss, Lesson, Outputs, Teacher, as_list
from prox_monai.training.freezing import FREEZE_RULES, FreezeRule, freeze_of
from prox_monai.training.patches import PATCH_RULES, PatchRule, cropped, growing_sizes, random_origin, size_at


class ProgressiveTraining:
    """Chooses what is trained, what is frozen and who teaches, epoch by epoch and step by step.

    A loop calls ``begin_epoch``, trains on what ``crop`` leaves of each batch, goes through the subnets of
    ``begin_step`` in each step, and calls ``distill`` before each forward pass::

        training = ProgressiveTraining(supernet, PhaseSchedule.prox(space, epochs))
        loss = training.criterion(task_loss)
        for epoch in range(training.schedule.total_epochs):
            training.begin_epoch(epoch)
            for step, (x, target) in enumerate(batches):
                x, target = training.crop(step, x, target)
                optimizer.zero_grad()
                for subnet in training.begin_step(step):
                    training.distill(x)
                    (loss(supernet(x), target) / training.phase.subnets_per_step).backward()
                optimizer.step()

    What is sampled is a pure function of seed, epoch and step: equal on all ranks and after a resume. The only
    state is the teacher, and the average that it is to be taken from.

    Args:
        supernet: the network that is trained (bare, also where the loop wraps it for several processes).
        schedule: the phases.
        seed: seed of the sampled subnets.
        freeze: which freezes of the paper are applied, see :func:`freeze_of`.
        distillation: how students learn from the teacher of their phase; by default there is none.
        in_place: how the others learn from the first subnet of a step, in phases that are ``in_place``.
        teacher_average: decay per step of the exponential moving average of weights that a phase's teacher is taken
            from; 0 takes the weights as the phase before left them. The average is a second supernet in memory.
        patch: ``full``, or ``growing`` through each phase but polishing (:func:`growing_sizes`).
        regions: the network's channels are regions that may overlap, see :func:`output_distance`.

    Raises:
        ValueError: When the freeze or patch rule is unknown, the decay not in [0, 1), or the schedule does not fit the
            supernet's search space.
        TypeError: When a phase re-orders channels, and the architecture does not say which belong together.
    """

    def __init__(
        self,
        supernet: Supernet,
        schedule: PhaseSchedule,
        *,
        seed: int = 0,
        freeze: FreezeRule = "none",
        distillation: Distillation = Distillation(0.0),
        in_place: Distillation = Distillation(0.5, "kl"),
        teacher_average: float = 0.0,
        patch: PatchRule = "full",
        regions: bool = False,
    ) -> None:
        for name, given, rules in (("freeze", freeze, FREEZE_RULES), ("patch", patch, PATCH_RULES)):
            if given not in rules:
                raise ValueError(f"{name} must be one of {rules}, got {given!r}.")
        if not 0 <= teacher_average < 1:
            raise ValueError(f"teacher_average must be in [0, 1), got {teacher_average!r}.")
        for phase in schedule.phases:
            supernet.space.check_includes(phase.space)
            if phase.reorder:
                check_reorderable(supernet.architecture)
        self.supernet = supernet
        self.schedule = schedule
        self.seed = seed
        self.freeze: FreezeRule = freeze
        self.distillation = distillation
        self.in_place = in_place
        self.teacher_average = teacher_average
        self.patch: PatchRule = patch
        self.regions = regions
        self.teacher: Teacher | None = None
        self._average: AveragedModel | None = None
        self.epoch = 0
        self._lesson: Lesson | None = None
        self._taught: dict[float | None, list[Tensor]] = {}
        self._first_outputs: list[Tensor] | None = None

    @property
    def phase(self) -> Phase:
        """The phase of the present epoch."""
        return self.schedule.phase_at(self.epoch)

    def criterion(
        self, task_loss: Callable[[Any, Any], Tensor], weights: Sequence[float] | None = None
    ) -> DistillationLoss:
        """Return the host's loss with the teacher's term added.

        Args:
            task_loss: of outputs and target, as the host gives them; a scalar.
            weights: of the outputs of deep supervision in it, see :func:`output_distance`.
        """
        return DistillationLoss(
            task_loss, lambda: self._lesson, self._keep_first, weights=weights, regions=self.regions
        )

    def _keep_first(self, outputs: Outputs) -> None:
        if self._first_outputs is None and self.phase.in_place:
            self._first_outputs = [output.detach() for output in as_list(outputs)]

    def begin_epoch(self, epoch: int, batches: Iterable[Tensor] = ()) -> Phase:
        """Enter an epoch; the first of a phase opens what is new in it, and takes its teacher from the supernet.

        Where the phase re-orders channels, what an optimizer keeps for them has lost its place: clear its state.

        Args:
            epoch: counted from 0.
            batches: training inputs of shape ``(B, C, *spatial)``. Where a depth is opened, new blocks start closer to
                what stands before them if they can look at some.
        """
        self.epoch = epoch
        phase = self.phase
        self._take_teacher(phase)
        if phase.reorder and epoch == self.schedule.first_epoch(phase):
            reorder_channels(self.supernet)
        self._open_depth(phase, batches)
        self._begin_average(phase)
        return phase

    def _take_teacher(self, phase: Phase) -> None:
        """Extract the teacher of a phase, unless it teaches already."""
        wanted = phase.teacher if self.distillation.weight > 0 else None
        if wanted is None:
            self.teacher = None
        elif self.teacher is None or self.teacher.config != wanted:
            source = self.supernet
            if self._average is not None:
                self._average.update_parameters(self.supernet)
                source = self._average.module
            self.teacher = Teacher(wanted, source.extract(wanted), self.supernet.architecture.stride)

    def _begin_average(self, phase: Phase) -> None:
        """Average the weights of a phase from its first epoch on, if the next one takes its teacher from it."""
        if self.epoch != self.schedule.first_epoch(phase):
            return
        following = self.schedule.phases[phase.index + 1 : phase.index + 2]
        present = None if self.teacher is None else self.teacher.config
        teaches = any(later.teacher not in (None, present) for later in following)
        wanted = teaches and self.teacher_average > 0 and self.distillation.weight > 0
        self._average = self._averaged() if wanted else None

    def _averaged(self) -> AveragedModel:
        return AveragedModel(self.supernet, multi_avg_fn=get_ema_multi_avg_fn(self.teacher_average))

    def _open_depth(self, phase: Phase, batches: Iterable[Tensor]) -> None:
        """Open a phase's new depths; where growth preserves, new blocks continue what stands before them."""
        new = [depth for depth in phase.space.depth if depth > self.supernet.opened_depth]
        if phase.index > 0 and new and self.supernet.growth == "preserving":
            largest, looked_at = self.schedule.phases[phase.index - 1].largest(), list(batches)
            for depth in new:
                self.supernet.open_depth(depth, largest, looked_at)
                largest = largest.at_depth(depth)
            self._take_tensors_of_first_rank()
        self.supernet.mark_opened(phase.space.depth[-1])

    def _take_tensors_of_first_rank(self) -> None:
        """What was opened depends on the batches that a rank looked at."""
        if distributed.is_available() and distributed.is_initialized():
            for tensor in (*self.supernet.parameters(), *self.supernet.buffers()):
                distributed.broadcast(tensor.data, 0)

    def subnets_at(self, epoch: int, step: int) -> tuple[SubnetConfig, ...]:
        """Return the subnets that are trained in a step."""
        return self.schedule.phase_at(epoch).sample(random.Random(f"{self.seed}:{epoch}:{step}"))

    def begin_step(self, step: int) -> Iterator[SubnetConfig]:
        """Activate and yield the subnets of a step, one after the other, with what is frozen in them.

        Once they are through, the criterion is the host's loss alone.
        """
        self._forget()
        if self._average is not None:
            self._average.update_parameters(self.supernet)  # as the step before left it
        for config in self.subnets_at(self.epoch, step):
            self.supernet.activate(config, freeze_of(self.phase, config, self.freeze))
            yield config
            if self._lesson is None and self._first_outputs is not None and self.in_place.weight > 0:
                self._lesson = Lesson(self._first_outputs, self.in_place)
        self._forget()

    def _forget(self) -> None:
        self._lesson = self._first_outputs = None
        self._taught = {}

    def crop(self, step: int, x: Tensor, target: Any) -> tuple[Tensor, Any]:
        """Return the part of a batch that a step trains on, all of it unless the patch grows or the phase polishes.

        Args:
            step: as for :meth:`begin_step`.
            x: the input, of shape ``(B, C, *spatial)``.
            target: of the same size, or a list of such at fractions of it, as deep supervision has.

        Raises:
            ValueError: When the patch grows, and targets are not images.
        """
        phase = self.phase
        if self.patch == "full" or phase.stage == Stage.POLISH:
            return x, target
        full, stride = tuple(x.shape[2:]), self.supernet.architecture.stride
        sizes = growing_sizes(full, stride, phase.space.resolution)
        size = size_at(sizes, self.epoch - self.schedule.first_epoch(phase), phase.epochs)
        origin = random_origin(random.Random(f"patch:{self.seed}:{self.epoch}:{step}"), full, size, stride)
        return cropped(x, full, origin, size), cropped(target, full, origin, size)

    def distill(self, x: Tensor) -> None:
        """Let the teacher, if there is one, look at the input of the step, of shape ``(B, C, *spatial)``.

        It looks once; where it follows its students' resolutions, once at each of them.
        """
        if self.teacher is None:
            return
        resolution = self.supernet.active.resolution if self.phase.follow_resolution else None
        if resolution not in self._taught:
            self._taught[resolution] = self.teacher(x, resolution)
        self._lesson = Lesson(self._taught[resolution], self.distillation)

    def state_dict(self) -> dict[str, Any]:
        """Return epoch, seed, teacher and average as tensors and JSON primitives."""
        teacher = None
        if self.teacher is not None:
            teacher = {"config": self.teacher.config.to_dict(), "network": self.teacher.network.state_dict()}
        average = None if self._average is None else self._average.state_dict()
        return {"epoch": self.epoch, **self._fixed(), "teacher": teacher, "average": average}

    def _fixed(self) -> dict[str, Any]:
        """What must not change when a training goes on."""
        return {
            "seed": self.seed,
            "freeze": self.freeze,
            "distillation": asdict(self.distillation),
            "in_place": asdict(self.in_place),
            "teacher_average": self.teacher_average,
            "patch": self.patch,
            "regions": self.regions,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Raises:
            ValueError: When the training was begun with another seed, freeze, distillation or patch.
        """
        for name, value in self._fixed().items():
            if name in state and state[name] != value:
                raise ValueError(f"{name} is {value}, but the training was begun with {state[name]}.")
        self.epoch = state["epoch"]
        self.teacher = None
        if state["teacher"] is not None:
            config = SubnetConfig.from_dict(state["teacher"]["config"])
            network = self.supernet.extract(config)
            network.load_state_dict(state["teacher"]["network"])
            self.teacher = Teacher(config, network, self.supernet.architecture.stride)
        self._average = None
        if state.get("average") is not None:
            self._average = self._averaged()
            self._average.load_state_dict(state["average"])
