from __future__ import annotations

import json
import random
import re
from dataclasses import replace

import pytest

from prox_monai.space import Dimension, Phase, PhaseSchedule, SearchSpace, Stage, SubnetConfig, unet_groups

# The published search spaces: PROX.md, section 5. Resolutions are fractions of the largest size.
ROCT = SearchSpace(5, (1, 2, 3), (3, 4, 6), (3, 5, 7), (160 / 224, 192 / 224, 1))
HIPPOCAMPUS = SearchSpace(7, (1,), (1, 2), (3, 5), (0.6, 0.8, 1), unet_groups(4))
BRATS = SearchSpace(9, (1,), (1, 2), (3, 5), (80 / 112, 96 / 112, 1), unet_groups(5))

ROCT_ALL = (160 / 224, 192 / 224, 1)
BRATS_ALL = (80 / 112, 96 / 112, 1)

ROCT_PROX_IR = [
    ("depth", (1,), (3,), (3,), (160 / 224,)),
    ("depth", (1, 2), (3,), (3,), (160 / 224,)),
    ("depth", (1, 2, 3), (3,), (3,), (160 / 224,)),
    ("width", (1, 2, 3), (3, 4), (3,), (160 / 224,)),
    ("width", (1, 2, 3), (3, 4, 6), (3,), (160 / 224,)),
    ("kernel", (1, 2, 3), (3, 4, 6), (3, 5), (160 / 224,)),
    ("kernel", (1, 2, 3), (3, 4, 6), (3, 5, 7), (160 / 224,)),
    ("resolution", (1, 2, 3), (3, 4, 6), (3, 5, 7), (160 / 224, 192 / 224)),
    ("resolution", (1, 2, 3), (3, 4, 6), (3, 5, 7), (160 / 224, 192 / 224, 1)),
]
ROCT_PROX_MR = [
    ("depth", (1,), (3,), (3,), ROCT_ALL),
    ("depth", (1, 2), (3,), (3,), ROCT_ALL),
    ("depth", (1, 2, 3), (3,), (3,), ROCT_ALL),
    ("width", (1, 2, 3), (3, 4), (3,), ROCT_ALL),
    ("width", (1, 2, 3), (3, 4, 6), (3,), ROCT_ALL),
    ("kernel", (1, 2, 3), (3, 4, 6), (3, 5), ROCT_ALL),
    ("kernel", (1, 2, 3), (3, 4, 6), (3, 5, 7), ROCT_ALL),
]
ROCT_PS = [
    ("kernel", (3,), (6,), (7,), ROCT_ALL),
    ("kernel", (3,), (6,), (5, 7), ROCT_ALL),
    ("kernel", (3,), (6,), (3, 5, 7), ROCT_ALL),
    ("depth", (2, 3), (6,), (3, 5, 7), ROCT_ALL),
    ("depth", (1, 2, 3), (6,), (3, 5, 7), ROCT_ALL),
    ("width", (1, 2, 3), (4, 6), (3, 5, 7), ROCT_ALL),
    ("width", (1, 2, 3), (3, 4, 6), (3, 5, 7), ROCT_ALL),
]
HIPPOCAMPUS_PROX_IR = [
    ("depth", (1,), (1,), (3,), (0.6,)),
    ("width", (1,), (1, 2), (3,), (0.6,)),
    ("kernel", (1,), (1, 2), (3, 5), (0.6,)),
    ("resolution", (1,), (1, 2), (3, 5), (0.6, 0.8)),
    ("resolution", (1,), (1, 2), (3, 5), (0.6, 0.8, 1)),
]
HIPPOCAMPUS_PROX_MR = [
    ("depth", (1,), (1,), (3,), (0.6, 0.8, 1)),
    ("width", (1,), (1, 2), (3,), (0.6, 0.8, 1)),
    ("kernel", (1,), (1, 2), (3, 5), (0.6, 0.8, 1)),
]
HIPPOCAMPUS_PS = [
    ("kernel", (1,), (2,), (5,), (0.6, 0.8, 1)),
    ("kernel", (1,), (2,), (3, 5), (0.6, 0.8, 1)),
    ("width", (1,), (1, 2), (3, 5), (0.6, 0.8, 1)),
]
BRATS_PROX_IR = [
    ("depth", (1,), (1,), (3,), (80 / 112,)),
    ("width", (1,), (1, 2), (3,), (80 / 112,)),
    ("kernel", (1,), (1, 2), (3, 5), (80 / 112,)),
    ("resolution", (1,), (1, 2), (3, 5), (80 / 112, 96 / 112)),
    ("resolution", (1,), (1, 2), (3, 5), (80 / 112, 96 / 112, 1)),
]
BRATS_PROX_MR = [
    ("depth", (1,), (1,), (3,), BRATS_ALL),
    ("width", (1,), (1, 2), (3,), BRATS_ALL),
    ("kernel", (1,), (1, 2), (3, 5), BRATS_ALL),
]
BRATS_PS = [
    ("kernel", (1,), (2,), (5,), BRATS_ALL),
    ("kernel", (1,), (2,), (3, 5), BRATS_ALL),
    ("width", (1,), (1, 2), (3, 5), BRATS_ALL),
]

