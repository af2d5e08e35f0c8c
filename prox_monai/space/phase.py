"""One phase of a schedule: a sub-space, and how its subnets are trained."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from enum import StrEnum
from typing import Any

from prox_monai.space.search_space import SearchSpace
from prox_monai.space.subnet import SubnetConfig, check_fields, is_integer


class Stage(StrEnum):
    """What a phase is for: to expand a dimension (its values equal those of ``Dimension``), or none."""

    DEPTH = "depth"
    WIDTH = "width"
    KERNEL = "kernel"
    RESOLUTION = "resolution"
    JOINT = "joint"  # everything that is trained is trained from the start
    POLISH = "polish"  # everything has been expanded


@dataclass(frozen=True, slots=True)
class Phase:
    """A sub-space, how its subnets are trained, and for how long.

    Args:
        index: position in the schedule, from 0.
        stage: what the phase is for.
        space: the subnets that are trained.
        epochs: length in epochs, at least 1.
        teacher: the subnet to distil from, as it is when the phase begins; None when there is none.
        random: subnets that each optimizer step draws from ``space``, all equally probable.
        fixed: subnets that each optimizer step trains before those.
        in_place: the others learn from what the first of ``fixed`` gives in the same step.
        reorder: channels are re-ordered by their importance when the phase begins.
        follow_resolution: the teacher works at the resolution of its student, not at its own.

    Raises:
        ValueError: When ``epochs`` is not an integer >= 1, a step would train no subnet, a fixed subnet is not in the
            space, or there is none to learn from in place.
    """

    index: int
    stage: Stage
    space: SearchSpace
    epochs: int
    teacher: SubnetConfig | None = None
    random: int = 1
    fixed: tuple[SubnetConfig, ...] = ()
    in_place: bool = False
    reorder: bool = False
    follow_resolution: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "stage", Stage(self.stage))
        object.__setattr__(self, "fixed", tuple(self.fixed))
        where = f"of phase {self.index}"
        if not is_integer(self.epochs) or self.epochs < 1:
            raise ValueError(f"epochs {where} must be an integer >= 1, got {self.epochs!r}.")
        least = 0 if self.fixed else 1
        if not is_integer(self.random) or self.random < least:
            raise ValueError(f"random {where} must be an integer >= {least}, got {self.random!r}.")
        for config in self.fixed:
            self.space.check(config)
        if self.in_place and not self.fixed:
            raise ValueError(f"in_place {where} needs a fixed subnet to learn from.")

    def smallest(self) -> SubnetConfig:
        """Return the smallest subnet that is trained."""
        return self.space.smallest() if self.random else self.fixed[-1]

    def largest(self) -> SubnetConfig:
        """Return the largest subnet that is trained."""
        return self.space.largest() if self.random else self.fixed[0]

    @property
    def subnets_per_step(self) -> int:
        """Number of subnets that each optimizer step trains."""
        return len(self.fixed) + self.random

    def sample(self, rng: random.Random) -> tuple[SubnetConfig, ...]:
        """Return the subnets of one optimizer step."""
        return (*self.fixed, *(self.space.sample(rng) for _ in range(self.random)))

    def to_dict(self) -> dict[str, Any]:
        """Return the phase as JSON primitives."""
        return {
            "index": self.index,
            "stage": self.stage.value,
            "space": self.space.to_dict(),
            "epochs": self.epochs,
            "teacher": None if self.teacher is None else self.teacher.to_dict(),
            "random": self.random,
            "fixed": [config.to_dict() for config in self.fixed],
            "in_place": self.in_place,
            "reorder": self.reorder,
            "follow_resolution": self.follow_resolution,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Phase:
        """Return the phase of :meth:`to_dict`; what a step trains may be left out.

        Raises:
            ValueError: When a field is missing, unknown or not allowed.
        """
        optional = [field.name for field in fields(cls) if field.default is not MISSING and field.name != "teacher"]
        required = [field.name for field in fields(cls) if field.name not in optional]
        check_fields("phase", data, required, optional)
        if data["stage"] not in tuple(Stage):
            raise ValueError(f"stage must be one of {', '.join(Stage)}, got {data['stage']!r}.")
        read = {
            "stage": Stage(data["stage"]),
            "space": SearchSpace.from_dict(data["space"]),
            "teacher": None if data["teacher"] is None else SubnetConfig.from_dict(data["teacher"]),
            "fixed": tuple(SubnetConfig.from_dict(config) for config in data.get("fixed", ())),
        }
        return cls(**{**data, **read})
