"""The cases of a datalist, and the transforms."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
import torch
from monai.apps.auto3dseg import AutoRunner

from prox_monai.integrations.auto3dseg import algos
from prox_monai.integrations.auto3dseg.data import (
    check_classes,
    deterministic_transforms,
    normalisation,
    read_split,
    rotations,
    training_transforms,
)
from prox_monai.integrations.auto3dseg.folder import AlgoFolder


@pytest.fixture
def parameters(generate):
    return AlgoFolder.at(generate().output_path).parameters()


def test_a_fold(cases):
    split = read_split(str(cases.datalist), str(cases.folder), 1)
    assert [len(split.training), len(split.validation)] == [3, 2]
    assert all(set(item) == {"image", "label"} for item in [*split.training, *split.validation])
    assert not {item["image"] for item in split.training} & {item["image"] for item in split.validation}


def test_a_datalist_with_validation_cases(cases, tmp_path, quiet_monai):
    """AutoRunner makes a fold of them."""

    def apart(content):
        for case in content["training"]:
            del case["fold"]
        content["validation"] = content["training"][3:]
        content["training"] = content["training"][:3]

    changed = cases.change(tmp_path / "validation.json", apart)
    logging.disable(logging.INFO)  # a message of MONAI's is malformed there
    try:
        runner = AutoRunner(str(tmp_path / "work"), changed.source, algos())
    finally:
        logging.disable(logging.NOTSET)
    assert runner.num_fold == 1
    split = read_split(runner.datalist_filename, str(cases.folder), 0)
    assert [len(split.training), len(split.validation)] == [3, 2]


def test_a_class_in_no_training_case_is_refused(cases):
    training = read_split(str(cases.datalist), str(cases.folder), 0).training
    check_classes(training, 3, 0)
    with pytest.raises(ValueError, match="every class must occur in the training cases of fold 0; .* has 3, 4"):
        check_classes(training, 5, 0)


def test_training_patches(parameters, cases):
    (patch,) = training_transforms(parameters)(read_split(str(cases.datalist), str(cases.folder), 0).training[0])
    assert patch["image"].shape == (1, *parameters.topology.patch)
    assert patch["label"].shape == (1, *parameters.topology.patch)
    assert patch["image"].dtype == torch.float32
    assert set(torch.unique(torch.as_tensor(patch["label"])).tolist()) <= {0, 1, 2}


def apply(transforms, data):
    for transform in transforms:
        data = transform(data)
    return data


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("input_channels", 2, "has 1 channels, not 2"),
        ("output_classes", 2, "has the label 2, not 0 to 1"),
    ],
)
def test_other_channels_and_labels_are_refused_by_file(name, value, message, parameters, cases):
    case = read_split(str(cases.datalist), str(cases.folder), 0).training[0]
    changed = dataclasses.replace(parameters, **{name: value})
    with pytest.raises(ValueError, match=message):
        apply(deterministic_transforms(changed, ["image", "label"]), case)


def test_normalisation(parameters):
    image = torch.tensor(np.random.default_rng(0).normal(50, 20, (2, 8, 8, 8)), dtype=torch.float32)
    image[:, :4] = 0
    whole, filled = (
        apply(normalisation(dataclasses.replace(parameters, normalize_mode=mode)), {"image": image.clone()})["image"]
        for mode in ("image", "nonzero")
    )
    assert whole.mean().abs() < 1e-5
    assert (filled[:, :4] == 0).all()
    assert filled[:, 4:].mean().abs() < 1e-5
    ct = dataclasses.replace(parameters, normalize_mode="ct", intensity=(30.0, 70.0, 50.0, 10.0))
    scaled = apply(normalisation(ct), {"image": image.clone()})["image"]
    assert torch.allclose(torch.as_tensor(scaled), (image.clip(30, 70) - 50) / 10, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [((3, 3, 3), [0.3, 0.3, 0.3]), ((3, 3, 1), [0, 0, 0.3]), ((1, 3, 3), [0.3, 0, 0]), ((1, 3, 1), [0, 0, 0])],
)
def test_only_fine_axes_are_turned_into_each_other(kernel, expected):
    assert rotations(kernel) == expected