SMALL = SearchSpace(3, (1, 2), (0.5, 1), (3, 5), (0.8, 1), unet_groups(2))
ANY = [
    PhaseSchedule.prox(ROCT, 90),
    PhaseSchedule.prox(HIPPOCAMPUS, 50),
    PhaseSchedule.prox(BRATS, 45, "mixed"),
    PhaseSchedule.prox(SMALL, 7),
    PhaseSchedule.progressive_shrinking(ROCT, 70),
    PhaseSchedule.progressive_shrinking(SMALL, [1, 2, 3, 4]),
    PhaseSchedule.prox(SMALL, 12, polish=True, subnets_per_step=2),
    PhaseSchedule.prox(SMALL.coupled(), 12, polish=True),
    PhaseSchedule.progressive_shrinking(SMALL, 8, subnets_per_step=[1, 2, 4], reorder=True),
    PhaseSchedule.sandwich(SMALL, 5),
    PhaseSchedule.standalone(SMALL, SMALL.largest(), 5),
]


def candidates(schedule):
    return [
        (phase.stage, phase.space.depth, phase.space.width, phase.space.kernel, phase.space.resolution)
        for phase in schedule.phases
    ]


@pytest.mark.parametrize(
    ("space", "resolution", "expected"),
    [
        (ROCT, "increasing", ROCT_PROX_IR),
        (ROCT, "mixed", ROCT_PROX_MR),
        (HIPPOCAMPUS, "increasing", HIPPOCAMPUS_PROX_IR),
        (HIPPOCAMPUS, "mixed", HIPPOCAMPUS_PROX_MR),
        (BRATS, "increasing", BRATS_PROX_IR),
        (BRATS, "mixed", BRATS_PROX_MR),
    ],
)
def test_prox_of_the_published_spaces(space, resolution, expected):
    assert candidates(PhaseSchedule.prox(space, 90, resolution)) == expected


@pytest.mark.parametrize(("space", "expected"), [(ROCT, ROCT_PS), (HIPPOCAMPUS, HIPPOCAMPUS_PS), (BRATS, BRATS_PS)])
def test_progressive_shrinking_of_the_published_spaces(space, expected):
    assert candidates(PhaseSchedule.progressive_shrinking(space, 90)) == expected


def test_published_numbers_of_phases():
    assert len(PhaseSchedule.prox(ROCT, 90).phases) == 9
    assert len(PhaseSchedule.prox(HIPPOCAMPUS, 50).phases) == 5
    assert len(PhaseSchedule.prox(BRATS, 45, "mixed").phases) == 3


def test_teachers_of_prox_are_the_largest_subnets_of_the_phase_before():
    assert [phase.teacher for phase in PhaseSchedule.prox(HIPPOCAMPUS, 50).phases] == [
        None,
        SubnetConfig.uniform(7, 1, 1, 3, 0.6),
        SubnetConfig.uniform(7, 1, 2, 3, 0.6),
        SubnetConfig.uniform(7, 1, 2, 5, 0.6),
        SubnetConfig.uniform(7, 1, 2, 5, 0.8),
    ]


