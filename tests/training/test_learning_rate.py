from __future__ import annotations

import pytest

from prox_monai.space import PhaseSchedule, SearchSpace
from prox_monai.training.learning_rate import learning_rate

SCHEDULE = PhaseSchedule.prox(SearchSpace(1, (1,), (0.5, 1), (3,)), [10, 20])


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        (0, 0.1),
        (0.5, 0.5),
        (1, 1),
        (5.5, 0.55),
        (10 - 1e-9, 0.1),
        (10, 0.1),
        (12, 1),
        (21, 0.5),
        (30 - 1e-9, 0),
    ],
)
def test_warm_up_and_cosine_of_every_phase(position, expected):
    """Half of the cosine is reached in the middle of what follows the warm-up."""
    assert learning_rate(SCHEDULE, position, 3.0) == pytest.approx(3 * expected, abs=1e-6)


@pytest.mark.parametrize(
    ("position", "expected"), [(0, 0.1), (1.5, 0.5), (3, 1), (10, 0.843121), (16.5, 0.5), (30 - 1e-9, 0)]
)
def test_one_warm_up_and_cosine_over_all_phases(position, expected):
    assert learning_rate(SCHEDULE, position, 3.0, "training") == pytest.approx(3 * expected, abs=1e-5)


@pytest.mark.parametrize(("position", "share"), [(0.5, 1), (1, 1), (5.5, 1), (10, 0.25), (12, 0.25), (21, 0.25)])
def test_fine_tuning_is_lower_after_the_first_phase(position, share):
    expected = share * learning_rate(SCHEDULE, position, 3.0)
    assert learning_rate(SCHEDULE, position, 3.0, "fine_tuning") == pytest.approx(expected)


def test_constant():
    assert {learning_rate(SCHEDULE, position, 3.0, "constant") for position in range(30)} == {3.0}


def test_an_unknown_decay_is_refused():
    with pytest.raises(ValueError, match=r"decay must be one of \('phase', 'fine_tuning', .*\), got 'step'"):
        learning_rate(SCHEDULE, 0, 1.0, "step")
