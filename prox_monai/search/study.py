"""Search: the subnets that are worth having under limits, each tried in a small space, else by an Optuna study."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prox_monai.evaluation.table import mend_lines, read_lines
from prox_monai.search.pareto import pareto_front
from prox_monai.search.proposal import make_sampler
from prox_monai.search.workers import give_up, next_trial, requeue_stale
from prox_monai.space import SearchSpace, SubnetConfig

Study = Any  # optuna.Study
Trial = Any  # optuna.trial.Trial, or FrozenTrial
_PRICED = 200  # random subnets that are priced before a limit is said to be out of reach


@dataclass(frozen=True, slots=True)
class Problem:
    """What is searched: which subnets there are, what they cost, what they are worth, and what is allowed.

    Args:
        space: the subnets.
        canonical: the one configuration that names a subnet's network, as ``Architecture.canonical``.
        costs: named costs of a subnet, for example ``latency_ms``, ``parameters``, ``macs`` (multiply-adds),
            ``memory_mb``; quick, asked of subnets that are then not scored, and growing in every dimension.
        score: Dice of a subnet; slow, asked once of each network that meets ``at_most``.
        cost: the cost that is weighed against Dice.
        at_most: upper limits by name of the cost, in its unit.
        min_dice: lower limit.
    """

    space: SearchSpace
    canonical: Callable[[SubnetConfig], SubnetConfig]
    costs: Callable[[SubnetConfig], Mapping[str, float]]
    score: Callable[[SubnetConfig], float]
    cost: str = "latency_ms"
    at_most: Mapping[str, float] = field(default_factory=dict)
    min_dice: float = 0.0

    def check(self) -> None:
        """Check that the cheapest subnet meets each limit.

        That is the smallest one, unless a cost is not quite monotone, as a predicted latency: then it is the
        cheapest of it and some random ones.

        Raises:
            ValueError: When it does not, or a cost has no such name.
        """
        smallest = self.costs(self.space.smallest())
        for name in (self.cost, *self.at_most):
            if name not in smallest:
                raise ValueError(f"cost must be one of {', '.join(smallest)}, got {name!r}.")
        for name, limit in self.at_most.items():
            if smallest[name] <= limit:
                continue
            rng = random.Random("cheapest")
            cheapest = min(self.costs(self.space.sample(rng))[name] for _ in range(_PRICED))
            if smallest[name] <= cheapest:
                raise ValueError(f"no subnet has {name} <= {limit:g}; the smallest has {smallest[name]:g}.")
            if cheapest > limit:
                raise ValueError(f"no subnet has {name} <= {limit:g}; the cheapest that was found has {cheapest:g}.")

    def allows(self, config: SubnetConfig) -> bool:
        """Return whether a subnet meets the limits on costs."""
        costs = self.costs(config)
        return all(costs[name] <= limit for name, limit in self.at_most.items())

    def to_dict(self) -> dict[str, Any]:
        """Return what identifies the problem, functions aside, as JSON primitives."""
        limits = {"at_most": dict(self.at_most), "min_dice": self.min_dice}
        return {"space": self.space.to_dict(), "cost": self.cost, **limits}


@dataclass(frozen=True, slots=True)
class Scored:
    """A subnet that meets the limits on costs.

    Args:
        config: the subnet.
        costs: its costs by name.
        dice: its Dice.
    """

    config: SubnetConfig
    costs: Mapping[str, float]
    dice: float


def search(
    problem: Problem,
    *,
    trials: int,
    seed: int = 0,
    rows: Iterable[Mapping[str, Any]] = (),
    storage: str | Path | None = None,
    model: str = "supernet",
) -> list[Scored]:
    """Find the Pareto set of cost and Dice under the limits, by increasing cost.

    A space of at most ``trials`` subnets is enumerated. In a larger one NSGA-II makes up ``trials`` subnets, the
    first of them the smallest and the largest, and a predictor of Dice screens them
    (:func:`~prox_monai.search.proposal.make_sampler`); one that comes again is not scored again, nor is one that
    exceeds a limit. What is found depends on the seed, on ``rows`` and on the trials that the storage holds.

    Args:
        problem: what is searched.
        trials: number of subnets to try at most, those of earlier runs in the storage included.
        seed: seed of the search.
        rows: rows of ``evaluate_subnets``; the scores they hold are taken over.
        storage: where the study is kept: an Optuna URL, or the path of a journal. In memory if not given.
            Enumeration does not need it: ``rows`` say what is done. Several processes and machines may share it; SQLite
            is not for network drives.
        model: name of the study in the storage: what the weights are, for example a digest.

    Raises:
        ImportError: When Optuna is needed and not installed.
        ValueError: When no subnet meets the limits; the message says what the best is. When ``trials`` is below 1,
            a cost has no such name, or the storage holds another problem for ``model``.
    """
    if trials < 1:
        raise ValueError(f"trials must be at least 1, got {trials}.")
    problem.check()
    scores = _Scores(problem)
    for row in rows:
        if row["dice"] is not None:
            scores.add(SubnetConfig.from_dict(row["config"]), row["dice"])
    if problem.space.size() <= trials:
        for config in problem.space:
            scores(config)
    else:
        _evolve(_study(problem, storage, model), problem, scores, trials, seed)
    return scores.front()


class _Scores:
    """Costs and scores of the subnets tried so far, by canonical configuration."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._costs: dict[SubnetConfig, Mapping[str, float]] = {}
        self._dice: dict[SubnetConfig, float] = {}
        self._tried: dict[SubnetConfig, Scored] = {}

    def __call__(self, config: SubnetConfig) -> tuple[Mapping[str, float], float | None]:
        """Return costs and Dice of a subnet; no Dice where it costs too much."""
        key, costs = self.problem.canonical(config), self.costs(config)
        if any(costs[name] > limit for name, limit in self.problem.at_most.items()):
            return costs, None
        if key not in self._dice:
            self._dice[key] = self.problem.score(config)
            if not math.isfinite(self._dice[key]):
                raise ValueError(f"score must give a finite Dice, got {self._dice[key]} for {config}.")
        self._tried.setdefault(key, Scored(config, costs, self._dice[key]))
        return costs, self._dice[key]

    def costs(self, config: SubnetConfig) -> Mapping[str, float]:
        """Return costs of a subnet, asked for once."""
        key = self.problem.canonical(config)
        if key not in self._costs:
            self._costs[key] = self.problem.costs(config)
        return self._costs[key]

    def knows(self, config: SubnetConfig) -> bool:
        """Return whether the Dice of a subnet is known."""
        return self.problem.canonical(config) in self._dice

    def add(self, config: SubnetConfig, dice: float) -> None:
        """Take over a Dice that is known; a subnet of the space counts as tried."""
        self._dice.setdefault(self.problem.canonical(config), dice)
        if config in self.problem.space:
            self(config)

    def front(self) -> list[Scored]:
        """Return the Pareto set of what was tried.

        Raises:
            ValueError: When nothing that was tried meets the limits, or has the least Dice asked for.
        """
        tried, least = list(self._tried.values()), self.problem.min_dice
        if not tried:
            limits = " and ".join(f"{name} <= {limit:g}" for name, limit in self.problem.at_most.items())
            cheapest = {name: min(costs[name] for costs in self._costs.values()) for name in self.problem.at_most}
            told = ", ".join(f"{name} {value:g}" for name, value in cheapest.items())
            raise ValueError(f"none of {len(self._costs)} subnets has {limits}; the least that any has is {told}.")
        good = [scored for scored in tried if scored.dice >= least]
        if not good:
            best = max(scored.dice for scored in tried)
            raise ValueError(f"none of {len(tried)} subnets has dice >= {least:g}; the best has {best:g}.")
        front = pareto_front([scored.costs[self.problem.cost] for scored in good], [scored.dice for scored in good])
        return [good[index] for index in front]