def test_the_teacher_of_progressive_shrinking_is_the_largest_subnet():
    largest = SubnetConfig.uniform(7, 1, 2, 5, 1)
    phases = PhaseSchedule.progressive_shrinking(HIPPOCAMPUS, 50).phases
    assert [phase.teacher for phase in phases] == [None, largest, largest]
    assert [phase.follow_resolution for phase in phases] == [False, True, True]
    assert not any(phase.follow_resolution for phase in PhaseSchedule.prox(HIPPOCAMPUS, 50).phases)


def test_a_space_of_one_subnet_has_one_phase():
    space = SearchSpace(2, (1,), (1,), (3,))
    prox, shrinking = PhaseSchedule.prox(space, 4), PhaseSchedule.progressive_shrinking(space, 4)
    assert prox.phases == (Phase(0, Stage.DEPTH, space, 4, None),)
    assert shrinking.phases == (Phase(0, Stage.KERNEL, space, 4, None),)


def test_phases_keep_the_groups_and_the_last_is_the_whole_space():
    for schedule in (PhaseSchedule.prox(SMALL, 5), PhaseSchedule.progressive_shrinking(SMALL, 5)):
        assert all(phase.space.groups == SMALL.groups for phase in schedule.phases)
        assert schedule.phases[-1].space == SMALL


def test_a_total_is_split_evenly_with_the_remainder_last():
    assert [phase.epochs for phase in PhaseSchedule.prox(HIPPOCAMPUS, 13).phases] == [2, 2, 2, 2, 5]


def test_epochs_per_phase():
    schedule = PhaseSchedule.prox(HIPPOCAMPUS, (1, 2, 3, 4, 5))
    assert [phase.epochs for phase in schedule.phases] == [1, 2, 3, 4, 5]
    assert schedule.total_epochs == 15
    assert schedule.starts == (0, 1, 3, 6, 10)
    assert [schedule.first_epoch(phase) for phase in schedule.phases] == [0, 1, 3, 6, 10]
    assert [schedule.phase_at(epoch).index for epoch in range(15)] == [0, 1, 1, *[2] * 3, *[3] * 4, *[4] * 5]


@pytest.mark.parametrize("epoch", [-1, 15])
def test_an_epoch_out_of_range(epoch):
    with pytest.raises(ValueError, match=rf"^epoch must be in 0 \.\.\. 14, got {epoch}\.$"):
        PhaseSchedule.prox(HIPPOCAMPUS, (1, 2, 3, 4, 5)).phase_at(epoch)


@pytest.mark.parametrize("schedule", ANY)
def test_samples_lie_in_the_phase_and_reach_every_candidate(schedule):
    for phase in schedule.phases:
        reached = {dimension: set() for dimension in Dimension}
        for step in range(200):
            config = schedule.phase_at(schedule.first_epoch(phase)).space.sample(random.Random(f"0:0:{step}"))
            assert config in phase.space
            for dimension in (Dimension.DEPTH, Dimension.WIDTH, Dimension.KERNEL):
                reached[dimension] |= {(i, getattr(s, dimension)) for i, s in enumerate(config.sections)}
            reached[Dimension.RESOLUTION].add(config.resolution)
        for dimension in (Dimension.DEPTH, Dimension.WIDTH, Dimension.KERNEL):
            assert reached[dimension] == {
                (section, value)
                for section in range(phase.space.sections)
                for value in phase.space.candidates(dimension)
            }
        assert reached[Dimension.RESOLUTION] == set(phase.space.resolution)


def test_the_same_seed_epoch_and_step_give_the_same_subnet():
    def draw(seed, epoch, step):
        phase = PhaseSchedule.prox(SMALL, 10).phase_at(epoch)
        return phase.space.sample(random.Random(f"{seed}:{epoch}:{step}"))

    subnets = [draw(0, epoch, step) for epoch in range(10) for step in range(5)]
    assert subnets == [draw(0, epoch, step) for epoch in range(10) for step in range(5)]
    assert subnets != [draw(1, epoch, step) for epoch in range(10) for step in range(5)]


