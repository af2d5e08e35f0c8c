"""What is compared, read from ``paper.yaml``: a method is a set of settings."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prox_monai.integrations.nnunet.settings import ProXSettings, with_fields

PROX_TRAINER = "ProXTrainer"
STOCK_TRAINERS = ("TimedTrainer", "TimedAdamWTrainer")
_PARTS = ("common", "full", "methods", "groups", "subnets", "ranking")
_ABOUT = {"of": None, "match_seconds": None, "steps": 1}  # of a method, beside its settings


@dataclass(frozen=True, slots=True)
class Method:
    """One way to train.

    Args:
        name: as in folders and tables.
        settings: fields of ``ProXTrainer``, those of ``common`` included; of a stock trainer its epochs.
        trainer: class of the trainer.
        of: the method whose settings it takes over.
        match_seconds: the method whose training time it gets.
    """

    name: str
    settings: Mapping[str, Any]
    trainer: str = PROX_TRAINER
    of: str | None = None
    match_seconds: str | None = None

    @property
    def stock(self) -> bool:
        """Whether nnU-Net trains its planned network, for so many seconds."""
        return self.trainer in STOCK_TRAINERS

    @property
    def needs(self) -> tuple[str, ...]:
        """The methods that must have been trained before."""
        if self.match_seconds is None:
            return ()
        return (self.match_seconds,) if self.stock else (self.match_seconds, self.of)

    def settings_of(self, seed: int, seconds: Callable[[str], float]) -> dict[str, Any]:
        """Return the settings of one unit.

        Args:
            seed: the unit's seed.
            seconds: gives the training seconds of a method that is needed.
        """
        settings = {**self.settings, "seed": seed}
        if self.stock:
            settings["seconds"] = seconds(self.match_seconds)
        elif self.match_seconds is not None:
            settings |= _in_time(self.settings, seconds(self.match_seconds) / seconds(self.of))
        return settings


@dataclass(frozen=True, slots=True)
class Comparison:
    """The content of ``paper.yaml``.

    Args:
        common: settings that all supernets share.
        methods: by name, those that are referred to first.
        groups: names of methods by name of the group.
        subnets: number of random subnets that are evaluated.
        ranking: what ``ranking.py`` does.
    """

    common: Mapping[str, Any]
    methods: Mapping[str, Method]
    groups: Mapping[str, tuple[str, ...]]
    subnets: int
    ranking: Mapping[str, Any]

    def flags(self, *, full: bool) -> str:
        """Return what a command line needs to read the same settings, with a space before it."""
        threads = self.common.get("threads")
        return f"{' --full' * full}{'' if threads is None else f' --threads {threads}'}"

    def choose(self, names: Sequence[str]) -> list[Method]:
        """Return the methods of these names and groups, in the order of the file; ``all`` means all.

        Raises:
            ValueError: When there is no such method or group; the message says which there are.
        """
        groups = {**self.groups, "all": tuple(self.methods)}
        chosen: set[str] = set()
        for name in names:
            if name not in groups and name not in self.methods:
                close = difflib.get_close_matches(name, [*groups, *self.methods], n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                raise ValueError(
                    f"there is no method {name!r}{hint}; the methods are {', '.join(self.methods)}; "
                    f"the groups {', '.join(groups)}."
                )
            chosen.update(groups.get(name, (name,)))
        return [method for method in self.methods.values() if method.name in chosen]


def read_comparison(path: Path, *, full: bool = False, threads: int | None = None) -> Comparison:
    """Read the file that says what is compared.

    Args:
        path: a YAML file like ``benchmarks/paper.yaml``.
        full: lay ``full`` over ``common``.
        threads: CPU threads of every training; all cores if not given.

    Raises:
        FileNotFoundError: When it does not exist.
        ValueError: When it is no YAML, lacks a part, a method or group refers to one that is not there, or settings are
            not allowed.
    """
    content = _read(path)
    limit = {} if threads is None else {"threads": threads}
    common = {**content["common"], **(content["full"] if full else {}), **limit}
    methods: dict[str, Method] = {}
    for name, fields in content["methods"].items():
        methods[name] = _method(name, dict(fields) | (limit if "trainer" in fields else {}), common, methods)
    for group, names in content["groups"].items():
        if unknown := [name for name in names if name not in methods]:
            raise ValueError(f"group {group}: there is no method {unknown[0]!r}; there are {', '.join(methods)}.")
    groups = {group: tuple(names) for group, names in content["groups"].items()}
    return Comparison(common, methods, groups, content["subnets"], content["ranking"])


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    lacking = [part for part in _PARTS if not isinstance(content, dict) or part not in content]
    if lacking:
        raise ValueError(f"{path} must hold {', '.join(_PARTS)}; it lacks {', '.join(lacking)}.")
    return content


def with_steps(settings: Mapping[str, Any], share: float) -> dict[str, Any]:
    """Return settings of a training with a share of the steps: its epochs are as many, and shorter."""
    iterations = max(1, round(settings["iterations_per_epoch"] * share))
    return {**settings, "iterations_per_epoch": iterations}


def total_epochs(settings: Mapping[str, Any]) -> int:
    """Return how many epochs a training has, which settings may give phase by phase."""
    epochs = settings["epochs"]
    return sum(epochs) if isinstance(epochs, list) else epochs


def _in_time(settings: Mapping[str, Any], ratio: float) -> dict[str, int]:
    """The length of a training that takes ``ratio`` times as long: other epochs where there is one phase only."""
    epochs, iterations = total_epochs(settings), settings["iterations_per_epoch"]
    if settings.get("preset") == "standalone":
        longer = max(1, round(epochs * ratio))
        return {"epochs": longer, "iterations_per_epoch": max(1, round(epochs * iterations * ratio / longer))}
    return {"iterations_per_epoch": max(1, round(iterations * ratio))}


def resolved_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return all of ``ProXTrainer``'s settings, those of the preset and the defaults included.

    Raises:
        ValueError: When a field is unknown or its value not allowed.
    """
    return with_fields(ProXSettings(), settings).to_dict()


