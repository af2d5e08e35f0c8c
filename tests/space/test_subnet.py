from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest

from prox_monai.space import Dimension, SectionConfig, SubnetConfig

MIXED = SubnetConfig(
    (
        SectionConfig(2, 0.25, 3),
        SectionConfig(2, 0.5, 5),
        SectionConfig(1, 1.0, 3),
        SectionConfig(1, 1.0, 3),
    ),
    0.8,
)


def test_the_order_of_dimensions_is_the_order_of_stages():
    assert list(Dimension) == ["depth", "width", "kernel", "resolution"]


def test_columns():
    assert MIXED.depths == (2, 2, 1, 1)
    assert MIXED.widths == (0.25, 0.5, 1.0, 1.0)
    assert MIXED.kernels == (3, 5, 3, 3)


def test_uniform_repeats_one_section():
    assert SubnetConfig.uniform(2, 1, 0.5, 3, 0.8) == SubnetConfig((SectionConfig(1, 0.5, 3),) * 2, 0.8)


def test_a_subnet_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        MIXED.resolution = 1.0


def test_subnets_are_ordered_by_section_then_resolution():
    small, deep = SubnetConfig.uniform(1, 1, 1, 3), SubnetConfig.uniform(1, 2, 0.5, 3)
    assert sorted([deep, small, SubnetConfig.uniform(1, 1, 1, 3, 0.5)]) == [
        SubnetConfig.uniform(1, 1, 1, 3, 0.5),
        small,
        deep,
    ]


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (MIXED, "d2.2.1.1-w.25_.5_1_1-k3.5.3.3-r.8"),
        (SubnetConfig.uniform(3, 1, 0.5, 3), "d1-w.5-k3-r1"),
        (SubnetConfig.uniform(1, 12, 10, 11, 0.6), "d12-w10-k11-r.6"),
        (SubnetConfig.uniform(2, 1, 1e-7, 3), "d1-w.0000001-k3-r1"),
        (SubnetConfig.uniform(2, 1, 1 / 3, 3), "d1-w.3333333333333333-k3-r1"),
    ],
)
def test_name_and_its_inverse(config, name):
    assert config.name == str(config) == name
    assert SubnetConfig.from_name(name, len(config.sections)) == config


def test_a_name_may_spell_out_equal_values():
    assert SubnetConfig.from_name("d2.2-w0.5-k3.3-r1.0", 2) == SubnetConfig.uniform(2, 2, 0.5, 3)


@pytest.mark.parametrize(
    "name", ["", "d2", "d2-w1-k3", "d2-w1-k3-r1-", "dx-w1-k3-r1", "d2-w1e-1-k3-r1", "d2.-w1-k3-r1"]
)
def test_a_malformed_name_says_the_form(name):
    with pytest.raises(ValueError, match=r"must have the form 'd2\.1-w\.5_1-k3-r\.8'"):
        SubnetConfig.from_name(name, 2)


def test_a_name_of_another_number_of_sections():
    with pytest.raises(ValueError, match=r"^width of subnet name '.*' must have 1 or 3 values, got 2\.$"):
        SubnetConfig.from_name("d1-w.5_1-k3-r1", 3)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("depth", 0, "an integer >= 1, got 0"),
        ("depth", 1.0, "an integer >= 1, got 1.0"),
        ("depth", True, "an integer >= 1, got True"),
        ("depth", "1", "an integer >= 1, got '1'"),
        ("width", 0, "a number > 0, got 0"),
        ("width", -0.5, "a number > 0, got -0.5"),
        ("width", float("nan"), "a number > 0, got nan"),
        ("width", float("inf"), "a number > 0, got inf"),
        ("width", True, "a number > 0, got True"),
        ("width", "1", "a number > 0, got '1'"),
        ("kernel", 4, "an odd integer >= 1, got 4"),
        ("kernel", -1, "an odd integer >= 1, got -1"),
        ("kernel", 3.0, "an odd integer >= 1, got 3.0"),
        ("kernel", None, "an odd integer >= 1, got None"),
        ("resolution", 0, "a number > 0 and <= 1, got 0"),
        ("resolution", 1.5, "a number > 0 and <= 1, got 1.5"),
        ("resolution", "1", "a number > 0 and <= 1, got '1'"),
    ],
)
def test_values_that_are_not_allowed(field, value, allowed):
    values = {"depth": 1, "width": 1.0, "kernel": 3, "resolution": 1.0} | {field: value}
    with pytest.raises(ValueError, match=f"^{re.escape(f'{field} must be {allowed}.')}$"):
        SubnetConfig.uniform(1, **values)


@pytest.mark.parametrize("sections", [(), None, (1,), SectionConfig(1, 1, 3)])
def test_sections_that_are_not_allowed(sections):
    with pytest.raises(ValueError, match=r"^sections must be a non-empty tuple of SectionConfig, got "):
        SubnetConfig(sections)


def test_json_round_trip():
    data = json.loads(json.dumps(MIXED.to_dict()))
    assert data == {
        "depth": [2, 2, 1, 1],
        "width": [0.25, 0.5, 1.0, 1.0],
        "kernel": [3, 5, 3, 3],
        "resolution": 0.8,
    }
    assert SubnetConfig.from_dict(data) == MIXED


def test_an_integer_width_is_the_same_value():
    integer, real = SubnetConfig.uniform(1, 1, 1, 3, 1), SubnetConfig.uniform(1, 1, 1.0, 3, 1.0)
    assert (integer, hash(integer), repr(integer)) == (real, hash(real), repr(real))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernal": [3]}, "subnet has no field 'kernal'; its fields are depth, width, kernel, resolution."),
        (
            {"kernel": None},
            "subnet lacks the field 'kernel'; its fields are depth, width, kernel, resolution.",
        ),
        (
            {"depth": [1, 2]},
            "depth, width and kernel of a subnet must be lists with one value per section, got [1, 2], [1.0] and [3].",
        ),
        (
            {"depth": 1},
            "depth, width and kernel of a subnet must be lists with one value per section, got 1, [1.0] and [3].",
        ),
        ({"depth": ["1"]}, "depth must be an integer >= 1, got '1'."),
    ],
)
def test_dicts_that_are_not_allowed(change, message):
    data = SubnetConfig.uniform(1, 1, 1, 3).to_dict() | change
    data = {field: value for field, value in data.items() if value is not None}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SubnetConfig.from_dict(data)


def test_a_dict_that_is_none():
    with pytest.raises(ValueError, match=r"^subnet must be a mapping with the fields depth, .*, got \[\]\.$"):
        SubnetConfig.from_dict([])


def test_hashes_are_stable_across_processes():
    program = (
        "from prox_monai.space import SearchSpace, SubnetConfig, unet_groups\n"
        "space = SearchSpace(3, (1, 2), (.5, 1), (3, 5), (.8, 1), unet_groups(2))\n"
        "print(hash(SubnetConfig.uniform(3, 1, .5, 3, .8)), hash(space))\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
