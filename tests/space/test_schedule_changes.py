"""Schedules that end a dimension early, and that go on after their end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prox_monai.space import PhaseSchedule, SearchSpace, Stage

SPACE = SearchSpace(3, (1, 2, 3), (0.5, 1), (3, 5, 7), (0.8, 1))
SCHEDULE = PhaseSchedule.prox(SPACE, [1, 2, 3, 4, 5, 6, 7, 8], polish=True)


def rows(schedule: PhaseSchedule) -> list[tuple]:
    """Stage, length, candidates and teacher of each phase."""
    return [
        (
            str(phase.stage),
            phase.epochs,
            phase.space.depth,
            phase.space.width,
            phase.space.kernel,
            phase.space.resolution,
            None if phase.teacher is None else str(phase.teacher),
        )
        for phase in schedule.phases
    ]


def test_a_stop_drops_later_candidates_of_the_dimension():
    stopped = SCHEDULE.stopped(SCHEDULE.phases[1])
    assert rows(stopped) == [
        ("depth", 1, (1,), (0.5,), (3,), (0.8,), None),
        ("depth", 2, (1, 2), (0.5,), (3,), (0.8,), "d1-w.5-k3-r.8"),
        ("width", 4, (1, 2), (0.5, 1), (3,), (0.8,), "d2-w.5-k3-r.8"),
        ("kernel", 5, (1, 2), (0.5, 1), (3, 5), (0.8,), "d2-w1-k3-r.8"),
        ("kernel", 6, (1, 2), (0.5, 1), (3, 5, 7), (0.8,), "d2-w1-k5-r.8"),
        ("resolution", 7, (1, 2), (0.5, 1), (3, 5, 7), (0.8, 1), "d2-w1-k7-r.8"),
        ("polish", 8, (1, 2), (0.5, 1), (3, 5, 7), (0.8, 1), None),
    ]
    assert [str(config) for config in stopped.phases[-1].fixed] == ["d2-w1-k7-r1", "d1-w.5-k3-r.8"]


def test_what_is_done_stays_when_a_dimension_ends():
    """The phase of an epoch that is over never changes, which resuming relies on."""
    for phase in SCHEDULE.phases[:-1]:
        assert SCHEDULE.stopped(phase).phases[: phase.index + 1] == SCHEDULE.phases[: phase.index + 1]


def test_a_stop_at_the_last_candidate_of_a_dimension_changes_nothing():
    for index in (2, 3, 5, 6):
        assert SCHEDULE.stopped(SCHEDULE.phases[index]) == SCHEDULE


def test_two_stops_do_not_depend_on_their_order():
    depth_first = SCHEDULE.stopped(SCHEDULE.phases[1])
    both = depth_first.stopped(depth_first.phases[3])
    assert [phase.space.kernel for phase in both.phases] == [(3,), (3,), (3,), (3, 5), (3, 5), (3, 5)]
    assert {phase.space.depth for phase in both.phases} == {(1,), (1, 2)}


def test_a_stop_may_be_the_end():
    schedule = PhaseSchedule.prox(SearchSpace(3, (1,), (1,), (3,), (0.6, 0.8, 1)), 3)
    assert schedule.stopped(schedule.phases[1]).total_epochs == 2


def test_where_depth_and_width_are_coupled_a_stop_of_one_ends_both():
    space = SearchSpace(3, (1, 2, 3), (0.25, 0.5, 1), (3, 5)).coupled()
    schedule = PhaseSchedule.prox(space, 9)
    first_width = next(phase for phase in schedule.phases if phase.stage == Stage.WIDTH)
    stopped = schedule.stopped(first_width)
    assert [str(phase.stage) for phase in stopped.phases] == ["depth", "width", "kernel"]
    assert stopped.phases[-1].space.width == (0.25, 0.5)


def test_polishing_ends_no_dimension():
    with pytest.raises(ValueError, match="must be one of depth, width, kernel, resolution, got polish"):
        SCHEDULE.stopped(SCHEDULE.phases[-1])


def test_an_extension_adds_a_phase_per_candidate():
    space = replace(SPACE, depth=(1, 2, 3, 4), width=(0.5, 1, 2), kernel=(3, 5, 7, 9, 11))
    extended = SCHEDULE.extended(space, [1, 2, 3, 4, 5])
    assert extended.phases[:8] == SCHEDULE.phases
    assert rows(extended)[8:] == [
        ("depth", 1, (1, 2, 3, 4), (0.5, 1), (3, 5, 7), (0.8, 1), "d3-w1-k7-r1"),
        ("width", 2, (1, 2, 3, 4), (0.5, 1, 2), (3, 5, 7), (0.8, 1), "d4-w1-k7-r1"),
        ("kernel", 3, (1, 2, 3, 4), (0.5, 1, 2), (3, 5, 7, 9), (0.8, 1), "d4-w2-k7-r1"),
        ("kernel", 4, (1, 2, 3, 4), (0.5, 1, 2), (3, 5, 7, 9, 11), (0.8, 1), "d4-w2-k9-r1"),
        ("polish", 5, (1, 2, 3, 4), (0.5, 1, 2), (3, 5, 7, 9, 11), (0.8, 1), None),
    ]
    assert all((phase.random, phase.fixed) == (1, ()) for phase in extended.phases[8:-1])
    assert extended.phases[-1].fixed == (space.largest(), space.smallest())


def test_an_extension_is_polished_where_the_schedule_was():
    plain = PhaseSchedule.prox(SPACE, 16)
    extended = plain.extended(replace(SPACE, depth=(1, 2, 3, 4)), 2)
    assert [phase.stage for phase in extended.phases[len(plain.phases) :]] == ["depth"]


def test_epochs_of_an_extension_are_split():
    extended = SCHEDULE.extended(replace(SPACE, depth=(1, 2, 3, 4), width=(0.5, 1, 2)), 6)
    assert [phase.epochs for phase in extended.phases[8:]] == [2, 3, 1]
    assert extended.total_epochs == SCHEDULE.total_epochs + 6


@pytest.mark.parametrize(
    ("changes", "epochs", "message"),
    [
        ({}, 3, "an extension needs a candidate that is not in"),
        ({"depth": (1, 2)}, 3, r"depth must be \(1, 2, 3\) and larger candidates, got \(1, 2\)"),
        ({"width": (0.5, 0.75, 1)}, 3, r"width must be \(0.5, 1.0\) and larger candidates, got \(0.5, 0.75, 1.0\)"),
        ({"kernel": (3, 5, 7, 9, 11)}, 2, "2 epochs cannot cover 3 phases; give at least 3"),
        ({"kernel": (3, 5, 7, 9)}, [1], "a list of 2 integers >= 1, one per phase"),
    ],
)
def test_an_extension_that_does_not_extend_is_refused(changes, epochs, message):
    with pytest.raises(ValueError, match=message):
        SCHEDULE.extended(replace(SPACE, **changes), epochs)
