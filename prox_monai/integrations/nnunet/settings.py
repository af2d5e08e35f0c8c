"""The settings of ``ProXTrainer``: one YAML file, or class attributes of a subclass."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from prox_monai.space import SearchSpace, unet_groups
from prox_monai.training import PRESETS, Recipe
from prox_monai.training.recipe import CHOICES

CONFIG_VARIABLE = "PROX_CONFIG"


@dataclass(frozen=True, slots=True, init=False)
class ProXSettings(Recipe):
    """Everything that can be set: the recipe, the candidates, and how nnU-Net runs it.

    Args:
        preset: name of the recipe whose fields are the defaults of those that are not given, see ``PRESETS``.
        network: ``plain`` (nnU-Net's ``PlainConvUNet``), ``inverted`` (inverted residuals, MobileNetV2's blocks) or
            ``reversible`` (such that training computes blocks again instead of storing their activations); stages,
            channels, strides and kernels are the planned ones.
        depth: candidate depths, convolutions (or blocks) per stage.
        width: candidate widths, multiples of the planned channels.
        kernel: candidate kernel sizes, voxels.
        resolution: candidate fractions of the planned patch.
        max_width: candidates of ``width`` above it are dropped, so that a small machine can finish.
        epochs: total, split evenly over the phases, or one number per phase.
        iterations_per_epoch: training steps per epoch.
        validation_iterations: validation batches per epoch.
        batch_size: overrides the planned batch size.
        threads: CPU threads; all cores, which nnU-Net takes, if not given.
        seed: seed of subnets; with ``nnUNet_n_proc_DA=0`` also of data and augmentation.
        mirror: mirror in training and at prediction, as nnU-Net does.
        expansion: after each phase, ``report`` what it gained on unseen cases, ``stop`` expanding a dimension that
            gains nothing more (ProX, section 4.2), or ``off``.
        expansion_delta: the mean gain in Dice below which an expansion gains nothing.
        save_every: epochs between checkpoints; the end of a phase is always saved.
        validate: the subnets that are validated after training; a subnet that is trained alone is validated alone.
        overwrite: allow a new training in a results folder that holds one.

    Fields that are not given are those of the preset.

    Raises:
        ValueError: When a field is unknown, or a value is not allowed.
    """

    preset: str = "plus"
    network: Literal["plain", "inverted", "reversible"] = "plain"
    depth: tuple[int, ...] = (1, 2)
    width: tuple[float, ...] = (0.25, 0.5, 1.0)
    kernel: tuple[int, ...] = (3, 5)
    resolution: tuple[float, ...] = (0.6, 0.8, 1.0)
    max_width: float | None = None
    epochs: int | tuple[int, ...] = 350
    iterations_per_epoch: int = 250
    validation_iterations: int = 50
    batch_size: int | None = None
    threads: int | None = None
    seed: int = 0
    mirror: bool = True
    expansion: Literal["off", "report", "stop"] = "report"
    expansion_delta: float = 0.005
    save_every: int = 10
    validate: tuple[str, ...] = ("smallest", "middle", "largest")
    overwrite: bool = False

    def __init__(self, **given: Any) -> None:
        known = {field.name: field.default for field in dataclasses.fields(self)}
        if unknown := [name for name in given if name not in known]:
            described = (f"{name!r}{_did_you_mean(name, known)}" for name in unknown)
            raise ValueError(f"unknown field {', '.join(described)}; the fields are {', '.join(known)}.")
        preset = given.get("preset")
        of_preset = PRESETS.get(preset, {}) if isinstance(preset, str) else {}
        for name, value in {**known, **of_preset, **given}.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        for name in _SEQUENCES:
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.expansion is False:  # what YAML makes of a bare `off`
            object.__setattr__(self, "expansion", "off")
        problems = []
        for name, (allowed, check) in _ALLOWED.items():
            if not check(getattr(self, name)):
                problems.append(
                    f"{name} must be {allowed}, got {getattr(self, name)!r}{_yaml_hint(getattr(self, name))}."
                )
        if problems:
            raise ValueError(" ".join(problems))
        Recipe.__post_init__(self)
        if self.reorder and self.network != "plain":
            presets = ", ".join(name for name, fields in PRESETS.items() if fields.get("reorder"))
            raise ValueError(
                f"reorder must be false with network {self.network!r}, whose channels are not re-ordered, got True; "
                f"that is how the presets {presets} set it."
            )

    def search_space(self, levels: int) -> SearchSpace:
        """Return the space of a U-Net with this many levels.

        Raises:
            ValueError: When candidates are not valid, or ``max_width`` leaves none.
        """
        width = tuple(w for w in self.width if self.max_width is None or w <= self.max_width)
        if not width:
            raise ValueError(f"max_width {self.max_width:g} leaves none of the candidates of width {self.width}.")
        candidates = (self.depth, width, self.kernel, self.resolution)
        return self.space_of(SearchSpace(2 * levels - 1, *candidates, groups=unet_groups(levels)))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON primitives."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def resolve_settings(base: ProXSettings, environment: Mapping[str, str]) -> tuple[ProXSettings, set[str]]:
    """Return ``base`` with the fields of the YAML file that ``PROX_CONFIG`` names, and the names of these fields.

    Raises:
        FileNotFoundError: When the file does not exist.
        ValueError: When it is no YAML mapping, or has an unknown field or a value that is not allowed.
    """
    path = environment.get(CONFIG_VARIABLE)
    if not path:
        return base, set()
    given = read_yaml(Path(path))
    try:
        return with_fields(base, given), set(given)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def settings_of_class(cls: type) -> ProXSettings:
    """Return the settings of a trainer class: its ``settings``, with its other attributes of these names.

    Raises:
        TypeError: When ``settings`` is not a ``ProXSettings``.
        ValueError: When a value is not allowed, or an attribute's name is almost that of a setting.
    """
    if not isinstance(cls.settings, ProXSettings):
        raise TypeError(f"settings of {cls.__name__} must be a ProXSettings, got {cls.settings!r}.")
    given = {}
    for name, value in vars(cls).items():
        if name in _ALLOWED:
            given[name] = value
        elif not name.startswith("_") and not callable(value):
            close = difflib.get_close_matches(name, set(_ALLOWED) - {"settings"}, n=1, cutoff=0.8)
            if close and name != "settings":
                raise ValueError(f"{cls.__name__}.{name} is not a setting; did you mean {close[0]!r}?")
    return with_fields(cls.settings, given)


def with_fields(base: ProXSettings, given: Mapping[str, Any]) -> ProXSettings:
    """Return settings with some fields given; with a preset among them nothing of the recipe before is left.

    Raises:
        ValueError: When a field is unknown, or a value is not allowed.
    """
    recipe = {field.name for field in dataclasses.fields(Recipe)} if "preset" in given else set()
    kept = {field.name: getattr(base, field.name) for field in dataclasses.fields(base) if field.name not in recipe}
    return ProXSettings(**{**kept, **{str(name): value for name, value in given.items()}})


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a settings file.

    Raises:
        FileNotFoundError: When it does not exist.
        ValueError: When it is no YAML mapping.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{CONFIG_VARIABLE} names {path}, which is not a file.")
    try:
        given = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise ValueError(f"{path} must hold fields and values, got {type(given).__name__}.")
    return given


def differing_fields(a: ProXSettings, b: ProXSettings, fields: set[str]) -> list[str]:
    """Describe the fields, out of ``fields``, in which two settings differ."""
    ours, theirs = a.to_dict(), b.to_dict()
    return [f"{name} ({theirs[name]} instead of {ours[name]})" for name in sorted(fields) if ours[name] != theirs[name]]


def _did_you_mean(name: Any, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _yaml_hint(value: Any) -> str:
    try:
        number = isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        number = False
    return " (text: YAML wants a decimal point, as in 3.0e-3)" if number else ""


def _integer(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _all(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda values: isinstance(values, tuple) and len(values) > 0 and all(map(check, values))


def _one_of(*allowed: Any) -> tuple[str, Callable[[Any], bool]]:
    return f"one of {', '.join(map(str, allowed))}", lambda value: isinstance(value, str) and value in allowed


_COUNT = ("an integer >= 1", _integer)
_COUNT_OR_NULL = ("an integer >= 1 or null", lambda value: value is None or _integer(value))
_POSITIVE = ("a number > 0", lambda value: _number(value) and value > 0)
_NOT_NEGATIVE = ("a number >= 0", lambda value: _number(value) and value >= 0)
_COUNTS = ("an integer >= 1 or a list of them", lambda value: _integer(value) or _all(_integer)(value))
_FRACTION = ("a number in [0, 1]", lambda value: _number(value) and 0 <= value <= 1)
_FLAG = ("true or false", lambda value: isinstance(value, bool))
_SEQUENCES: Sequence[str] = ("depth", "width", "kernel", "resolution", "epochs", "subnets_per_step", "validate")

_ALLOWED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "depth": ("a list of integers >= 1", _all(_integer)),
    "width": ("a list of numbers > 0", _all(_POSITIVE[1])),
    "kernel": ("a list of odd integers", _all(lambda value: _integer(value) and value % 2 == 1)),
    "resolution": ("a list of numbers in (0, 1]", _all(lambda value: _number(value) and 0 < value <= 1)),
    "max_width": ("a number > 0 or null", lambda value: value is None or _POSITIVE[1](value)),
    "preset": _one_of(*PRESETS),
    "network": _one_of("plain", "inverted", "reversible"),
    **{name: _one_of(*allowed) for name, allowed in CHOICES.items()},
    "polish": _FLAG,
    "subnets_per_step": _COUNTS,
    "reorder": _FLAG,
    "coupled": _FLAG,
    "kernel_transforms": _FLAG,
    "subnet": ("a subnet's name", lambda value: isinstance(value, str)),
    "epochs": _COUNTS,
    "iterations_per_epoch": _COUNT,
    "validation_iterations": _COUNT,
    "batch_size": _COUNT_OR_NULL,
    "threads": _COUNT_OR_NULL,
    "seed": ("an integer >= 0", lambda value: _integer(value, 0)),
    "distillation": _FRACTION,
    "teacher_average": ("a number in [0, 1)", lambda value: _FRACTION[1](value) and value < 1),
    "inplace_distillation": _FRACTION,
    "learning_rate": _POSITIVE,
    "weight_decay": _NOT_NEGATIVE,
    "mirror": _FLAG,
    "expansion": _one_of("off", "report", "stop"),
    "expansion_delta": _NOT_NEGATIVE,
    "save_every": _COUNT,
    "validate": ("a list of subnet names", _all(lambda value: isinstance(value, str))),
    "overwrite": _FLAG,
}
