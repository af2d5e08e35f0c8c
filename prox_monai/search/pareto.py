"""What is worth having: the Pareto front of cost and value, and buckets of equal latency (ProX, figure 4)."""

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