def _evolve(study: Study, problem: Problem, scores: _Scores, trials: int, seed: int) -> None:
    """Try subnets until the study has enough of them, other processes' included."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    requeue_stale(study)
    _take_over(study, problem, scores)
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    choices = list(_choices(problem.space))
    for end in ({name: 0 for name, _ in choices}, {name: len(candidates) - 1 for name, candidates in choices}):
        if end not in [trial.params for trial in done]:
            study.enqueue_trial(end, skip_if_exists=True)
    # The state of a sampler is not kept: with the same seed a continued study would draw what it has drawn before.
    study.sampler = _sampler(problem, scores, seed, len(done))
    first = True
    while (trial := next_trial(study, trials)) is not None:
        if first:  # and two processes would draw the same: no other has this number
            study.sampler, first = _sampler(problem, scores, seed, trial.number), False
        try:
            _try(study, trial, problem, scores)
        except UpdateFinishedTrialError:  # it took so long that another machine has taken it over
            continue
        except BaseException:
            give_up(study, trial, trial.params)
            raise
    _take_over(study, problem, scores)


def _try(study: Study, trial: Trial, problem: Problem, scores: _Scores) -> None:
    """Find out about the subnet of a trial."""
    costs, dice = scores(_config(trial, problem.space))
    for name, limit in problem.at_most.items():
        trial.set_constraint(name, costs[name] / limit - 1)
    if dice is not None:
        trial.set_constraint("dice", problem.min_dice - dice)
        trial.set_user_attr("dice", dice)
    study.tell(trial, [costs[problem.cost], dice or 0.0], skip_if_finished=True)


def _take_over(study: Study, problem: Problem, scores: _Scores) -> None:
    """Learn the scores that trials of all processes have found."""
    for trial in study.get_trials(deepcopy=False):
        if "dice" in trial.user_attrs:
            scores.add(_config(trial, problem.space), trial.user_attrs["dice"])


def _sampler(problem: Problem, scores: _Scores, seed: int, number: int) -> Any:
    choices = dict(_choices(problem.space))

    def config(parameters: Mapping[str, int]) -> SubnetConfig:
        return problem.space.assemble(candidates[parameters.get(name, 0)] for name, candidates in choices.items())

    def cost(parameters: Mapping[str, int]) -> tuple[float, float]:
        costs = scores.costs(config(parameters))
        return costs[problem.cost], sum(max(0.0, costs[name] / limit - 1) for name, limit in problem.at_most.items())

    return make_sampler(
        {name: len(candidates) for name, candidates in choices.items()},
        cost,
        lambda parameters: scores.knows(config(parameters)),
        random.Random(f"{seed}:{number}").getrandbits(32),
    )


def _study(problem: Problem, storage: str | Path | None, model: str) -> Study:
    try:
        import optuna
    except ImportError as error:
        raise ImportError('search needs Optuna: pip install "prox-monai[search]"') from error
    opened = _opened(storage)
    try:
        study = optuna.create_study(
            study_name=model, storage=opened, directions=["minimize", "maximize"], load_if_exists=True
        )
    except Exception as error:  # of whatever database the URL names
        raise ValueError(f"storage {storage} cannot be opened: {error}") from error
    stored, asked = study.user_attrs.get("problem"), problem.to_dict()
    if stored is None:
        study.set_user_attr("problem", asked)
    elif stored != asked:
        name = next(name for name in asked if stored[name] != asked[name])
        raise ValueError(
            f"{storage} holds a search of {model!r} with {name} {stored[name]}, not {asked[name]}; "
            f"give another storage."
        )
    return study


def _opened(storage: str | Path | None) -> Any:
    """The storage; a journal whose last entry was cut off by a crash is mended, as Optuna does not."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    if storage is None or "://" in str(storage):
        return storage
    storage = Path(storage).resolve()
    if not storage.exists():
        storage.touch()
    lock = JournalFileSymlinkLock(str(storage))  # a link to it, whose age is the file's: it must lead there
    lock.acquire()
    try:
        mend_lines(storage)
        if any("op_code" not in entry for entry in read_lines(storage)):
            raise ValueError("an entry is no operation of Optuna's.")
    except ValueError as error:
        raise ValueError(
            f"storage must be an Optuna URL, such as sqlite:///study.db, or the path of a journal; {storage} is no "
            f"journal."
        ) from error
    finally:
        lock.release()
    return JournalStorage(JournalFileBackend(str(storage), lock_obj=lock))


def _choices(space: SearchSpace) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The name and the candidates of each choice."""
    return ((f"choice_{index}", candidates) for index, candidates in enumerate(space.choices()))


def _config(trial: Trial, space: SearchSpace) -> SubnetConfig:
    """The subnet of a trial, whose parameters are the indices of the candidates."""
    return space.assemble(
        candidates[trial.suggest_int(name, 0, len(candidates) - 1)] for name, candidates in _choices(space)
    )
