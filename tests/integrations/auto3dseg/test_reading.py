"""Parameters as Auto3DSeg passes them."""

from __future__ import annotations

import pytest

from prox_monai.integrations.auto3dseg.reading import read_names, read_parameters

GIVEN = {
    "data_list_file_path": "/d/datalist.json",
    "data_file_base_dir": "/d",
    "fold": 0,
    "input_channels": 1,
    "output_classes": 3,
    "roi_size": [16, 16, 16],
    "resample_resolution": [1.0, 1.0, 1.0],
    "normalize_mode": "image",
    "num_epochs": 10,
    "num_epochs_per_validation": 5,
    "num_images_per_batch": 2,
    "prox_iterations_per_epoch": 10,
    "prox_depth": [1, 2],
    "prox_width": [0.5, 1.0],
    "prox_kernel": [3],
    "prox_resolution": [1.0],
    "prox_channels": 8,
}


@pytest.mark.parametrize(
    "text", ["16,24,32", "'16,24,32'", "[16, 24, 32]", "(16,24,32)", '"16,24,32"', (16, 24, 32), [16, 24, 32]]
)
def test_a_list_in_any_of_the_forms_that_arrive(text):
    assert read_parameters(GIVEN, {"roi_size": text}).roi_size == (16, 24, 32)


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("num_epochs", "12", 12),
        ("learning_rate", "0.01", 0.01),
        ("learning_rate", 1, 1.0),
        ("prox_width", 0.5, (0.5,)),
        ("prox_width", "'0.25,0.5'", (0.25, 0.5)),
        ("prox_preset", "paper", "paper"),
        ("amp", "False", False),
        ("intensity", [], ()),
        ("subnet", "smallest, d1-w.5-k3-r1", ("smallest", "d1-w.5-k3-r1")),
        ("subnet", ["smallest", "largest"], ("smallest", "largest")),
    ],
)
def test_values(name, value, read):
    assert getattr(read_parameters(GIVEN, {name: value}), name) == read


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_epoch", 3, "unknown parameter 'num_epoch', did you mean 'num_epochs'"),
        ("zzz", 3, "unknown parameter 'zzz'; The parameters of prox are data_list_file_path, "),
        ("network#channels", 3, "network#channels is nested: the parameters of prox are flat"),
        ("num_epochs", {"a": 1}, "num_epochs is nested"),
        ("num_epochs", 0, "num_epochs must be an integer >= 1, got 0"),
        ("num_epochs", 2.5, "num_epochs must be an integer >= 1, got 2.5"),
        ("num_epochs", True, "num_epochs must be an integer >= 1, got True"),
        ("num_epochs", "many", "num_epochs must be an integer >= 1, got 'many'"),
        ("roi_size", "16,16", "roi_size must be three integers >= 1, got '16,16'"),
        ("learning_rate", 0, "learning_rate must be a number > 0, got 0"),
        ("prox_preset", "best", "prox_preset must be one of plus, paper"),
        ("prox_preset", "standalone", "prox_preset must be one of plus, paper"),
        ("prox_depth", "[]", "prox_depth must be integers >= 1"),
        ("overlap_ratio", 1, r"overlap_ratio must be a number in \[0, 0.95\], got 1"),
        ("subnet", "", "subnet must be a subnet's name, or several, got ''"),
        ("amp", "yes", "amp must be true or false, got 'yes'"),
    ],
)
def test_what_is_wrong_is_refused_by_name(name, value, message):
    with pytest.raises(ValueError, match=message):
        read_parameters(GIVEN, {name: value})


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ValueError, match=r"fold must be .* 'num_epoch', did you mean .* roi_size must be given"):
        read_parameters({n: v for n, v in GIVEN.items() if n != "roi_size"} | {"fold": -1}, {"num_epoch": 1})


def test_names():
    assert read_names("a, b") == ("a", "b")
    for wrong in ([], "", [1]):
        with pytest.raises(ValueError, match="subnet must be a subnet's name, or several, got"):
            read_names(wrong)
