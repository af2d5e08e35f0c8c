"""Which subnet is tried next: of several children of NSGA-II, the one that promises most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prox_monai.search.pareto import hypervolume, pareto_front
from prox_monai.search.surrogate import DicePredictor

Study = Any  # optuna.Study
Trial = Any  # optuna.trial.FrozenTrial
Parameters = dict[str, int]

_POPULATION = 20
_CHILDREN = 16
_MIN_SCORED = 20


def make_sampler(
    choices: Mapping[str, int],
    cost: Callable[[Parameters], tuple[float, float]],
    tried: Callable[[Parameters], bool],
    seed: int,
) -> Any:
    """Return a sampler of an Optuna study of cost and Dice: NSGA-II whose children are screened before one is scored.

    What a child costs is known, and what it is worth can be predicted once some subnets have been scored. So of 16
    children that are new and meet the limits, the one is taken that adds most to what the Pareto set dominates, by
    its cost and its predicted Dice. ``benchmarks/search.py`` measures what that gains over random subnets.

    Args:
        choices: number of candidates of each choice, by the name of its parameter.
        cost: of parameters: the cost that is weighed, and by how much limits are exceeded, 0 where they are met.
        tried: whether the subnet of parameters has been scored.
        seed: of the draw.
    """
    import numpy as np
    from optuna.distributions import IntDistribution
    from optuna.samplers import NSGAIISampler

    free = {name: count for name, count in choices.items() if count > 1}
    rng = np.random.default_rng(seed)

    class Screened(NSGAIISampler):
        def infer_relative_search_space(self, study: Study, trial: Trial) -> dict[str, Any]:
            return {name: IntDistribution(0, count - 1) for name, count in free.items()}

        def sample_relative(self, study: Study, trial: Trial, search_space: dict[str, Any]) -> Parameters:
            if "fixed_params" in trial.system_attrs:  # was queued
                return {}
            children = (super(Screened, self).sample_relative(study, trial, search_space) for _ in range(_CHILDREN))
            whole = [
                {name: int(child.get(name, rng.integers(count))) for name, count in free.items()} for child in children
            ]  # what NSGA-II mutates, or all in the first generation, is left to chance
            return _best(whole, study, free, cost, tried)

    return Screened(population_size=_POPULATION, seed=seed)


def _best(
    children: Sequence[Parameters],
    study: Study,
    choices: Mapping[str, int],
    cost: Callable[[Parameters], tuple[float, float]],
    tried: Callable[[Parameters], bool],
) -> Parameters:
    children = [child for child in children if not tried(child)] or list(children)
    scored = _scored(study)
    if len(scored) < _MIN_SCORED:
        return next((child for child in children if cost(child)[1] == 0), children[0])
    priced = [(child, *cost(child)) for child in children]
    least = min(excess for _, _, excess in priced)
    priced = [(child, price) for child, price, excess in priced if excess == least]
    predict = DicePredictor([_point(trial.params, choices) for trial, _, _ in scored], [dice for _, _, dice in scored])
    worth = predict([_point(child, choices) for child, _ in priced])
    prices, dices = zip(*((price, dice) for _, price, dice in scored), strict=True)
    worst = max(prices) * 1.001, min(dices) - 1e-3
    front = [(prices[index], dices[index]) for index in pareto_front(prices, dices)]
    gains = [hypervolume([*front, (price, dice)], worst) for (_, price), dice in zip(priced, worth, strict=True)]
    return priced[gains.index(max(gains))][0]


def _scored(study: Study) -> list[tuple[Trial, float, float]]:
    """The trials of all processes that have a Dice and meet the limits: each with its cost and its Dice."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [(trial, trial.values[0], trial.user_attrs["dice"]) for trial in trials if "dice" in trial.user_attrs]


def _point(parameters: Mapping[str, int], choices: Mapping[str, int]) -> list[float]:
    """Parameters as numbers in [-1, 1]."""
    return [2 * parameters[name] / (count - 1) - 1 for name, count in choices.items()]
