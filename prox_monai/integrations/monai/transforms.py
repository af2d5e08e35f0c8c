"""Transforms that MONAI lacks."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor


class CheckChannelsd(MapTransform):
    """Refuse an image with another number of channels than the network takes.

    Args:
        keys: items of shape ``(C, *spatial)`` to check.
        channels: the number.

    Raises:
        ValueError: When an image has another; the message says which.
    """

    def __init__(self, keys: KeysCollection, channels: int) -> None:
        super().__init__(keys)
        self.channels = channels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Check and return the same data."""
        for key in self.key_iterator(data):
            if len(data[key]) != self.channels:
                raise ValueError(f"{_file(data, key)} has {len(data[key])} channels, not {self.channels}.")
        return dict(data)


class CheckLabelsd(MapTransform):
    """Refuse a label map with a value that is not one of the labels.

    Args:
        keys: items to check.
        labels: number of labels, the background included: values are 0 ... labels - 1.

    Raises:
        ValueError: When a map has another value; the message says which, and in which file.
    """

    def __init__(self, keys: KeysCollection, labels: int) -> None:
        super().__init__(keys)
        self.labels = labels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Check and return the same data."""
        for key in self.key_iterator(data):
            values = torch.unique(torch.as_tensor(data[key]))
            others = [float(value) for value in values if float(value) not in range(self.labels)]
            if others:
                raise ValueError(f"{_file(data, key)} has the label {others[0]:g}, not 0 to {self.labels - 1}.")
        return dict(data)


class RegionsToLabelsd(MapTransform):
    """Turn overlapping regions into one label map; of several regions at a voxel, the later label wins.

    Args:
        keys: binary items of shape ``(regions, *spatial)``, which become ``(1, *spatial)``.
        regions: indices of the regions, from the outermost to the innermost.
        labels: label of each of them, in the same order.

    Raises:
        ValueError: When ``regions`` and ``labels`` differ in length.
    """

    def __init__(self, keys: KeysCollection, regions: Sequence[int], labels: Sequence[int]) -> None:
        super().__init__(keys)
        if len(regions) != len(labels):
            raise ValueError(f"labels must be {len(regions)}, one per region, got {len(labels)}.")
        self.pairs = tuple(zip(regions, labels, strict=True))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the regions by the label map."""
        result = dict(data)
        for key in self.key_iterator(data):
            regions: Tensor = data[key]
            labels = torch.zeros_like(regions[:1], dtype=torch.uint8)  # not the regions': bool knows one label
            for region, label in self.pairs:
                labels[regions[region : region + 1] > 0] = label
            result[key] = labels
        return result


def _file(data: Mapping[Hashable, Any], key: Hashable) -> Any:
    return getattr(data[key], "meta", {}).get("filename_or_obj", key)
