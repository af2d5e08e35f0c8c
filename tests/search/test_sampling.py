from __future__ import annotations

from prox_monai.search.sampling import random_subnets
from prox_monai.space import SearchSpace

SPACE = SearchSpace(2, (1, 2), (0.5, 1.0), (3,), (1.0,))  # 16


def test_distinct_and_always_the_same():
    drawn = random_subnets(SPACE, 10, seed=3)
    assert len(set(drawn)) == 10
    assert drawn == random_subnets(SPACE, 10, seed=3)
    assert drawn != random_subnets(SPACE, 10, seed=4)
    assert drawn[:5] == random_subnets(SPACE, 5, seed=3)


def test_as_many_as_there_are():
    unwanted = [SPACE.smallest()]
    assert sorted(random_subnets(SPACE, 99, without=unwanted)) == sorted(set(SPACE) - set(unwanted))
    assert SPACE.smallest() not in random_subnets(SPACE, 14, without=unwanted)
