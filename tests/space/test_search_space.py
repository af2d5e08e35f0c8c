from __future__ import annotations

import copy
import json
import math
import pickle
import random
import re
from collections import Counter
from itertools import islice

import pytest

from prox_monai.space import Dimension, SearchSpace, SectionConfig, SubnetConfig, unet_groups

SPACE = SearchSpace(3, (1, 2), (0.5, 1), (3, 5), (0.8, 1), unet_groups(2))
FREE = SearchSpace(2, (1, 2, 3), (0.25, 1), (3,))
SHARED_WIDTH = SearchSpace(3, (1,), (0.5, 1), (3, 5), groups={Dimension.WIDTH: (0, 0, 0)})


def subnet(depths, widths, kernels, resolution=1.0):
    rows = zip(depths, widths, kernels, strict=True)
    return SubnetConfig(tuple(SectionConfig(*row) for row in rows), resolution)


def test_smallest_and_largest():
    assert SPACE.smallest() == SubnetConfig.uniform(3, 1, 0.5, 3, 0.8)
    assert SPACE.largest() == SubnetConfig.uniform(3, 2, 1, 5, 1)


@pytest.mark.parametrize(
    ("space", "size"),
    [(SPACE, 2**3 * 2**2 * 2**2 * 2), (FREE, 3**2 * 2**2), (SHARED_WIDTH, 2 * 2**3)],
)
def test_size_counts_networks(space, size):
    subnets = list(space)
    assert space.size() == len(subnets) == len(set(subnets)) == size
    assert all(config in space for config in subnets)
    assert (subnets[0], subnets[-1]) == (space.smallest(), space.largest())


def test_iteration_is_lazy():
    huge = SearchSpace(40, (1, 2), (0.5, 1), (3, 5))
    assert huge.size() == 2**120
    assert len(set(islice(huge, 3))) == 3


def test_unet_groups_share_width_and_kernel_per_level():
    assert unet_groups(3) == {
        "depth": (0, 1, 2, 3, 4),
        "width": (0, 1, 2, 1, 0),
        "kernel": (0, 1, 2, 1, 0),
    }
    assert unet_groups(1) == {"depth": (0,), "width": (0,), "kernel": (0,)}


def test_sections_of_a_group_share_their_value():
    for config in SPACE:
        assert config.widths[0] == config.widths[2]
        assert config.kernels[0] == config.kernels[2]
    assert len({config.depths for config in SPACE}) == 8


def test_sampling_is_a_pure_function_of_the_generator():
    first, second = random.Random("0:1:2"), random.Random("0:1:2")
    assert [SPACE.sample(first) for _ in range(9)] == [SPACE.sample(second) for _ in range(9)]


def test_sampling_draws_one_number_per_choice():
    rng, reference = random.Random(0), random.Random(0)
    SPACE.sample(rng)
    for _ in range(3 + 2 + 2 + 1):
        reference.random()
    assert rng.getstate() == reference.getstate()


def test_sampling_is_uniform():
    draws = 7200
    rng = random.Random(0)
    counts = Counter(FREE.sample(rng) for _ in range(draws))
    assert set(counts) == set(FREE)
    expected = draws / FREE.size()
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_squared < 66.6  # the .999 quantile at 35 degrees of freedom


def test_mutation_stays_inside_and_reaches_everything():
    rng = random.Random(0)
    reached = {SHARED_WIDTH.mutate(SHARED_WIDTH.smallest(), rng, 1.0) for _ in range(400)}
    assert reached == set(SHARED_WIDTH)


def test_mutation_with_probability_zero_changes_nothing():
    for config in SPACE:
        assert SPACE.mutate(config, random.Random(0), 0.0) == config


def test_mutation_changes_about_p_of_the_choices():
    space = SearchSpace(50, tuple(range(1, 101)), (1,), (3,))
    mutant = space.mutate(space.smallest(), random.Random(0), 0.2)
    assert 3 <= sum(depth != 1 for depth in mutant.depths) <= 17


