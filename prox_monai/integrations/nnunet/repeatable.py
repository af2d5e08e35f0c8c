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

from prox_monai.evaluation.threads import torch_threads


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
        seed = _seed_of(key, self._count)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        with torch_threads(1):  # as in worker processes: the many small operations of an augmentation lose by sharing
            return next(self._loader)


class FixedBatches:
    """The same few batches each time they are iterated, drawn in this process, also where worker processes load.

    Whoever draws random numbers goes on as if none had been drawn here.

    Args:
        loader: what nnU-Net's ``get_dataloaders`` made; its own stream of batches is left alone.
        key: what the batches depend on, for example the seed.
        count: number of batches.
    """

    def __init__(self, loader: Any, key: tuple[Any, ...], count: int) -> None:
        self._source = loader.data_loader if isinstance(loader, SingleThreadedAugmenter) else loader.generator
        self._key, self._count = key, count

    def __iter__(self) -> Iterator[dict]:
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        try:
            for number in range(self._count):
                seed = _seed_of(self._key, number)
                random.seed(seed)
                np.random.seed(seed)
                torch.default_generator.manual_seed(seed)
                yield next(self._source)
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])


def _seed_of(key: tuple[Any, ...], count: int) -> int:
    return int.from_bytes(sha256(repr((key, count)).encode()).digest()[:4])


def _fix_method(transform: Any) -> None:
    """Let Gaussian blur choose its method by size, not by timing."""
    if isinstance(transform, ComposeTransforms):
        for part in transform.transforms:
            _fix_method(part)
    elif isinstance(transform, GaussianBlurTransform):
        transform.benchmark = False
    elif hasattr(transform, "transform"):
        _fix_method(transform.transform)
