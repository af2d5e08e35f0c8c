"""Choosing among evaluated subnets."""

from prox_monai.search.pareto import latency_buckets, pareto_front
from prox_monai.search.study import Problem, Scored, search

__all__ = ["Problem", "Scored", "latency_buckets", "pareto_front", "search"]
