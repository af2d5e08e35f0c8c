from __future__ import annotations

import dataclasses

import pytest

from prox_monai.networks import InvertedUNetArchitecture, UNetArchitecture
from prox_monai.networks.levels import UNetLevels
from prox_monai.space import SectionConfig, SubnetConfig

FIELDS = (2, 1, 3, (8, 10, 16), ((1, 1), (2, 2), (1, 2)))
CONFIG = SubnetConfig(tuple(map(SectionConfig, (1, 2, 3, 2, 1), (1.0, 0.52, 0.25, 0.9, 0.1), (3, 5, 3, 7, 7))))
FAMILIES = pytest.mark.parametrize("family", [UNetArchitecture, InvertedUNetArchitecture])


@FAMILIES
def test_families_have_these_fields_first_and_these_names(family):
    levels, architecture = UNetLevels(*FIELDS), family(*FIELDS)
    ours, theirs = ([field.name for field in dataclasses.fields(each)] for each in (levels, architecture))
    assert theirs[: len(ours)] == ours
    assert architecture.canonical(CONFIG) == levels.canonical(CONFIG)
    assert (architecture.sections, architecture.stride) == (levels.sections, levels.stride) == (5, (2, 4))
    assert [levels.block_prefix(*place) for place in ((2, 1), (3, 0))] == ["encoder.2.blocks.1.", "decoder.0.blocks.0."]
    names = set(architecture.build(CONFIG).state_dict())
    for section, depth in enumerate(CONFIG.depths):
        found = [any(name.startswith(levels.block_prefix(section, b)) for name in names) for b in range(depth + 1)]
        assert found == [True] * depth + [False]


def test_what_a_configuration_makes_of_the_levels():
    levels = UNetLevels(*FIELDS, planned_kernels=((1, 3), (3, 3), (3, 3)))
    assert levels.channels_of(CONFIG) == [8, 5, 4]
    assert levels.kernels_of(CONFIG) == [(1, 3), (5, 5), (3, 3)]
    canonical = levels.canonical(CONFIG)
    assert canonical.widths == (1.0, 0.5, 0.25, 0.5, 1.0)
    assert canonical.kernels == (3, 5, 3, 5, 3)
    assert canonical.depths == CONFIG.depths
