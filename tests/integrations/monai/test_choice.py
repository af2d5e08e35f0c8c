"""Which subnets are run: named, sampled, the best within a budget."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

if find_spec("monai") is None or find_spec("ignite") is None:
    pytest.skip('needs MONAI and ignite: pip install "prox-monai[monai]"', allow_module_level=True)

from prox_monai.evaluation.multiply_adds import MultiplyAdds
from prox_monai.integrations.monai.choice import LargestOfPhase, SubnetChoice, best_within, random_subnets
from prox_monai.space import PhaseSchedule
from prox_monai.training import ProgressiveTraining


def row(name: str, score: float | None, latency: float) -> dict[str, object]:
    clock = {"device": "processor", "threads": 2}
    return {"name": name, "key": name, "score": score, "latency_ms": latency, "latency": clock}


@pytest.fixture
def costs(plain_family) -> MultiplyAdds:
    return MultiplyAdds(plain_family.supernet(), (1, 8, 8))


def test_subnets_are_chosen_by_alias_and_name(costs):
    space = costs.space
    name = "d2-w.5-k3-r.5"
    chosen = SubnetChoice(["smallest", "middle", "largest", name])(costs, [])
    assert chosen == [
        ("smallest", space.smallest()),
        ("middle", costs.middle()),
        ("largest", space.largest()),
        (name, space.parse(name)),
    ]
    assert SubnetChoice("smallest")(costs, []) == SubnetChoice(["smallest"])(costs, [])
    assert SubnetChoice()(costs, []) == [("largest", space.largest())]


def test_an_unknown_name_is_refused(costs):
    with pytest.raises(ValueError, match="no subnet .*'tiny'.* smallest, largest, and middle"):
        SubnetChoice(["largest", "tiny"])(costs, [])


def test_random_subnets_come_beside_the_named_ones(costs):
    chosen = SubnetChoice(["smallest", "largest"], per_bucket=3, buckets=4, seed=5)(costs, [])
    assert [name for name, _ in chosen[:2]] == ["smallest", "largest"]
    assert len({config for _, config in chosen}) == len(chosen) == 2 + 3 * 4
    assert all(config in costs.space and config.name == name for name, config in chosen[2:])


def test_random_subnets_are_a_function_of_the_seed(costs):
    first, again, other = (SubnetChoice(per_bucket=3, seed=seed)(costs, []) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_there_are_at_most_all_subnets(costs):
    """More than there are, or just as many: every one once, and the draw ends."""
    space = costs.space
    for count in (space.size(), space.size() - 1, 10 * space.size()):
        drawn = random_subnets(space, count, without={space.largest()})
        assert sorted(drawn) == sorted(set(space) - {space.largest()})
    most = random_subnets(space, space.size() - 2, without={space.largest()})
    assert len(set(most) - {space.largest()}) == space.size() - 2
    assert random_subnets(space, 0) == []


def test_the_best_within_the_budget_is_chosen():
    rows = [row("slow", 0.9, 30), row("twin", 0.8, 9), row("fast", 0.8, 8), row("poor", 0.7, 1), row("none", None, 1)]
    assert best_within(rows, 40)["name"] == "slow"
    assert best_within(rows, 30)["name"] == "slow"
    assert best_within(rows, 29)["name"] == "fast"
    assert best_within(rows, 7)["name"] == "poor"


def test_scores_of_other_cases_or_metrics_are_not_compared():
    old = [row("a", 0.99, 1) | {"metric": "dice", "data": "one"}, row("b", 0.98, 1) | {"metric": "accuracy"}]
    new = [row("c", 0.7, 1) | {"metric": "dice", "data": "two"}, row("d", 0.6, 1) | {"metric": "dice", "data": "two"}]
    assert best_within(old + new, 5)["name"] == "c"


def test_a_budget_that_none_meets_says_what_the_fastest_takes():
    message = r"no known subnet has a latency <= 0\.5 ms; the fastest, poor, takes 1\.2 ms on processor, threads: 2\."
    with pytest.raises(ValueError, match=message):
        best_within([row("slow", 0.9, 30), row("poor", 0.7, 1.23)], 0.5)


@pytest.mark.parametrize("rows", [[], [row("none", None, 1)]])
def test_a_budget_needs_subnets_that_are_known(rows):
    message = "no subnet is known yet, so none can be chosen by max_latency_ms 5; .* of a bundle .* of Auto3DSeg"
    with pytest.raises(ValueError, match=message):
        best_within(rows, 5)


def test_the_budget_chooses_from_the_rows(costs):
    known = row("d1-w1-k3-r1", 0.5, 2) | {"config": costs.space.parse("d1-w1-k3-r1").to_dict()}
    chosen = SubnetChoice(["smallest", "largest"], max_latency_ms=3)(costs, [known])
    assert chosen == [("d1-w1-k3-r1", costs.space.parse("d1-w1-k3-r1"))]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"per_bucket": -1}, "per_bucket must be an integer >= 0, got -1"),
        ({"per_bucket": 1.5}, "per_bucket must be an integer >= 0, got 1.5"),
        ({"buckets": 0}, "buckets must be an integer >= 1, got 0"),
        ({"per_bucket": 2, "max_latency_ms": 5}, "max_latency_ms runs one subnet, per_bucket samples many: .* 5 and 2"),
    ],
)
def test_numbers_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SubnetChoice(**fields)


def test_a_training_validates_the_largest_of_its_phase(plain_family, costs):
    schedule = PhaseSchedule.prox(plain_family.space, 5)
    training = ProgressiveTraining(plain_family.supernet(), schedule)
    choice = LargestOfPhase(training)
    for epoch in range(schedule.total_epochs):
        training.begin_epoch(epoch)
        assert choice(costs, []) == [("largest", schedule.phase_at(epoch).largest())]


@pytest.mark.parametrize("limit", [-1, float("nan"), "fast", True])
def test_a_budget_is_a_number(limit):
    with pytest.raises(ValueError, match=r"max_latency_ms must be a number >= 0 or null, got "):
        SubnetChoice(max_latency_ms=limit)