@pytest.mark.parametrize("schedule", ANY)
def test_json_round_trip(schedule):
    assert PhaseSchedule.from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule


def test_too_few_epochs():
    message = r"^5 epochs cannot cover 9 phases; give at least 9, or fewer candidates\.$"
    with pytest.raises(ValueError, match=message):
        PhaseSchedule.prox(ROCT, 5)
    assert PhaseSchedule.prox(ROCT, 9).total_epochs == 9


@pytest.mark.parametrize("epochs", [[1, 2], [1] * 6, "55555", 5.0, None, True])
def test_epochs_that_are_not_one_per_phase(epochs):
    message = f"epochs must be a total or a list of 5 integers >= 1, one per phase, got {epochs!r}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        PhaseSchedule.prox(HIPPOCAMPUS, epochs)


@pytest.mark.parametrize("value", [0, -1, 1.5, "1", True])
def test_epochs_of_a_phase_that_are_not_allowed(value):
    with pytest.raises(ValueError, match=f"^epochs of phase 2 must be an integer >= 1, got {value!r}\\.$"):
        PhaseSchedule.prox(HIPPOCAMPUS, [1, 1, value, 1, 1])


def test_an_unknown_resolution_rule():
    with pytest.raises(ValueError, match=r"^resolution must be 'increasing' or 'mixed', got 'MR'\.$"):
        PhaseSchedule.prox(SMALL, 10, "MR")


def test_a_truncated_schedule_is_a_schedule():
    schedule = PhaseSchedule.prox(SMALL, [1, 2, 3, 4, 5])
    assert PhaseSchedule(schedule.phases[:2]).total_epochs == 3


def test_phases_must_be_in_order():
    phases = PhaseSchedule.prox(SMALL, 10).phases
    with pytest.raises(ValueError, match=r"^phases must be a non-empty sequence .*, got \[1, 0\]\.$"):
        PhaseSchedule((phases[1], phases[0]))
    with pytest.raises(ValueError, match=r"^phases must be a non-empty sequence .*, got \[\]\.$"):
        PhaseSchedule(())


def test_fields_read_from_json_are_checked():
    data = PhaseSchedule.prox(SMALL, 10).phases[0].to_dict()
    with pytest.raises(ValueError, match=r"^stage must be one of depth, .*, got 'size'\.$"):
        Phase.from_dict(data | {"stage": "size"})
    with pytest.raises(ValueError, match=r"^phase has no field 'lr'; its fields are index, stage, "):
        Phase.from_dict(data | {"lr": 1})
    with pytest.raises(ValueError, match=r"^schedule lacks the field 'phases'; its fields are phases\.$"):
        PhaseSchedule.from_dict({})


def test_subnets_per_step_of_each_stage():
    """Cai et al. train one, two and four subnets per step in the kernel, depth and width stage."""
    phases = PhaseSchedule.progressive_shrinking(ROCT, 70, subnets_per_step=[1, 2, 4]).phases
    assert [phase.random for phase in phases] == [1, 1, 1, 2, 2, 4, 4]
    drawn = phases[-1].sample(random.Random(0))
    assert len(drawn) == 4
    assert all(config in ROCT for config in drawn)
    assert len(set(drawn)) > 1


def test_channels_are_reordered_once_before_the_width_stage():
    phases = PhaseSchedule.progressive_shrinking(ROCT, 70, reorder=True).phases
    assert [phase.reorder for phase in phases] == [False] * 5 + [True, False]
    assert not any(phase.reorder for phase in PhaseSchedule.progressive_shrinking(ROCT, 70).phases)


