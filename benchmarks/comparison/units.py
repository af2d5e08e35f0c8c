"""A unit of a benchmark: one method, seed and fold, trained and evaluated; what is done is not done again."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from comparison.methods import Method, resolved_settings
from comparison.results import prox_result, stock_result
from comparison.workplace import Workplace, environment, progress
from prox_monai.data.complete import complete_file
from prox_monai.evaluation.cost import device_name
from prox_monai.evaluation.multiply_adds import ALIASES
from prox_monai.integrations.nnunet.trained import TrainedModel, load_trained
from prox_monai.integrations.nnunet.unseen import Half, evaluate_trained, unseen_cases
from prox_monai.space import SearchSpace, SubnetConfig


@dataclass(frozen=True, slots=True)
class Unit:
    """One training of a method.

    Args:
        method: what is trained.
        seed: of subnets, data and initialisation.
        fold: of nnU-Net's cross-validation.
        root: folder that holds all units.
    """

    method: Method
    seed: int
    fold: int
    root: Path

    @property
    def folder(self) -> Path:
        """Where its settings, results and log lie."""
        return self.root / self.method.name / f"seed{self.seed}" / f"fold{self.fold}"

    @property
    def result(self) -> dict[str, Any] | None:
        """Its result, once it is done."""
        path = self.folder / "result.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def settings(self) -> dict[str, Any]:
        """Return its settings.

        Raises:
            RuntimeError: When a unit whose time it needs is not done.
        """
        return self.method.settings_of(self.seed, self._seconds)

    def begin(self, settings: Mapping[str, Any], subnets: int, device: str, half: Half = "reporting") -> None:
        """Write what it is to do, defaults included, or check that this is what it was begun with.

        Args:
            settings: of :meth:`settings`.
            subnets: number of random subnets that are to be evaluated.
            device: ``cpu`` or ``cuda``.
            half: of the unseen cases, on which they are evaluated.

        Raises:
            ValueError: When it was begun with other settings; nothing is changed.
        """
        path = self.folder / "unit.json"
        whole = settings if self.method.stock else resolved_settings(settings)
        wanted = {"trainer": self.method.trainer, "subnets": subnets, "device": device, "half": half, **whole}
        if path.exists():
            begun = self._completed(json.loads(path.read_text(encoding="utf-8")))
            names = [name for name in {**begun, **wanted} if begun.get(name) != wanted.get(name)]
            if names:
                differing = ", ".join(f"{n} ({begun.get(n)} instead of {wanted.get(n)})" for n in names)
                raise ValueError(
                    f"{self.folder} was begun with other settings: {differing}. What is there is kept; give another "
                    f"--output, or remove the folder."
                )
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.settings_file.write_text(yaml.safe_dump(dict(settings), sort_keys=False), encoding="utf-8")
        path.write_text(json.dumps(wanted, indent=1), encoding="utf-8")

    def _completed(self, begun: Mapping[str, Any]) -> dict[str, Any]:
        """Fill in the settings that came later, with what was meant before there were any."""
        known = {} if self.method.stock else resolved_settings({"preset": begun["preset"]})
        known = {"half": "reporting", **known}
        return {**begun, **{name: value for name, value in known.items() if name not in begun}}

    @property
    def settings_file(self) -> Path:
        """The file that its trainer reads."""
        return self.folder / "settings.yaml"

    def finish(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Write and return its result."""
        described = {"method": self.method.name, "seed": self.seed, "fold": self.fold, **result}
        with complete_file(self.folder / "result.json") as partial:
            partial.write_text(json.dumps(described), encoding="utf-8")
        return described

    def _seconds(self, method: str) -> float:
        result = self.root / method / f"seed{self.seed}" / f"fold{self.fold}" / "result.json"
        if not result.exists():
            raise RuntimeError(
                f"{self.method.name} needs the training time of {method}, seed {self.seed}, fold {self.fold}, which is "
                f"not done; add {method} to --methods."
            )
        return json.loads(result.read_text(encoding="utf-8"))["train_seconds"]