def check_settings(name: str, settings: Mapping[str, Any]) -> None:
    """Check a method's settings as ``ProXTrainer`` will.

    Raises:
        ValueError: When a field is unknown or its value not allowed.
    """
    try:
        resolved_settings(settings)
    except ValueError as error:
        raise ValueError(f"method {name}: {error}") from error


def _method(name: str, fields: dict[str, Any], common: Mapping[str, Any], before: Mapping[str, Method]) -> Method:
    for field in ("of", "match_seconds"):
        if fields.get(field) is not None and fields[field] not in before:
            raise ValueError(f"method {name}: {field} must be a method that stands before it, got {fields[field]!r}.")
    return _stock(name, **fields) if "trainer" in fields else _prox(name, fields, common, before)


def _stock(name: str, trainer: str, match_seconds: str | None = None, **settings: Any) -> Method:
    """One of nnU-Net's own trainers, for the time of another method."""
    if trainer not in STOCK_TRAINERS:
        raise ValueError(f"method {name}: trainer must be one of {', '.join(STOCK_TRAINERS)}, got {trainer!r}.")
    if match_seconds is None:
        raise ValueError(f"method {name}: a stock trainer needs match_seconds, the method whose time it gets.")
    return Method(name, settings, trainer, match_seconds=match_seconds)


def _prox(name: str, fields: dict[str, Any], common: Mapping[str, Any], before: Mapping[str, Method]) -> Method:
    """``ProXTrainer`` with settings over those of another method, or the common ones."""
    of, match, steps = (fields.pop(field, default) for field, default in _ABOUT.items())
    if of is not None and before[of].stock:
        raise ValueError(f"method {name}: of must be a method with settings of ProXTrainer, got {of!r}.")
    if match is not None and of is None:
        raise ValueError(f"method {name}: match_seconds needs of, the method whose time per step is known.")
    settings = with_steps({**(before[of].settings if of else common), **fields}, steps)
    check_settings(name, settings)
    return Method(name, settings, of=of, match_seconds=match)
