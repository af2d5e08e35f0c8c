from __future__ import annotations

import random

import pytest

from prox_monai.search.surrogate import DicePredictor


def dice(point: list[float]) -> float:
    """Two choices help, two more do so together only."""
    return 0.8 + 0.05 * point[0] + 0.02 * point[1] + 0.03 * point[2] * point[3]


def draw(count: int, seed: int) -> list[list[float]]:
    rng = random.Random(seed)
    return [[rng.choice((-1.0, 0.0, 1.0)) for _ in range(6)] for _ in range(count)]


def test_it_predicts_what_it_has_not_seen():
    seen, unseen = draw(200, 1), draw(50, 2)
    predict = DicePredictor(seen, [dice(point) for point in seen])
    assert predict(unseen) == pytest.approx([dice(point) for point in unseen], abs=0.012)
    errors = [predicted - dice(point) for predicted, point in zip(predict(unseen), unseen, strict=True)]
    assert sum(error**2 for error in errors) < 0.05 * sum((dice(point) - 0.8) ** 2 for point in unseen)


def test_what_is_all_alike_is_predicted_so():
    points = draw(30, 3)
    assert DicePredictor(points, [0.7] * 30)(draw(5, 4)) == pytest.approx([0.7] * 5)