def test_crossover_takes_each_choice_from_a_parent():
    rng = random.Random(0)
    a, b = SPACE.smallest(), SPACE.largest()
    children = {SPACE.crossover(a, b, rng) for _ in range(4000)}
    assert children == set(SPACE)
    one, other = random.Random(1), random.Random(1)
    assert SPACE.crossover(a, b, one) == SPACE.crossover(a, b, other)
    assert SPACE.crossover(a, a, rng) == a
    at_equal_resolution = SubnetConfig(b.sections, 0.8)
    assert {SPACE.crossover(a, at_equal_resolution, rng).resolution for _ in range(50)} == {0.8}


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_mutation_with_an_impossible_probability(probability):
    with pytest.raises(ValueError, match=rf"^p must be a number in \[0, 1\], got {probability}\.$"):
        SPACE.mutate(SPACE.smallest(), random.Random(0), probability)


def test_mutation_and_crossover_refuse_strangers():
    stranger = SubnetConfig.uniform(3, 7, 0.5, 3, 0.8)
    message = r"^depth 7 of section 0 is not in the search space \(1, 2\)\.$"
    with pytest.raises(ValueError, match=message):
        SPACE.mutate(stranger, random.Random(0), 0.0)
    with pytest.raises(ValueError, match=message):
        SPACE.crossover(SPACE.smallest(), stranger, random.Random(0))


def test_restriction():
    restricted = SPACE.restrict(depth=[2], resolution=(0.8,))
    assert restricted == SearchSpace(3, (2,), (0.5, 1), (3, 5), (0.8,), unet_groups(2))
    deep = {config for config in SPACE if config.depths == (2, 2, 2)}
    assert set(restricted) == {config for config in deep if config.resolution == 0.8}
    assert SPACE.restrict() == SPACE


def test_restriction_to_strangers():
    with pytest.raises(ValueError, match=r"^kernel 7 is not in the search space \(3, 5\)\.$"):
        SPACE.restrict(kernel=(3, 7))
    with pytest.raises(ValueError, match=r"^width must be a non-empty sequence of candidates, got \(\)\.$"):
        SPACE.restrict(width=())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            subnet((1, 1, 3), (1, 1, 1), (3, 3, 3)),
            "depth 3 of section 2 is not in the search space (1, 2).",
        ),
        (
            subnet((1, 1, 1), (1, 0.7, 1), (3, 3, 3)),
            "width 0.7 of section 1 is not in the search space (0.5, 1.0).",
        ),
        (subnet((1, 1, 1), (1, 1, 0.5), (3, 3, 3)), "sections 0 and 2 share one width, got 1.0 and 0.5."),
        (subnet((1, 1, 1), (1, 1, 1), (3, 3, 5)), "sections 0 and 2 share one kernel, got 3 and 5."),
        (
            subnet((1, 1, 1), (1, 1, 1), (3, 3, 3), 0.9),
            "resolution 0.9 is not in the search space (0.8, 1.0).",
        ),
        (subnet((1, 1), (1, 1), (3, 3)), "the subnet has 2 sections, the search space has 3."),
    ],
)
def test_what_is_not_in_the_space(config, message):
    assert config not in SPACE
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SPACE.check(config)


def test_what_is_in_the_space():
    config = subnet((1, 2, 1), (1, 0.5, 1), (5, 3, 5), 0.8)
    SPACE.check(config)
    assert config in SPACE
    assert config.name not in SPACE


def test_names_and_aliases():
    assert SPACE.parse("smallest") == SPACE.smallest()
    assert SPACE.parse("largest") == SPACE.largest()
    assert all(SPACE.parse(config.name) == config for config in SPACE)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("d3-w1-k3-r1", "depth 3 of section 0 is not in the search space (1, 2)."),
        ("d1-w1-k4-r1", "kernel must be an odd integer >= 1, got 4."),
        ("tiny", "subnet name 'tiny' must have the form 'd2.1-w.5_1-k3-r.8'"),
    ],
)
def test_a_name_that_does_not_exist_says_what_does(name, reason):
    start = f"there is no subnet {name!r}: {reason}"
    end = (
        " The search space has 3 sections with depth (1, 2), width (0.5, 1.0), kernel (3, 5), "
        "resolution (0.8, 1.0); its aliases are smallest, largest."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(start)}.*{re.escape(end)}$"):
        SPACE.parse(name)


