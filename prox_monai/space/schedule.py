"""Which sub-space trains when: ProX and progressive shrinking as values."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from prox_monai.space.phase import Phase, Stage
from prox_monai.space.search_space import SearchSpace
from prox_monai.space.subnet import Dimension, SubnetConfig, check_fields, is_integer


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
        *,
        subnets_per_step: int | Sequence[int] = 1,
        polish: bool = False,
    ) -> PhaseSchedule:
        """Return the schedule of ProX: the smallest subnet first, then one more candidate per phase.

        Args:
            space: the space that the last phase trains.
            epochs: in total, split evenly with the remainder to the last phase; or one value per phase.
            resolution: ``increasing`` opens resolutions last (ProX-IR), ``mixed`` has all of them from the
                first phase on (ProX-MR).
            subnets_per_step: subnets per optimizer step; one number, or one per stage.
            polish: add a last phase under the sandwich rule (:meth:`sandwich`); of a total it gets half of what another
                phase gets, because each of its steps trains three subnets.

        Raises:
            ValueError: When ``epochs`` does not cover the phases, ``subnets_per_step`` the stages, or ``resolution``
                is another.

        Stages are depth, width, kernel, resolution (ProX, section 3); the variants are those of section
        4.1.1. The teacher is the largest subnet of the phase before (section 3.5).
        """
        if resolution not in ("increasing", "mixed"):
            raise ValueError(f"resolution must be 'increasing' or 'mixed', got {resolution!r}.")
        stages = [stage for stage in Dimension if stage != Dimension.RESOLUTION or resolution == "increasing"]
        steps = _expansion(space, stages, downwards=False)
        counts = _per_stage(subnets_per_step, stages)
        phases = [
            Phase(index, stage, opened, 1, steps[index - 1][1].largest() if index else None, counts[stage])
            for index, (stage, opened) in enumerate(steps)
        ]
        if polish:
            phases.append(_sandwich(len(phases), Stage.POLISH, space))
            epochs = _with_polish(epochs, len(phases))
        return cls._lasting(phases, epochs)

    @classmethod
    def progressive_shrinking(
        cls,
        space: SearchSpace,
        epochs: int | Sequence[int],
        *,
        subnets_per_step: int | Sequence[int] = 1,
        reorder: bool = False,
    ) -> PhaseSchedule:
        """Return the schedule of progressive shrinking: the largest subnet first, then smaller ones.

        Args:
            space: the space that the last phase trains.
            epochs: in total, split evenly with the remainder to the last phase; or one value per phase.
            subnets_per_step: subnets per optimizer step; one number, or one per stage.
            reorder: whether channels are re-ordered by importance before the width stage.

        Raises:
            ValueError: When ``epochs`` does not cover the phases, or ``subnets_per_step`` the stages.

        Stages are kernel, depth, width at all resolutions; the teacher is the largest subnet throughout, at the
        resolution of its student (Cai et al., "Once-for-all", ICLR 2020, section 3.3: one image size per batch).
        """
        stages = [Dimension.KERNEL, Dimension.DEPTH, Dimension.WIDTH]
        steps = _expansion(space, stages, downwards=True)
        counts = _per_stage(subnets_per_step, stages)
        first_width = next((index for index, (stage, _) in enumerate(steps) if stage == Stage.WIDTH), None)
        phases = [
            Phase(
                index,
                stage,
                opened,
                1,
                space.largest() if index else None,
                counts[stage],
                reorder=reorder and index == first_width,
                follow_resolution=index > 0,
            )
            for index, (stage, opened) in enumerate(steps)
        ]
        return cls._lasting(phases, epochs)

    @classmethod
    def sandwich(cls, space: SearchSpace, epochs: int, *, subnets_per_step: int = 1) -> PhaseSchedule:
        """Return a schedule of one phase that trains the largest, the smallest and random subnets in every step.

        All but the largest learn from what the largest gives in the same step (Yu et al., "BigNAS", ECCV 2020,
        sections 3.1 and 3.2).

        Args:
            space: the space that is trained.
            epochs: in total.
            subnets_per_step: random subnets per optimizer step; 0 trains the two ends alone.

        Raises:
            ValueError: When a number is not an integer, ``epochs`` less than 1, or ``subnets_per_step`` less than 0.
        """
        if not is_integer(subnets_per_step) or subnets_per_step < 0:
            raise ValueError(
                f"subnets_per_step of the sandwich rule must be an integer >= 0, got {subnets_per_step!r}."
            )
        return cls._lasting([replace(_sandwich(0, Stage.JOINT, space), random=subnets_per_step)], [epochs])

    @classmethod
    def standalone(cls, space: SearchSpace, config: SubnetConfig, epochs: int) -> PhaseSchedule:
        """Return a schedule that trains one subnet alone.

        Raises:
            ValueError: When the subnet is not in the space, or ``epochs`` is not an integer >= 1.
        """
        return cls((Phase(0, Stage.JOINT, space.around(config), epochs, random=0, fixed=(config,)),))

    @classmethod
    def _lasting(cls, phases: Sequence[Phase], epochs: int | Sequence[int]) -> PhaseSchedule:
        lengths = _split(epochs, len(phases))
        return cls(tuple(replace(phase, epochs=length) for phase, length in zip(phases, lengths, strict=True)))

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

    def stopped(self, phase: Phase) -> PhaseSchedule:
        """Return the schedule in which the dimension of an expansion gets no more candidates after it.

        Later phases that opened more of it are dropped, others lose these candidates; where a teacher or a fixed
        subnet is lost, the largest subnet takes its place (ProX, section 4.2).

        Raises:
            ValueError: When the phase expands no dimension.
        """
        if phase.stage not in tuple(Dimension):
            raise ValueError(f"stage of the phase to stop at must be one of {', '.join(Dimension)}, got {phase.stage}.")
        kept = list(self.phases[: phase.index + 1])
        last = phase.space.candidates(Dimension(phase.stage))[-1]
        for later in self.phases[phase.index + 1 :]:
            candidates = [value for value in later.space.candidates(Dimension(phase.stage)) if value <= last]
            space = later.space.restrict(**{phase.stage.value: candidates})
            if later.stage in tuple(Dimension) and space == kept[-1].space:
                continue
            teacher = later.teacher if later.teacher is None or later.teacher in space else kept[-1].largest()
            fixed = tuple(config if config in space else space.largest() for config in later.fixed)
            kept.append(replace(later, index=len(kept), space=space, teacher=teacher, fixed=fixed))
        return PhaseSchedule(tuple(kept))

    def extended(self, space: SearchSpace, epochs: int | Sequence[int]) -> PhaseSchedule:
        """Return the schedule with a phase more for each candidate that a larger space adds.

        New phases expand depth, width, kernel, resolution in this order, as ProX does (section 1: "scalability"). Where
        the schedule ends with polishing, the extension does, too.

        Args:
            space: the last phase's, with larger candidates added.
            epochs: of the new phases: in total, or one value per phase.

        Raises:
            ValueError: When a dimension does not keep its candidates and add larger ones, none adds any, depth and
                width are coupled, or ``epochs`` does not cover the new phases.
        """
        if self.phases[-1].space.pairs:
            raise ValueError("a schedule of coupled depths and widths cannot be extended: no pair has a new candidate.")
        phases = list(self.phases)
        for dimension in Dimension:
            present, wanted = phases[-1].space.candidates(dimension), space.candidates(dimension)
            if wanted[: len(present)] != present:
                raise ValueError(f"{dimension} must be {present} and larger candidates, got {wanted}.")
            for value in wanted[len(present) :]:
                last = phases[-1]
                opened = replace(last.space, **{dimension.value: (*last.space.candidates(dimension), value)})
                new = Phase(len(phases), Stage(dimension), opened, 1, last.largest(), max(last.random, 1))
                phases.append(new)
        done = len(self.phases)
        if len(phases) == done:
            raise ValueError(f"an extension needs a candidate that is not in {space}.")
        if self.phases[-1].stage == Stage.POLISH:
            phases.append(_sandwich(len(phases), Stage.POLISH, space))
            epochs = _with_polish(epochs, len(phases) - done)
        lengths = _split(epochs, len(phases) - done)
        new = (replace(phase, epochs=length) for phase, length in zip(phases[done:], lengths, strict=True))
        return PhaseSchedule((*self.phases, *new))


def _expansion(space: SearchSpace, stages: Sequence[Dimension], *, downwards: bool) -> list[tuple[Stage, SearchSpace]]:
    """The stage and the sub-space of each phase.

    The first has one candidate of each dimension in ``stages``, and each other one more, stage after stage.
    A dimension that is no stage has all its candidates throughout. Where depth and width are coupled, the candidate
    that adds no subnet adds no phase.
    """
    opened = dict.fromkeys(stages, 1)

    def opened_space() -> SearchSpace:
        part = {stage: slice(-count, None) if downwards else slice(count) for stage, count in opened.items()}
        return space.restrict(**{stage.value: space.candidates(stage)[part[stage]] for stage in stages})

    steps = [(Stage(stages[0]), opened_space())]
    for stage in stages:
        for count in range(2, len(space.candidates(stage)) + 1):
            opened[stage] = count
            if opened_space().size() > steps[-1][1].size():
                steps.append((Stage(stage), opened_space()))
    return steps


def _sandwich(index: int, stage: Stage, space: SearchSpace) -> Phase:
    fixed = dict.fromkeys((space.largest(), space.smallest()))
    return Phase(index, stage, space, 1, fixed=tuple(fixed), in_place=True)


def _per_stage(subnets: Any, stages: Sequence[Dimension]) -> dict[Stage, int]:
    """The subnets per optimizer step of each stage."""
    each = [subnets] * len(stages) if is_integer(subnets) else subnets
    if isinstance(each, str) or not isinstance(each, Sequence) or len(each) != len(stages):
        raise ValueError(
            f"subnets_per_step must be an integer >= 1 or a list of {len(stages)}, for {', '.join(stages)}; "
            f"got {subnets!r}."
        )
    return {Stage(stage): count for stage, count in zip(stages, each, strict=True)}


def _with_polish(epochs: Any, phases: int) -> Any:
    """The epochs of each phase, half as many of a total for the last; a list as it is."""
    if not is_integer(epochs):
        return epochs
    polish = min(_split(epochs, phases)[0], max(1, round(epochs / (2 * phases - 1))))
    return [*_split(epochs - polish, phases - 1), polish]


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
