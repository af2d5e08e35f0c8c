from __future__ import annotations

import random

import pytest

from prox_monai.search import latency_buckets, pareto_front
from prox_monai.search.pareto import hypervolume


def points(count: int) -> tuple[list[float], list[float]]:
    rng = random.Random(count)
    return [rng.randint(0, 9) for _ in range(count)], [rng.randint(0, 9) for _ in range(count)]


def test_front_of_five_points():
    assert pareto_front([1, 2, 2, 3, 4], [0.5, 0.4, 0.7, 0.7, 0.9]) == [0, 2, 4]


@pytest.mark.parametrize("count", [1, 2, 10, 60])
def test_front_is_what_nothing_beats(count):
    costs, values = points(count)

    def beaten(i: int) -> bool:
        return any(
            costs[j] <= costs[i] and values[j] >= values[i] and (costs[j], values[j]) != (costs[i], values[i])
            for j in range(count)
        )

    front = pareto_front(costs, values)
    assert {(costs[i], values[i]) for i in front} == {(costs[i], values[i]) for i in range(count) if not beaten(i)}
    along = [(costs[i], values[i]) for i in front]
    assert along == sorted(set(along))
    assert [value for _, value in along] == sorted(value for _, value in along)


def test_front_of_nothing():
    assert pareto_front([], []) == []


def test_front_wants_a_value_per_cost():
    with pytest.raises(ValueError, match="costs and values must be as many, got 2 and 1."):
        pareto_front([1, 2], [1])


def test_buckets_hold_equally_many():
    latencies = list(range(12))
    random.Random(0).shuffle(latencies)
    buckets = latency_buckets(latencies, 4)
    assert [buckets.count(bucket) for bucket in range(4)] == [3, 3, 3, 3]


@pytest.mark.parametrize("buckets", [1, 2, 5, 20])
def test_a_slower_subnet_is_never_in_a_faster_bucket(buckets):
    latencies = points(20)[0]
    found = [bucket for _, bucket in sorted(zip(latencies, latency_buckets(latencies, buckets), strict=True))]
    assert found == sorted(found)
    assert set(found) <= set(range(buckets))


@pytest.mark.parametrize("buckets", [0, 4])
def test_as_many_buckets_as_latencies_at_most(buckets):
    with pytest.raises(ValueError, match=rf"buckets must be in 1 ... 3, got {buckets}."):
        latency_buckets([1, 2, 3], buckets)


def test_hypervolume_of_three_steps():
    """Up to a cost of 10 and down to a value of 0: 2 x 1, then 4 x 3, then 3 x 4."""
    points = [(1, 1), (3, 3), (7, 4), (8, 2), (11, 9), (2, 0)]
    assert hypervolume(points, (10, 0)) == 2 * 1 + 4 * 3 + 3 * 4


def test_hypervolume_grows_with_what_nothing_beats_only():
    along = [(1, 1), (3, 3)]
    before = hypervolume(along, (10, 0))
    assert hypervolume([*along, (4, 3)], (10, 0)) == before
    assert hypervolume([*along, (2, 2)], (10, 0)) > before
    assert hypervolume([], (10, 0)) == 0
