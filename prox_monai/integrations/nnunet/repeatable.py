"""Batches as functions of seed, epoch and step, so that a resumed run is the same run."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms


def make_repeatable(loader: Any, key: Callable[[], tuple[Any, ...]]) -> Any:
    """Return a loader whose n-th batch under a key depends on the key and n alone.

    With worker processes batches arrive in no fixed order, so such a loader is returned as it is.

    Args:
        loader: what nnU-Net's ``get_dataloaders`` made.
        key: what the batches depend on, for example seed and epoch; counting starts anew when it changes.
    """
    if not isinstance(loader, SingleThreadedAugmenter):
        return loader
    _fix_method(loader.data_loader.transforms)
    return _SeededBatches(loader, key)


class _SeededBatches:
    def __init__(self, loader: Iterator[dict], key: Callable[[], tuple[Any, ...]]) -> None:
        self._loader, self._key = loader, key
        self._current: tuple[Any, ...] | None = None
        self._count = 0

    def __iter__(self) -> _SeededBatches:
        return self

    def __next__(self) -> dict:
        key = self._key()
        self._count = self._count + 1 if key == self._current else 0
        self._current = key
        seed = int.from_bytes(sha256(repr((key, self._count)).encode()).digest()[:4])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        return next(self._loader)


def _fix_method(transform: Any) -> None:
    """Let Gaussian blur choose its method by size, not by timing."""
    if isinstance(transform, ComposeTransforms):
        for part in transform.transforms:
            _fix_method(part)
    elif isinstance(transform, GaussianBlurTransform):
        transform.benchmark = False
    elif hasattr(transform, "transform"):
        _fix_method(transform.transform)
