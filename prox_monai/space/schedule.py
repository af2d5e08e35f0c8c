"""Which sub-space trains when: ProX and progressive shrinking as values."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from prox_monai.space.search_space import SearchSpace
from prox_monai.space.subnet import Dimension, SubnetConfig, check_fields, is_integer


@dataclass(frozen=True, slots=True)
class Phase:
    """One expansion step of a stage.

    Args:
        index: position in the schedule, from 0.
        stage: the dimension that is being expanded.
        space: the subnets that are trained.
        epochs: length in epochs, at least 1.
        teacher: the subnet to distil from; None when there is none.

    Raises:
        ValueError: When ``epochs`` is not an integer >= 1.
    """

    index: int
    stage: Dimension
    space: SearchSpace
    epochs: int
    teacher: SubnetConfig | None

    def __post_init__(self) -> None:
        if not is_integer(self.epochs) or self.epochs < 1:
            raise ValueError(f"epochs of phase {self.index} must be an integer >= 1, got {self.epochs!r}.")

    def to_dict(self) -> dict[str, Any]:
        """Return the phase as JSON primitives."""
        return {
            "index": self.index,
            "stage": self.stage.value,
            "space": self.space.to_dict(),
            "epochs": self.epochs,
            "teacher": None if self.teacher is None else self.teacher.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Phase:
        """Return the phase of :meth:`to_dict`.

        Raises:
            ValueError: When a field is missing, unknown or not allowed.
        """
        check_fields("phase", data, [field.name for field in fields(cls)])
        if data["stage"] not in tuple(Dimension):
            raise ValueError(f"stage must be one of {', '.join(Dimension)}, got {data['stage']!r}.")
        return cls(
            data["index"],
            Dimension(data["stage"]),
            SearchSpace.from_dict(data["space"]),
            data["epochs"],
            None if data["teacher"] is None else SubnetConfig.from_dict(data["teacher"]),
        )


@dataclass(frozen=True, slots=True)
class PhaseSchedule:
    """The phases of a training run, in order.

    Args:
        phases: at least one; each index is its position.

    Raises:
        ValueError: When there is no phase, or an index is not its position.
    """

    phases: tuple[Phase, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "phases", tuple(self.phases))
        indices = [phase.index for phase in self.phases]
        if not indices or indices != list(range(len(indices))):
            raise ValueError(f"phases must be a non-empty sequence with indices 0, 1, ..., got {indices}.")

    @classmethod
    def prox(
        cls,
        space: SearchSpace,
        epochs: int | Sequence[int],
        resolution: Literal["increasing", "mixed"] = "increasing",
    ) -> PhaseSchedule:
        """Return the schedule of ProX: the smallest subnet first, then one more candidate per phase.

        Args:
            space: the space that the last phase trains.
            epochs: in total, split evenly with the remainder to the last phase; or one value per phase.
            resolution: ``increasing`` opens resolutions last (ProX-IR), ``mixed`` has all of them from the
                first phase on (ProX-MR).

        Raises:
            ValueError: When ``epochs`` does not cover the phases, or ``resolution`` is another.

        Stages are depth, width, kernel, resolution (ProX, section 3); the variants are those of section
        4.1.1. The teacher is the largest subnet of the phase before (section 3.5).
        """
        if resolution not in ("increasing", "mixed"):
            raise ValueError(f"resolution must be 'increasing' or 'mixed', got {resolution!r}.")
        stages = [stage for stage in Dimension if stage != Dimension.RESOLUTION or resolution == "increasing"]
        steps = _expansion(space, stages, downwards=False)
        teachers = [None, *(opened.largest() for _, opened in steps[:-1])]
        return cls._of(steps, epochs, teachers)

    @classmethod
    def progressive_shrinking(cls, space: SearchSpace, epochs: int | Sequence[int]) -> PhaseSchedule:
        """Return the schedule of progressive shrinking: the largest subnet first, then smaller ones.

        Args:
            space: the space that the last phase trains.
            epochs: in total, split evenly with the remainder to the last phase; or one value per phase.

        Raises:
            ValueError: When ``epochs`` does not cover the phases.

        Stages are kernel, depth, width at all resolutions; the teacher is the largest subnet throughout
        (Cai et al., "Once-for-all", ICLR 2020, section 3.3).
        """
        stages = [Dimension.KERNEL, Dimension.DEPTH, Dimension.WIDTH]
        steps = _expansion(space, stages, downwards=True)
        teachers = [None, *(space.largest() for _ in steps[1:])]
        return cls._of(steps, epochs, teachers)

    @classmethod
    def _of(
        cls,
        steps: Sequence[tuple[Dimension, SearchSpace]],
        epochs: int | Sequence[int],
        teachers: Sequence[SubnetConfig | None],
    ) -> PhaseSchedule:
        lengths = _split(epochs, len(steps))
        rows = zip(steps, lengths, teachers, strict=True)
        return cls(
            tuple(
                Phase(index, stage, space, length, teacher)
                for index, ((stage, space), length, teacher) in enumerate(rows)
            )
        )

    @property
    def total_epochs(self) -> int:
        """The length of the schedule, in epochs."""
        return sum(phase.epochs for phase in self.phases)

    @property
    def starts(self) -> tuple[int, ...]:
        """The first epoch of each phase, from 0."""
        return tuple(itertools.accumulate((phase.epochs for phase in self.phases[:-1]), initial=0))

    def first_epoch(self, phase: Phase) -> int:
        """Return the first epoch of a phase of this schedule."""
        return self.starts[phase.index]

    def phase_at(self, epoch: int) -> Phase:
        """Return the phase that an epoch belongs to.

        Raises:
            ValueError: When the schedule has no such epoch.
        """
        if not 0 <= epoch < self.total_epochs:
            raise ValueError(f"epoch must be in 0 ... {self.total_epochs - 1}, got {epoch!r}.")
        return self.phases[bisect_right(self.starts, epoch) - 1]

    def to_dict(self) -> dict[str, Any]:
        """Return the schedule as JSON primitives."""
        return {"phases": [phase.to_dict() for phase in self.phases]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PhaseSchedule:
        """Return the schedule of :meth:`to_dict`.

        Raises:
            ValueError: When a field is missing, unknown or not allowed.
        """
        check_fields("schedule", data, ["phases"])
        return cls(tuple(Phase.from_dict(phase) for phase in data["phases"]))


def _expansion(
    space: SearchSpace, stages: Sequence[Dimension], *, downwards: bool
) -> list[tuple[Dimension, SearchSpace]]:
    """The stage and the sub-space of each phase.

    The first has one candidate of each dimension in ``stages``, and each other one more, stage after stage.
    A dimension that is no stage has all its candidates throughout.
    """
    opened = dict.fromkeys(stages, 1)

    def opened_space() -> SearchSpace:
        part = {stage: slice(-count, None) if downwards else slice(count) for stage, count in opened.items()}
        return space.restrict(**{stage.value: space.candidates(stage)[part[stage]] for stage in stages})

    steps = [(stages[0], opened_space())]
    for stage in stages:
        for count in range(2, len(space.candidates(stage)) + 1):
            opened[stage] = count
            steps.append((stage, opened_space()))
    return steps


def _split(epochs: Any, phases: int) -> list[int]:
    """The epochs of each phase."""
    if is_integer(epochs):
        if epochs < phases:
            raise ValueError(
                f"{epochs} epochs cannot cover {phases} phases; give at least {phases}, or fewer candidates."
            )
        each = epochs // phases
        return [each] * (phases - 1) + [epochs - each * (phases - 1)]
    if isinstance(epochs, str) or not isinstance(epochs, Sequence) or len(epochs) != phases:
        raise ValueError(f"epochs must be a total or a list of {phases} integers >= 1, one per phase, got {epochs!r}.")
    return list(epochs)
