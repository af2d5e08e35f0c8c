"""Search of a trained model: found on the tuning half of the unseen cases, reported on the other half."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from prox_monai.data.complete import complete_file
from prox_monai.data.json_file import read_json
from prox_monai.elastic.resolution import AtResolution
from prox_monai.elastic.skeleton import build_skeleton
from prox_monai.evaluation.memory import tensor_bytes
from prox_monai.evaluation.subnets import read_rows
from prox_monai.integrations.nnunet.trained import TrainedModel
from prox_monai.integrations.nnunet.unseen import check_conditions, trained_evaluator
from prox_monai.search.predictor import SubnetLatency
from prox_monai.search.study import Problem, Scored, search
from prox_monai.space import SubnetConfig

PICTURE = "pareto.png"
_RESULTS = ("tuning.jsonl", "study.log", "front.json")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is searched for.

    Args:
        cost: the cost that is weighed against Dice; latency where it is known, else multiply-adds, if not given.
        at_most: upper limits by name of the cost: ``latency_ms``, ``parameters``, ``macs``, ``memory_mb``.
        min_dice: lower limit, on the tuning half, in [0, 1].
        trials: number of subnets to try at most.
        seed: of the search.
    """

    cost: str | None = None
    at_most: Mapping[str, float] = field(default_factory=dict)
    min_dice: float = 0.0
    trials: int = 300
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """What was found.

    Args:
        cost: the cost that was weighed against Dice.
        front: the Pareto set, by increasing cost.
        tuning: rows of all subnets that were scored, on the tuning half.
        reporting: rows of the Pareto set, on the reporting half.
    """

    cost: str
    front: list[Scored]
    tuning: list[dict[str, Any]]
    reporting: list[dict[str, Any]]


def search_trained(
    model: TrainedModel,
    wanted: Wanted,
    preprocessed: Path,
    output: str | Path,
    *,
    latency: SubnetLatency | None = None,
    storage: str | Path | None = None,
    device: str = "cpu",
    scored: Callable[[], object] = lambda: None,
) -> Found:
    """Find the Pareto set of a trained model under limits, and score it on cases that played no part in it.

    In the output folder are ``tuning.jsonl`` and ``reporting.jsonl``, the rows of ``evaluate_subnets``, the study in
    ``study.log``, and ``front.json``. What is there already is not done again, a front of other limits is kept; several
    processes and machines may work in one folder at once. The rows of the reporting half are timed in torch, too, where
    that compares with the times that are there.

    Args:
        model: the trained model.
        wanted: what is searched for.
        preprocessed: nnU-Net's folder of the preprocessed data set.
        output: folder of the results.
        latency: of subnets; without it latency can neither be limited nor weighed.
        storage: where the study is kept, if not in the folder: an Optuna URL, or the path of a journal.
        device: where to predict.
        scored: called after each subnet that was scored.

    Raises:
        ImportError: When Optuna is needed and not installed.
        FileExistsError: When the output folder holds something, and nothing of a search.
        FileNotFoundError: When the preprocessed data or their split are not there.
        ValueError: When no subnet meets the limits; the message says what the best is. When a cost has no such name, or
            the folder holds rows of another model.
    """
    output = _opened(Path(output))
    tuning, reporting = output / "tuning.jsonl", output / "reporting.jsonl"
    evaluate = trained_evaluator(model, preprocessed, tuning, half="tuning", device=device, repeats=0)
    timed = {} if _may_be_timed(reporting, model, device) else {"repeats": 0}
    report = trained_evaluator(model, preprocessed, reporting, half="reporting", device=device, **timed)

    def score(config: SubnetConfig) -> float:
        (row,) = evaluate([(config.name, config)])
        scored()
        return math.nan if row["dice"] is None else row["dice"]

    problem = _problem(model, wanted, latency, score)
    if problem.space.size() <= wanted.trials:  # where several processes enumerate, each takes what no other one does
        problem.check()
        for _ in evaluate((config.name, config) for config in problem.space if problem.allows(config)):
            scored()
    front = search(
        problem,
        trials=wanted.trials,
        seed=wanted.seed,
        rows=read_rows(tuning, model.digest),
        storage=storage or output / "study.log",
        model=f"{model.digest}-{_digest(problem, latency)}",
    )
    allowed = (row for row in read_rows(tuning, model.digest) if problem.allows(SubnetConfig.from_dict(row["config"])))
    by_name = {row["name"]: row for row in report([(subnet.config.name, subnet.config) for subnet in front])}
    reported = [by_name[subnet.config.name] for subnet in front]  # those that another process had begun come last
    both = ([_with_latency(row, latency) for row in rows] for rows in (allowed, reported))
    found = Found(problem.cost, front, *both)
    _write_front(found, output / "front.json", problem, latency, model.digest)
    return found


