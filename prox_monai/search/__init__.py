"""Choosing among evaluated subnets."""

from prox_monai.search.pareto import latency_buckets, pareto_front

__all__ = ["latency_buckets", "pareto_front"]
