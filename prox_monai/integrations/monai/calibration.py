"""Training images on which normalisation statistics of subnets are estimated."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.utils import convert_to_tensor
from torch import Tensor


def calibration_images(
    dataset: Sequence[Mapping[Hashable, Any]],
    count: int,
    *,
    weights: Sequence[float] | None = None,
    key: Hashable = "image",
) -> Tensor:
    """Return images of a data set as one batch ``(B, C, *spatial)``, always the same: evenly spaced in its order.

    A list of cases is often sorted by class; its first images would be of one class.

    Args:
        dataset: training data under deterministic transforms, which give all images one shape.
        count: number of images; without weights all of them where there are fewer.
        weights: relative frequency of each item, as training draws them; all alike where None.
        key: item of the data set that holds the image.

    Raises:
        ValueError: When ``count`` is below 1, or there is no image.
    """
    if count < 1 or not len(dataset):
        raise ValueError(f"count must be at least 1, of at least 1 image, got {count} of {len(dataset)}.")
    if weights is None:
        weights, count = [1.0] * len(dataset), min(count, len(dataset))
    ends = torch.tensor(weights, dtype=torch.float64).cumsum(0)
    places = (torch.arange(count, dtype=torch.float64) + 0.5) * (ends[-1] / count)
    chosen = torch.searchsorted(ends, places).tolist()
    return torch.stack([convert_to_tensor(dataset[index][key], track_meta=False) for index in chosen])