def _opened(output: Path) -> Path:
    """Make the output folder, or find that it is a search's."""
    there = [path.name for path in output.iterdir()] if output.is_dir() else []
    if there and not any(name.startswith(_RESULTS) for name in there):  # claims and locks come before the first row
        raise FileExistsError(f"{output} holds something else than a search; choose another folder.")
    output.mkdir(parents=True, exist_ok=True)
    return output


def _digest(problem: Problem, latency: SubnetLatency | None) -> str:
    """What identifies the question in a study that several share."""
    about = json.dumps([problem.to_dict(), latency and str(latency.predictor.conditions)])
    return hashlib.sha256(about.encode()).hexdigest()[:12]


def read_front(path: Path) -> dict[str, Any]:
    """Return what a ``front.json`` holds, nothing where it is something else.

    Raises:
        ValueError: When it is damaged.
    """
    front = read_json(path)
    return front if isinstance(front, dict) else {}


def _may_be_timed(reporting: Path, model: TrainedModel, device: str) -> bool:
    """Whether latencies that are taken here compare with those of a table; what is searched for does not need them."""
    try:
        check_conditions(reporting, model, device)
    except ValueError as error:
        logger.warning("subnets are not timed here: %s", error)
        return False
    return all(row["latency_ms"] is not None for row in read_rows(reporting, model.digest))


def _problem(
    model: TrainedModel, wanted: Wanted, latency: SubnetLatency | None, score: Callable[[SubnetConfig], float]
) -> Problem:
    architecture = model.supernet.architecture
    if latency is None and "latency_ms" in {wanted.cost, *wanted.at_most}:
        raise ValueError("latency is limited or weighed, but there is no latency table; prox-monai latency writes one.")

    cost = wanted.cost or ("latency_ms" if latency else "macs")
    asked = {cost, *wanted.at_most}  # the search prices many subnets that it then does not score

    def memory_mb(config: SubnetConfig) -> float:
        network = AtResolution(build_skeleton(architecture, config).network, architecture.stride, config.resolution)
        return tensor_bytes(network, model.input_shape) / 1e6

    def parameter_count(config: SubnetConfig) -> int:
        return sum(map(math.prod, model.supernet.parameter_shapes(config).values()))

    known: dict[str, Callable[[SubnetConfig], float]] = {
        "parameters": parameter_count,
        "macs": model.multiply_adds(),
        "memory_mb": memory_mb,
        **({"latency_ms": latency} if latency else {}),
    }
    return Problem(
        model.space,
        architecture.canonical,
        cache(lambda config: {name: known[name](config) for name in known if name in asked}),
        score,
        cost=cost,
        at_most=dict(wanted.at_most),
        min_dice=wanted.min_dice,
    )


def _with_latency(row: Mapping[str, Any], latency: SubnetLatency | None) -> dict[str, Any]:
    """A row with the latency that was searched by in place of torch's."""
    if latency is None:
        return dict(row)
    conditions = latency.predictor.conditions
    about = {"q1_ms": None, "q3_ms": None, "predicted": True, **asdict(conditions)}
    return {**row, "latency_ms": latency(SubnetConfig.from_dict(row["config"])), "latency": about}


def _write_front(found: Found, path: Path, problem: Problem, latency: SubnetLatency | None, model: str) -> None:
    """Write what was found; another process that writes the same at this moment does no harm.

    The front of another question, with other limits for example, is kept under the name ``front-1.json``, its picture
    likewise.
    """
    subnets = [
        {
            "subnet": scored.config.name,
            "config": scored.config.to_dict(),
            "latency_ms": row["latency_ms"],
            "parameters": row["parameters"],
            "macs": row["macs"],
            "memory_bytes": row["memory_bytes"],
            "dice_tuning": scored.dice,
            "dice_reporting": row["dice"],
            "dice_reporting_interval": row["dice_interval"],
        }
        for scored, row in zip(found.front, found.reporting, strict=True)
    ]
    question = {
        "model": model,
        "cost": problem.cost,
        "at_most": dict(problem.at_most),
        "min_dice": problem.min_dice,
        "space_size": problem.space.size(),
        "latency": asdict(latency.predictor.conditions) if latency else None,
    }
    if path.exists():
        before = read_front(path)
        if {name: before.get(name) for name in question} != question:
            kept = next(free for i in count(1) if not (free := path.with_stem(f"{path.stem}-{i}")).exists())
            path.rename(kept)
            if (picture := path.with_name(PICTURE)).exists():
                picture.rename(kept.with_name(f"{picture.stem}{kept.stem.removeprefix(path.stem)}{picture.suffix}"))
    about = {**question, "scored": len(found.tuning)}
    with complete_file(path) as partial:
        partial.write_text(json.dumps({**about, "subnets": subnets}, indent=1))
