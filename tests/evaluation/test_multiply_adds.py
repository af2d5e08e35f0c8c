from __future__ import annotations

import math
import random

import pytest

from prox_monai.elastic import Supernet
from prox_monai.evaluation.cost import multiply_adds
from prox_monai.evaluation.multiply_adds import MultiplyAdds
from prox_monai.networks import UNetArchitecture
from prox_monai.space import SearchSpace, SubnetConfig
from prox_monai.space.groups import unet_groups

PLANAR = UNetArchitecture(2, 1, 3, (8, 12, 16), ((1, 1), (2, 2), (2, 2)))
FLAT = UNetArchitecture(3, 2, 4, (8, 12), ((1, 1, 1), (1, 2, 2)), planned_kernels=((1, 3, 3), (3, 3, 3)))
CASES = {"2-D": (PLANAR, (1, 32, 24)), "3-D, flat kernels": (FLAT, (2, 4, 16, 12))}


def counter(architecture, shape, resolution=(0.5, 1)) -> MultiplyAdds:
    levels = len(architecture.channels)
    space = SearchSpace(architecture.sections, (1, 2), (0.5, 1), (3, 5), resolution, groups=unet_groups(levels))
    return MultiplyAdds(Supernet(architecture, space), shape)


@pytest.mark.parametrize("case", CASES)
def test_equals_what_extracted_networks_do(case):
    architecture, shape = CASES[case]
    costs = counter(architecture, shape)
    space, rng = costs.supernet.space, random.Random(0)
    configs = [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(12))]
    assert {config.resolution for config in configs} == {0.5, 1}
    for config in configs:
        assert costs(config) == multiply_adds(costs.supernet.extract(config), shape), config


def test_classifiers_count_too(classifier):
    costs = MultiplyAdds(classifier, (1, 12, 8))
    rng = random.Random(0)
    for config in (classifier.space.sample(rng) for _ in range(8)):
        assert costs(config) == multiply_adds(classifier.extract(config), (1, 12, 8)), config


@pytest.mark.parametrize("case", CASES)
def test_at_another_size(case):
    architecture, shape = CASES[case]
    costs, size = counter(architecture, shape), tuple(2 * n for n in shape[1:])
    config = costs.supernet.space.largest()
    assert costs.at(size)(config) == multiply_adds(costs.supernet.extract(config), (shape[0], *size))
    assert costs.at(size) is costs.at(size)
    assert costs.at(shape[1:]) is costs


def test_a_subnet_that_is_not_in_the_space_is_refused():
    costs = counter(*CASES["2-D"])
    with pytest.raises(ValueError, match=r"resolution 0.7 is not in the search space \(0.5, 1"):
        costs(SubnetConfig.uniform(costs.supernet.space.sections, 1, 0.5, 3, 0.7))


def test_every_dimension_costs():
    costs = counter(*CASES["2-D"])
    sections = costs.supernet.space.sections
    small = costs(SubnetConfig.uniform(sections, 1, 0.5, 3, 0.5))
    for larger in ((2, 0.5, 3, 0.5), (1, 1, 3, 0.5), (1, 0.5, 5, 0.5), (1, 0.5, 3, 1)):
        assert costs(SubnetConfig.uniform(sections, *larger)) > small


def test_middle_is_nearest_to_the_geometric_mean():
    costs = counter(*CASES["2-D"])
    space = costs.supernet.space
    target = math.sqrt(costs(space.smallest()) * costs(space.largest()))
    uniform = [
        SubnetConfig.uniform(space.sections, d, w, k) for d in space.depth for w in space.width for k in space.kernel
    ]
    ratios = {config: max(costs(config) / target, target / costs(config)) for config in uniform}
    assert costs.middle() in uniform
    assert ratios[costs.middle()] == min(ratios.values())


def test_find():
    costs = counter(*CASES["2-D"])
    space = costs.supernet.space
    assert costs.find("smallest") == space.smallest()
    assert costs.find("middle") == costs.middle()
    assert costs.find("largest") == space.largest()
    assert costs.find("d1-w.5-k3-r.5") == space.smallest()


@pytest.mark.parametrize("name", ["huge", "d3-w.5-k3-r1"])
def test_find_says_what_there_is(name):
    with pytest.raises(
        ValueError, match=rf"no subnet '{name}'.*5 sections.*aliases are smallest, largest, and middle\.$"
    ):
        counter(*CASES["2-D"]).find(name)


def test_middle_of_a_coupled_space_is_in_it():
    free = counter(*CASES["2-D"]).supernet.space
    costs = MultiplyAdds(Supernet(PLANAR, free.coupled()), CASES["2-D"][1])
    assert costs.find("middle") in free.coupled()