def test_spaces_are_values():
    lists = SearchSpace(3, [1, 2], [0.5, 1.0], [3, 5], [0.8, 1.0], unet_groups(2))
    assert (lists, hash(lists)) == (SPACE, hash(SPACE))
    assert SearchSpace(3, (1, 2), (0.5, 1), (3, 5), (0.8, 1)) != SPACE
    assert copy.deepcopy(SPACE) == pickle.loads(pickle.dumps(SPACE)) == SPACE


def test_groups_cannot_be_changed():
    groups = {Dimension.WIDTH: [0, 0]}
    space = SearchSpace(2, (1,), (1,), (3,), groups=groups)
    groups[Dimension.WIDTH].append(0)
    assert space.groups == {"depth": (0, 1), "width": (0, 0), "kernel": (0, 1)}
    with pytest.raises(TypeError):
        space.groups[Dimension.WIDTH] = (0, 1)


def test_json_round_trip():
    for space in (SPACE, FREE, SHARED_WIDTH):
        assert SearchSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space


def test_resolution_and_groups_may_be_left_out():
    data = {"sections": 2, "depth": [1, 2, 3], "width": [0.25, 1], "kernel": [3]}
    assert SearchSpace.from_dict(data) == FREE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sections": 0}, "sections must be an integer >= 1, got 0."),
        ({"sections": True}, "sections must be an integer >= 1, got True."),
        ({"sections": "3"}, "sections must be an integer >= 1, got '3'."),
        ({"depth": []}, "depth must be a non-empty sequence of candidates, got []."),
        ({"depth": 2}, "depth must be a non-empty sequence of candidates, got 2."),
        ({"depth": "12"}, "depth must be a non-empty sequence of candidates, got '12'."),
        ({"depth": None}, "depth must be a non-empty sequence of candidates, got None."),
        ({"depth": [2, 1]}, "depth must have strictly increasing candidates, got (2, 1)."),
        ({"width": [1, 1]}, "width must have strictly increasing candidates, got (1.0, 1.0)."),
        ({"depth": [True]}, "depth must be an integer >= 1, got True."),
        ({"depth": [1.0]}, "depth must be an integer >= 1, got 1.0."),
        ({"width": ["1"]}, "width must be a number > 0, got '1'."),
        ({"kernel": [3, 4]}, "kernel must be an odd integer >= 1, got 4."),
        ({"resolution": [0.5, 2]}, "resolution must be a number > 0 and <= 1, got 2."),
        ({"groups": [0]}, "groups must be a mapping from a dimension to indices, got [0]."),
        (
            {"groups": {"resolution": [0]}},
            "groups must have keys out of depth, width, kernel, got 'resolution'.",
        ),
    ],
)
def test_fields_that_are_not_allowed(change, message):
    data = {"sections": 3, "depth": [1, 2], "width": [1], "kernel": [3]} | change
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SearchSpace.from_dict(data)


@pytest.mark.parametrize("indices", [[0, 1], [0, 2, 0], [1, 1, 2], [0, 0, "0"], [0, -1, 0], 0, "010", [0, 1, True]])
def test_groups_that_are_not_allowed(indices):
    message = f"groups of kernel must be 3 indices, one per section, from 0 without gaps, got {indices!r}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SearchSpace(3, (1,), (1,), (3,), groups={"kernel": indices})


def test_unknown_and_missing_fields():
    data = SPACE.to_dict()
    fields = "its fields are sections, depth, width, kernel, resolution, groups, pairs."
    with pytest.raises(ValueError, match=f"^search space has no field 'group'; {fields}$"):
        SearchSpace.from_dict(data | {"group": {}})
    del data["kernel"]
    with pytest.raises(ValueError, match=f"^search space lacks the field 'kernel'; {fields}$"):
        SearchSpace.from_dict(data)