def test_a_polishing_phase_follows_the_last_expansion():
    plain, polished = PhaseSchedule.prox(SMALL, 10).phases, PhaseSchedule.prox(SMALL, 11, polish=True).phases
    assert polished[:-1] == plain
    last = polished[-1]
    assert (last.stage, last.space, last.in_place) == (Stage.POLISH, SMALL, True)
    drawn = last.sample(random.Random(0))
    assert drawn[:2] == (SMALL.largest(), SMALL.smallest())
    assert drawn[2] in SMALL


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (75, [13, 13, 13, 13, 16, 7]),
        (6, [1, 1, 1, 1, 1, 1]),
        (12, [2, 2, 2, 2, 3, 1]),
        ([2, 2, 2, 2, 2, 9], [2, 2, 2, 2, 2, 9]),
    ],
)
def test_of_a_total_polishing_gets_half_of_what_another_phase_gets(epochs, expected):
    assert [phase.epochs for phase in PhaseSchedule.prox(SMALL, epochs, polish=True).phases] == expected


def test_a_total_must_cover_the_polishing_phase():
    with pytest.raises(ValueError, match="5 epochs cannot cover 6 phases"):
        PhaseSchedule.prox(SMALL, 5, polish=True)


def test_a_subnet_alone():
    config = SMALL.parse("d1.2.1-w1-k3-r.8")
    (phase,) = PhaseSchedule.standalone(SMALL, config, 5).phases
    assert phase.sample(random.Random(0)) == (config,) == (phase.largest(),) == (phase.smallest(),)
    assert phase.space == SMALL.restrict(width=(1,), kernel=(3,), resolution=(0.8,))


def test_coupled_candidates_share_their_phases():
    """A depth that no open width goes with adds no phase of its own."""
    space = SearchSpace(3, (1, 2), (0.25, 0.5, 1), (3,), groups=unet_groups(2)).coupled()
    assert candidates(PhaseSchedule.prox(space, 9)) == [
        ("depth", (1,), (0.25,), (3,), (1,)),
        ("width", (1,), (0.25, 0.5), (3,), (1,)),
        ("width", (1, 2), (0.25, 0.5, 1), (3,), (1,)),
    ]
    assert candidates(PhaseSchedule.progressive_shrinking(space, 9)) == [
        ("kernel", (2,), (1,), (3,), (1,)),
        ("width", (1, 2), (0.5, 1), (3,), (1,)),
        ("width", (1, 2), (0.25, 0.5, 1), (3,), (1,)),
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PhaseSchedule.prox(SMALL, 9, subnets_per_step=[1, 2]), r"list of 4, for depth, .*; got \[1, 2\]"),
        (lambda: PhaseSchedule.prox(SMALL, 9, subnets_per_step=0), r"random of phase 0 must be an integer >= 1, got 0"),
        (lambda: PhaseSchedule.sandwich(SMALL, 0), r"epochs of phase 0 must be an integer >= 1, got 0"),
        (lambda: PhaseSchedule.standalone(SMALL, ROCT.largest(), 3), r"the subnet has 5 sections"),
        (lambda: Phase(0, Stage.JOINT, SMALL, 1, random=0), r"random of phase 0 must be an integer >= 1, got 0"),
        (lambda: Phase(0, Stage.JOINT, SMALL, 1, in_place=True), r"in_place of phase 0 needs a fixed subnet"),
        (lambda: Phase(0, Stage.JOINT, SMALL, 1, fixed=(ROCT.largest(),)), r"the subnet has 5 sections"),
    ],
)
def test_what_a_step_trains_is_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_coupled_dimensions_are_not_extended():
    """A new candidate would be in no pair, and phases would train nothing new."""
    space = SearchSpace(3, (1, 2), (0.5, 1.0), (3,), groups=unet_groups(2)).coupled()
    with pytest.raises(ValueError, match="coupled depths and widths cannot be extended"):
        PhaseSchedule.prox(space, 4).extended(replace(space, depth=(1, 2, 3)), 2)


def test_the_sandwich_rule_may_do_without_random_subnets():
    space = SearchSpace(3, (1, 2), (0.5, 1.0), (3,), groups=unet_groups(2))
    (phase,) = PhaseSchedule.sandwich(space, 1, subnets_per_step=0).phases
    assert phase.sample(random.Random(0)) == (space.largest(), space.smallest())
    with pytest.raises(ValueError, match="subnets_per_step of the sandwich rule must be an integer >= 0, got -1"):
        PhaseSchedule.sandwich(space, 1, subnets_per_step=-1)
