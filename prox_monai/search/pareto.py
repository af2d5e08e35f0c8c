"""What is worth having: the Pareto front, what it dominates, and buckets of equal latency (ProX, figure 4)."""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections.abc import Sequence


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Return the indices of the points that no other point beats in both, by increasing cost.

    Args:
        costs: less is better.
        values: more is better.

    Raises:
        ValueError: When the two differ in length.
    """
    if len(costs) != len(values):
        raise ValueError(f"costs and values must be as many, got {len(costs)} and {len(values)}.")
    front: list[int] = []
    for index in sorted(range(len(costs)), key=lambda i: (costs[i], -values[i])):
        if not front or values[index] > values[front[-1]]:
            front.append(index)
    return front


def hypervolume(points: Sequence[tuple[float, float]], worst: tuple[float, float]) -> float:
    """Return the area that points dominate, up to a cost and down to a value.

    Args:
        points: cost and value of each.
        worst: the largest cost and the least value that count.
    """
    inside = [(cost, value) for cost, value in points if cost < worst[0] and value > worst[1]]
    if not inside:
        return 0.0
    front = [inside[index] for index in pareto_front(*zip(*inside, strict=True))]
    ends = [*(cost for cost, _ in front[1:]), worst[0]]
    return sum((end - cost) * (value - worst[1]) for (cost, value), end in zip(front, ends, strict=True))


def latency_buckets(latencies: Sequence[float], buckets: int) -> list[int]:
    """Return for each latency the quantile bucket it falls in, from 0, the fastest.

    Raises:
        ValueError: When ``buckets`` is below 1 or above the number of latencies.
    """
    if not 1 <= buckets <= len(latencies):
        raise ValueError(f"buckets must be in 1 ... {len(latencies)}, got {buckets}.")
    if buckets == 1:
        return [0] * len(latencies)
    edges = statistics.quantiles(latencies, n=buckets, method="inclusive")
    return [bisect_left(edges, latency) for latency in latencies]