@pytest.mark.parametrize("levels", [0, 2.0, True])
def test_unet_without_levels(levels):
    with pytest.raises(ValueError, match=rf"^levels must be an integer >= 1, got {levels}\.$"):
        unet_groups(levels)


COUPLED = SearchSpace(3, (1, 2), (0.25, 0.5, 1), (3, 5), (0.5, 1), groups=unet_groups(2)).coupled()


def test_coupled_sections_are_deeper_and_wider_together():
    assert COUPLED.pairs == ((1, 0.25), (1, 0.5), (2, 1))
    assert COUPLED.size() == 3**2 * 2**2 * 2 == len(set(COUPLED))
    for config in COUPLED:
        assert {(section.depth, section.width) for section in config.sections} <= set(COUPLED.pairs)
        assert config in COUPLED
    assert COUPLED.smallest() == SubnetConfig.uniform(3, 1, 0.25, 3, 0.5)
    assert COUPLED.largest() == SubnetConfig.uniform(3, 2, 1, 5, 1)


def test_coupled_subnets_vary_within_the_space():
    rng = random.Random(0)
    a, b = COUPLED.sample(rng), COUPLED.sample(rng)
    assert COUPLED.crossover(a, b, rng) in COUPLED
    assert all(COUPLED.mutate(a, rng, 0.5) in COUPLED for _ in range(20))
    assert COUPLED.mutate(a, rng, 0) == a
    assert {COUPLED.mutate(a, rng, 1).sections[0].depth for _ in range(20)} == {1, 2}


def test_a_coupled_space_survives_json_and_restriction():
    assert SearchSpace.from_dict(json.loads(json.dumps(COUPLED.to_dict()))) == COUPLED
    restricted = COUPLED.restrict(width=(0.25, 0.5))
    assert (restricted.depth, restricted.pairs) == ((1,), ((1, 0.25), (1, 0.5)))
    COUPLED.check_includes(restricted)


def test_what_is_not_coupled_is_refused():
    free = SearchSpace(3, (1, 2), (0.25, 0.5, 1), (3, 5), (0.5, 1), groups=unet_groups(2))
    free.check_includes(COUPLED)
    with pytest.raises(ValueError, match="depth 2 and width 0.25 of section 0 do not go together in"):
        COUPLED.check(SubnetConfig.uniform(3, 2, 0.25, 3, 1))
    with pytest.raises(ValueError, match="depth 1 and width 1.0 do not go together in"):
        COUPLED.check_includes(free)
    with pytest.raises(ValueError, match=r"depth \(2,\) and width \(0.25,\) do not go together in"):
        COUPLED.restrict(depth=(2,), width=(0.25,))
    for pairs, message in (
        ([(2, 0.25), (1, 0.5)], "pairs must increase in depth and width"),
        ([(1, 0.3)], r"pairs must be of depths \(1, 2\) and widths"),
    ):
        with pytest.raises(ValueError, match=message):
            SearchSpace.from_dict(COUPLED.to_dict() | {"pairs": pairs})
    with pytest.raises(ValueError, match="pairs need equal groups of depth and width"):
        SearchSpace.from_dict(free.to_dict() | {"pairs": [[1, 0.25]]})


def test_the_space_around_a_subnet():
    config = SubnetConfig.from_name("d1.2.1-w1-k3-r.5", 3)
    around = SearchSpace(3, (1, 2), (0.5, 1), (3, 5), (0.5, 1), groups=unet_groups(2)).around(config)
    assert (around.depth, around.width, around.kernel, around.resolution) == ((1, 2), (1,), (3,), (0.5,))
    assert config in around


@pytest.mark.parametrize("space", [SPACE, SHARED_WIDTH, COUPLED])
def test_a_subnet_is_one_candidate_per_choice(space):
    assert math.prod(map(len, space.choices())) == space.size()
    for index, candidates in enumerate(space.choices()):
        others = [choice[0] for choice in space.choices()]
        varied = {space.assemble([*others[:index], value, *others[index + 1 :]]) for value in candidates}
        assert len(varied) == len(candidates)
        assert all(config in space for config in varied)
