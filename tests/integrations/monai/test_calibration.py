from __future__ import annotations

import re

import pytest
import torch

pytest.importorskip("monai", reason='needs pip install "prox-monai[monai]"')

from monai.data import MetaTensor

from prox_monai.integrations.monai import balancing_weights, calibration_images


def dataset(length: int) -> list[dict[str, torch.Tensor]]:
    return [{"image": torch.full((1, 2, 3), float(number)), "scan": torch.tensor([number])} for number in range(length)]


@pytest.mark.parametrize(
    ("length", "count", "chosen"),
    [(10, 5, [0, 2, 4, 6, 8]), (5, 3, [0, 2, 4]), (4, 4, [0, 1, 2, 3]), (3, 64, [0, 1, 2])],
)
def test_images_are_evenly_spaced(length, count, chosen):
    images = calibration_images(dataset(length), count)
    assert images.shape == (len(chosen), 1, 2, 3)
    assert images[:, 0, 0, 0].tolist() == chosen


def test_weighted_images_come_as_often_as_their_weights_say():
    items = [{"label": label} for label in (0, 0, 0, 0, 1, 2, 2)]
    images = calibration_images(dataset(7), 12, weights=balancing_weights(items))
    assert images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 4, 4, 4, 5, 5, 6, 6]


def test_it_is_a_plain_tensor():
    """Not MONAI's, which carries the meta data of its images through every layer."""
    images = calibration_images([{"image": MetaTensor(torch.ones(1, 2))}] * 2, 2)
    assert type(images) is torch.Tensor


def test_another_key():
    assert calibration_images(dataset(2), 2, key="scan").tolist() == [[0], [1]]


@pytest.mark.parametrize(("length", "count"), [(3, 0), (0, 3)])
def test_nothing_to_calibrate_on(length, count):
    message = f"count must be at least 1, of at least 1 image, got {count} of {length}."
    with pytest.raises(ValueError, match=re.escape(message)):
        calibration_images(dataset(length), count)
