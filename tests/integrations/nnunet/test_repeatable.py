"""Batches that are drawn for measuring, beside those that are trained on."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter

from prox_monai.integrations.nnunet.repeatable import FixedBatches


class Noise:
    """A data loader that draws from all three random streams."""

    def __next__(self) -> dict:
        return {"data": (random.random(), float(np.random.rand()), float(torch.rand(())))}


@pytest.fixture(params=["this process", "workers"])
def loader(request):
    """What nnU-Net makes without and with worker processes; the workers have not started."""
    if request.param == "this process":
        return SingleThreadedAugmenter(Noise(), None)
    return NonDetMultiThreadedAugmenter(Noise(), None, num_processes=1)


def values(batches: FixedBatches) -> list[tuple]:
    return [batch["data"] for batch in batches]


def test_they_are_the_same_each_time(loader):
    batches = FixedBatches(loader, (0, "fixed"), 3)
    first = values(batches)
    random.random(), np.random.rand(), torch.rand(())
    assert values(batches) == first == values(FixedBatches(loader, (0, "fixed"), 3))
    assert len(set(first)) == 3


def test_they_depend_on_the_key(loader):
    assert values(FixedBatches(loader, (0,), 2)) != values(FixedBatches(loader, (1,), 2))


@pytest.mark.parametrize("drawn", [0, 1, 3])
def test_others_draw_as_if_there_were_none(loader, drawn):
    source = Noise()
    batches = FixedBatches(loader, (0,), 3)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    expected = [next(source), next(source)]
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    found = [next(source)]
    iterator = iter(batches)
    for _ in range(drawn):
        next(iterator)
    iterator.close()
    assert [*found, next(source)] == expected
