"""How a family is trained: every choice one named option, and the methods of the literature as presets of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

import torch

from prox_monai.elastic import Architecture, Supernet
from prox_monai.elastic.growth import Growth
from prox_monai.elastic.supernet import RingRate
from prox_monai.space import PhaseSchedule, SearchSpace
from prox_monai.training.distillation import Distillation
from prox_monai.training.freezing import FreezeRule
from prox_monai.training.learning_rate import Decay
from prox_monai.training.patches import PatchRule
from prox_monai.training.progressive import ProgressiveTraining

ScheduleName = Literal["prox", "progressive_shrinking", "sandwich", "standalone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A method of training; the defaults are our best practice, ``plus``.

    Args:
        schedule: ``prox`` (expansion), ``progressive_shrinking`` (once-for-all), ``sandwich`` (BigNAS: the whole space
            from the start) or ``standalone`` (one subnet).
        resolution_phases: of ``prox``: ``increasing`` (ProX-IR) or ``mixed`` (ProX-MR).
        polish: of ``prox``: a last phase under the sandwich rule, in which the largest teaches the others in place.
        subnets_per_step: subnets that an optimizer step trains; one number, or one per stage of the schedule. Under the
            sandwich rule the random ones, beside the largest and the smallest.
        reorder: of ``progressive_shrinking``: re-order channels by importance before the width stage.
        coupled: deeper sections are wider (CompOFA), in any schedule.
        kernel_transforms: smaller kernels are learnt transforms of larger ones (once-for-all).
        subnet: of ``standalone``: name of the subnet.
        freeze: ``none``, ``depth``, ``kernel`` or ``both`` (ProX, sections 3.1 and 3.3).
        growth: what an expansion opens: ``preserving`` or ``host`` initialisation; ``none`` where nothing grows.
        distillation: weight λ of the teacher's term (ProX, section 3.5), for example 0.5; 0 trains without a
            teacher, which was better at equal steps in all that was measured (benchmarks/LOG.md).
        distillation_form: ``mse`` of logits or ``kl`` of probabilities.
        teacher_average: decay per step of the exponential moving average of weights that a teacher is taken from, for
            example 0.99; 0 takes the weights as the phase before left them.
        inplace_distillation: weight λ of the term by which subnets learn from the largest in the same step (KL of
            probabilities), where the sandwich rule holds.
        patch: what a step trains on: the ``full`` patch, or a part of it that is ``growing`` through each phase
            (Fischer et al. 2024) but polishing, which was better with whole ones (benchmarks/LOG.md).
        optimizer: ``adamw`` or ``adam``.
        learning_rate: its peak.
        learning_rate_decay: ``phase`` (warmed up and decayed in every phase), ``fine_tuning`` (the same, lower after
            the first phase), ``training`` (once) or ``constant``, see :func:`learning_rate`.
        ring_rate: rings of kernels learn at the ``core_share`` of the taps, or at the ``full`` rate
            (:meth:`Supernet.parameter_groups`).
        weight_decay: of the optimizer.
    """

    schedule: ScheduleName = "prox"
    resolution_phases: Literal["increasing", "mixed"] = "increasing"
    polish: bool = True
    subnets_per_step: int | tuple[int, ...] = 1
    reorder: bool = False
    coupled: bool = False
    kernel_transforms: bool = False
    subnet: str = "largest"
    freeze: FreezeRule = "none"
    growth: Growth = "preserving"
    distillation: float = 0.0
    distillation_form: Literal["mse", "kl"] = "mse"
    teacher_average: float = 0.0
    inplace_distillation: float = 0.5
    patch: PatchRule = "full"
    optimizer: Literal["adamw", "adam"] = "adamw"
    learning_rate: float = 3e-3
    learning_rate_decay: Decay = "phase"
    ring_rate: RingRate = "core_share"
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        """Check what no schedule checks.

        Raises:
            ValueError: When an option is none of those it may be, or options do not go together.
        """
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}.")
        expands, shrinks = self.schedule == "prox", self.schedule == "progressive_shrinking"
        for name, given, allowed, needed in (
            ("polish", self.polish, expands or not self.polish, "false"),
            ("reorder", self.reorder, shrinks or not self.reorder, "false"),
            ("growth", self.growth, expands or self.growth == "none", "none"),
            ("freeze", self.freeze, expands or self.freeze == "none", "none"),
        ):
            if not allowed:
                raise ValueError(
                    f"{name} must be {needed} with schedule {self.schedule!r}, got {given!r}; a preset sets all that a "
                    f"method needs: {', '.join(PRESETS)}."
                )
        if self.teacher_average and not self.distillation:
            raise ValueError(
                f"teacher_average must be 0 where there is no teacher (distillation 0), got {self.teacher_average!r}."
            )
        if self.kernel_transforms and self.growth != "none":
            raise ValueError(f"kernel_transforms need growth 'none', got {self.growth!r}.")

    @classmethod
    def of(cls, preset: str = "plus", **fields: Any) -> Self:
        """Return the recipe of a preset, with some fields of its own.

        Raises:
            ValueError: When there is no such preset, or options do not go together.
        """
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}.")
        return cls(**{**PRESETS[preset], **fields})

    def space_of(self, space: SearchSpace) -> SearchSpace:
        """Return the subnets of a space that are trained."""
        return space.coupled() if self.coupled else space

    def phase_schedule(self, space: SearchSpace, epochs: int | Sequence[int]) -> PhaseSchedule:
        """Return the phases.

        Args:
            space: of :meth:`space_of`.
            epochs: in total, or one number per phase.

        Raises:
            ValueError: When the epochs do not cover the phases, ``subnets_per_step`` the stages, or there is no such
                ``subnet``.
        """
        if self.schedule == "prox":
            return PhaseSchedule.prox(
                space,
                epochs,
                self.resolution_phases,
                subnets_per_step=self.subnets_per_step,
                polish=self.polish,
            )
        if self.schedule == "progressive_shrinking":
            return PhaseSchedule.progressive_shrinking(
                space, epochs, subnets_per_step=self.subnets_per_step, reorder=self.reorder
            )
        total = epochs if isinstance(epochs, int) else sum(epochs)
        if self.schedule == "sandwich":
            return PhaseSchedule.sandwich(space, total, subnets_per_step=self.subnets_per_step)
        try:
            return PhaseSchedule.standalone(space, space.parse(self.subnet), total)
        except ValueError as error:
            raise ValueError(f"subnet: {error}") from error

    def supernet(self, architecture: Architecture, space: SearchSpace) -> Supernet:
        """Return a fresh supernet of :meth:`space_of`; a subnet that is trained alone starts as its host starts it.

        Raises:
            ValueError: When the architecture does not fit the space.
        """
        supernet = Supernet(architecture, space, growth=self.growth, kernel_transforms=self.kernel_transforms)
        if self.schedule == "standalone":
            config = space.parse(self.subnet)
            supernet.absorb(config, architecture.build(config))
        return supernet

    def make_optimizer(self, supernet: Supernet, *, fused: bool = True) -> torch.optim.Optimizer:
        """Return Adam or AdamW for the parameters of a supernet.

        Args:
            supernet: of :meth:`supernet`, on the device on which it is trained.
            fused: one pass over all parameters, as CPUs and CUDA devices can; of the many small ones of a supernet the
                other way is several times slower.
        """
        kind = torch.optim.AdamW if self.optimizer == "adamw" else torch.optim.Adam
        groups = supernet.parameter_groups(self.learning_rate, self.ring_rate)
        return kind(groups, weight_decay=self.weight_decay, fused=fused)

    def training(
        self, supernet: Supernet, schedule: PhaseSchedule, seed: int = 0, *, regions: bool = False
    ) -> ProgressiveTraining:
        """Return the training of a supernet through the phases.

        Args:
            supernet: of :meth:`supernet`.
            schedule: of :meth:`phase_schedule`.
            seed: seed of the sampled subnets.
            regions: the network's channels are regions that may overlap (sigmoid), not classes (softmax).
        """
        return ProgressiveTraining(
            supernet,
            schedule,
            seed=seed,
            freeze=self.freeze,
            distillation=Distillation(self.distillation, self.distillation_form),
            in_place=Distillation(self.inplace_distillation, "kl"),
            teacher_average=self.teacher_average,
            patch=self.patch,
            regions=regions,
        )


CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {name: get_args(kind) for name, kind in get_type_hints(Recipe).items() if get_origin(kind) is Literal}
)
"""What the options of :class:`Recipe` may be that have names."""

_PAPER = {
    "polish": False,
    "freeze": "both",
    "growth": "host",
    "distillation": 0.5,
    "optimizer": "adam",
    "learning_rate_decay": "constant",
    "ring_rate": "full",
    "weight_decay": 0.0,
}
_SHRINKING = {
    "schedule": "progressive_shrinking",
    "polish": False,
    "reorder": True,
    "kernel_transforms": True,
    "growth": "none",
    "distillation": 0.5,
    "distillation_form": "kl",
    "ring_rate": "full",
}
_WHOLE = {"polish": False, "growth": "none", "ring_rate": "full"}  # trained from the start

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "plus": {},
        "paper": _PAPER,  # ProX-IR
        "paper_mr": {**_PAPER, "resolution_phases": "mixed"},
        "progressive_shrinking": _SHRINKING,
        "progressive_shrinking_cai": {**_SHRINKING, "subnets_per_step": (1, 2, 4)},
        # BigNAS, sections 3.1 and 3.2: two random subnets beside the ends, which learn from the largest alone
        "sandwich": {"schedule": "sandwich", "subnets_per_step": 2, "inplace_distillation": 1.0, **_WHOLE},
        "compofa": {**_SHRINKING, "coupled": True},
        "standalone": {"schedule": "standalone", **_WHOLE},
    }
)
"""Fields of :class:`Recipe` that differ from ``plus``: what ``preset`` stands for in settings."""