def check_units(units: Iterable[Unit], subnets: int, device: str, half: Half = "reporting") -> None:
    """Check everything that can be checked before the first unit is run.

    Args:
        units: in the order in which they are to be run.
        subnets: number of random subnets that are to be evaluated.
        device: ``cpu`` or ``cuda``.
        half: of the unseen cases, on which they are evaluated.

    Raises:
        RuntimeError: When a unit needs the time of one that is neither done nor to be run before it, or was measured
            on another processor or GPU.
        ValueError: When a unit was begun with other settings.
    """
    before: set[Path] = set()
    for unit in units:
        needed = [Unit(Method(name, {}), unit.seed, unit.fold, unit.root) for name in unit.method.needs]
        if unit.result is None:
            for other in needed:
                _check_same_device(other, device_name(device))
        if not any(other.folder in before and other.result is None for other in needed):
            settings = unit.settings()
            if (unit.folder / "unit.json").exists():
                unit.begin(settings, subnets, device, half)
        before.add(unit.folder)


def _check_same_device(unit: Unit, device: str) -> None:
    """Raise RuntimeError when a unit is done whose time was measured elsewhere."""
    measured = device if unit.result is None else unit.result["environment"]["device"]
    if measured != device:
        raise RuntimeError(
            f"the time of {unit.method.name}, seed {unit.seed}, fold {unit.fold} was measured on {measured}, this is "
            f"{device}: no other method can get the same time here. Leave out the methods with match_seconds, or give "
            f"another --output."
        )


def train_unit(unit: Unit, workplace: Workplace, subnets: int) -> None:
    """Train a unit, or go on where it was broken off.

    Args:
        unit: which.
        workplace: where.
        subnets: number of random subnets that are to be evaluated.

    Raises:
        ValueError: When it was begun with other settings.
        RuntimeError: When the training fails, or a unit whose time it needs is not done.
    """
    settings = unit.settings()
    unit.begin(settings, subnets, workplace.device, workplace.half)
    workplace.train(unit, progress(settings))


def evaluate_unit(unit: Unit, workplace: Workplace, subnets: int) -> dict[str, Any]:
    """Evaluate a unit that is trained, write and return its result.

    Args:
        unit: which.
        workplace: where.
        subnets: number of random subnets; those of an earlier attempt are reused.
    """
    settings, fold_folder = unit.settings(), workplace.fold_folder(unit)
    cases = unseen_cases(workplace.preprocessed, unit.fold, workplace.half)
    if unit.method.stock:
        result = stock_result(fold_folder, cases)
    else:
        model = load_trained(fold_folder.parent, unit.fold)
        named = subnets_of(model, settings.get("subnet"), subnets)
        rows = evaluate(model, named, unit.folder / "subnets.jsonl", workplace)
        result = prox_result(fold_folder, rows)
    when = {"date": datetime.now(UTC).date().isoformat(), "environment": environment(workplace.device)}
    tidy(fold_folder)
    about = {"trainer": unit.method.trainer, "settings": settings, "cases": len(cases)}
    return unit.finish({**about, **when, **result})


def subnets_of(model: TrainedModel, alone: str | None, count: int) -> list[tuple[str, SubnetConfig]]:
    """Return what is to be evaluated.

    Args:
        model: the trained model.
        alone: the subnet that was trained alone, if it was; then it is the only one.
        count: number of random subnets beside those with an alias, the same for all models of one space.
    """
    costs = model.multiply_adds()
    if alone is not None:
        return [(alone, costs.find(alone))]
    named = [(alias, costs.find(alias)) for alias in ALIASES]
    return named + [(config.name, config) for config in random_subnets(model.space, count)]


def random_subnets(space: SearchSpace, count: int) -> list[SubnetConfig]:
    """Return distinct random subnets of a space, always the same; all of them if there are no more."""
    if space.size() <= count:
        return list(space)
    rng, chosen = random.Random("paper"), {}
    while len(chosen) < count:
        chosen[space.sample(rng)] = None
    return list(chosen)


def evaluate(
    model: TrainedModel, named: list[tuple[str, SubnetConfig]], path: Path, workplace: Workplace
) -> list[dict[str, Any]]:
    """Return the rows of subnets on the workplace's half of the unseen cases."""
    rows = evaluate_trained(model, named, workplace.preprocessed, path, half=workplace.half, device=workplace.device)
    return list(tqdm(rows, total=len(named), desc="subnets", disable=None, leave=False))


def tidy(fold_folder: Path) -> None:
    """Remove the checkpoints that a finished unit no longer needs: they hold optimizer states, gigabytes in all."""
    for path in fold_folder.glob("checkpoint_*.pth"):
        if path.name != "checkpoint_final.pth":
            path.unlink()
