"""Progressive expansion as three calls that any training loop can make."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from prox_monai.elastic import Supernet
from prox_monai.space import Phase, PhaseSchedule, SubnetConfig
from prox_monai.training.distillation import Distillation, DistillationLoss, Teacher
from prox_monai.training.freezing import FREEZE_RULES, FreezeRule, freeze_of


class ProgressiveTraining:
    """Chooses what is trained, what is frozen and who teaches, epoch by epoch and step by step.

    A loop calls ``begin_epoch``, in each step ``begin_step`` and ``distill`` before the forward pass, and
    ``end_step`` before it calls the criterion on anything else::

        training = ProgressiveTraining(supernet, PhaseSchedule.prox(space, epochs))
        loss = training.criterion(task_loss)
        for epoch in range(training.schedule.total_epochs):
            training.begin_epoch(epoch)
            for step, (x, target) in enumerate(batches):
                training.begin_step(step)
                training.distill(x)
                loss(supernet(x), target).backward()
                optimizer.step()
                training.end_step()

    What is sampled is a pure function of seed, epoch and step: equal on all ranks and after a resume. The only
    state is the teacher.

    Args:
        supernet: the network that is trained (bare, also where the loop wraps it for several processes).
        schedule: the phases.
        seed: seed of the sampled subnets.
        freeze: which freezes of the paper are applied, see :func:`freeze_of`.
        distillation: how students learn from their teacher.

    Raises:
        ValueError: When the freeze rule is unknown, or the schedule does not fit the supernet's search space.
    """

    def __init__(
        self,
        supernet: Supernet,
        schedule: PhaseSchedule,
        *,
        seed: int = 0,
        freeze: FreezeRule = "none",
        distillation: Distillation = Distillation(),
    ) -> None:
        if freeze not in FREEZE_RULES:
            raise ValueError(f"freeze must be one of {FREEZE_RULES}, got {freeze!r}.")
        for phase in schedule.phases:
            supernet.space.check_includes(phase.space)
        self.supernet = supernet
        self.schedule = schedule
        self.seed = seed
        self.freeze: FreezeRule = freeze
        self.distillation = distillation
        self.teacher: Teacher | None = None
        self.epoch = 0
        self._taught: list[Tensor] | None = None

    @property
    def phase(self) -> Phase:
        """The phase of the present epoch."""
        return self.schedule.phase_at(self.epoch)

    def criterion(self, task_loss: Callable[[Any, Any], Tensor]) -> DistillationLoss:
        """Return the host's loss with the teacher's term added."""
        return DistillationLoss(task_loss, self.distillation, lambda: self._taught)

    def begin_epoch(self, epoch: int) -> Phase:
        """Enter an epoch; the first of a phase takes its teacher from the supernet as it is."""
        self.epoch = epoch
        phase = self.phase
        wanted = phase.teacher if self.distillation.weight > 0 else None
        if wanted is None:
            self.teacher = None
        elif self.teacher is None or self.teacher.config != wanted:
            self.teacher = Teacher(wanted, self.supernet.extract(wanted))
        depth = phase.space.depth[-1]
        if phase.index > 0 and depth > self.supernet.opened_depth and self.supernet.growth == "preserving":
            self.supernet.open_depth(depth)
        self.supernet.mark_opened(depth)
        return phase

    def subnet_at(self, epoch: int, step: int) -> SubnetConfig:
        """Return the subnet that is trained in a step."""
        rng = random.Random(f"{self.seed}:{epoch}:{step}")
        return self.schedule.phase_at(epoch).space.sample(rng)

    def begin_step(self, step: int) -> SubnetConfig:
        """Activate and return the subnet of a step, with what is frozen in it."""
        self._taught = None
        config = self.subnet_at(self.epoch, step)
        self.supernet.activate(config, freeze_of(self.phase, config, self.freeze))
        return config

    def distill(self, x: Tensor) -> None:
        """Let the teacher, if there is one, look at the input of the step, of shape ``(B, C, *spatial)``."""
        self._taught = None if self.teacher is None else self.teacher(x)

    def end_step(self) -> None:
        """Forget the teacher's outputs: what follows is not taught."""
        self._taught = None

    def state_dict(self) -> dict[str, Any]:
        """Return epoch, seed and teacher as tensors and JSON primitives."""
        teacher = None
        if self.teacher is not None:
            teacher = {"config": self.teacher.config.to_dict(), "network": self.teacher.network.state_dict()}
        return {"epoch": self.epoch, **self._fixed(), "teacher": teacher}

    def _fixed(self) -> dict[str, Any]:
        """What must not change when a training goes on."""
        return {"seed": self.seed, "freeze": self.freeze, "distillation": asdict(self.distillation)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Raises:
            ValueError: When the training was begun with another seed, freeze or distillation.
        """
        for name, value in self._fixed().items():
            if state[name] != value:
                raise ValueError(f"{name} is {value}, but the training was begun with {state[name]}.")
        self.epoch = state["epoch"]
        self.teacher = None
        if state["teacher"] is not None:
            config = SubnetConfig.from_dict(state["teacher"]["config"])
            network = self.supernet.extract(config)
            network.load_state_dict(state["teacher"]["network"])
            self.teacher = Teacher(config, network)
