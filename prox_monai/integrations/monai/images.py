"""What is wrong with images, before a bundle predicts them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from monai.transforms import LoadImage
from tqdm import tqdm

from prox_monai.data.problems import raise_for_problems


def check_images(images: Sequence[str], channels: int, spatial_dims: int) -> None:
    """Read every image once and refuse what cannot be predicted, all of it named.

    Args:
        images: paths, as the inference of a bundle lists them.
        channels: number of channels that the network takes.
        spatial_dims: 2 or 3.

    Raises:
        ValueError: When a file is no image, or one has other dimensions or channels, is empty, has a channel that is
            constant, or values that are not finite.
    """
    load = LoadImage(image_only=True, ensure_channel_first=True)
    problems = []
    for image in tqdm(images, desc="checking", disable=None, leave=False):
        if problem := _problem(load, image, channels, spatial_dims):
            problems.append(f"{Path(image).name}: {problem}")
    raise_for_problems(Path(images[0]).parent, problems)


def _problem(load: LoadImage, image: str, channels: int, spatial_dims: int) -> str | None:
    """What is wrong with an image, if anything is."""
    try:
        array = load(image).as_tensor()
    except Exception:  # every library behind a reader has its own, and MONAI tells all of them at length
        return "cannot be read as an image"
    if array.ndim != spatial_dims + 1:
        return f"has {array.ndim - 1} dimensions, the model takes {spatial_dims}"
    if len(array) != channels:
        return f"has {len(array)} channels, the model takes {channels}"
    if not array.numel():
        return f"is empty, its size is {list(array.shape[1:])}"
    if not torch.isfinite(array).all():
        return f"holds {int((~torch.isfinite(array)).sum())} values that are not finite"
    constant = [number for number, channel in enumerate(array) if channel.min() == channel.max()]
    return f"channel {constant[0]} is constant" if constant else None
