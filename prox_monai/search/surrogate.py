"""A predictor of Dice from what was scored so far."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_NOISE = 0.3


class DicePredictor:
    """Ridge regression of Dice on choices and on all their products of two.

    Products are weighed as by the kernel ``(1 + x y / n) ** 2`` of ``n`` choices: less than the choices themselves.

    Args:
        points: subnets that were scored, each as numbers in [-1, 1], one per choice.
        dice: of each.
    """

    def __init__(self, points: Sequence[Sequence[float]], dice: Sequence[float]) -> None:
        features, values = _features(points), torch.tensor(dice, dtype=torch.double)
        self._mean = values.mean()
        ridge = _NOISE * torch.eye(features.shape[1], dtype=torch.double)
        self._weights = torch.linalg.solve(features.T @ features + ridge, features.T @ (values - self._mean))

    def __call__(self, points: Sequence[Sequence[float]]) -> list[float]:
        """Return the predicted Dice of subnets."""
        return (self._mean + _features(points) @ self._weights).tolist()


def _features(points: Sequence[Sequence[float]]) -> Tensor:
    x = torch.tensor(points, dtype=torch.double)
    choices = x.shape[1]
    first, second = torch.triu_indices(choices, choices, 1)
    products = [x * math.sqrt(2 / choices), x**2 / choices, x[:, first] * x[:, second] * (math.sqrt(2) / choices)]
    return torch.cat([torch.ones(len(x), 1, dtype=torch.double), *products], 1)
