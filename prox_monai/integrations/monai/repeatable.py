"""What is drawn in an epoch as a function of seed and epoch, so that a resumed training draws the same."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sized

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.transforms import Randomizable
from torch.utils.data import Dataset, Sampler

from prox_monai.integrations.monai.ranks import rank


class EpochSeedHandler:
    """Seed Python, NumPy, torch and the random transforms of a data set at the start of every epoch.

    Listed before the handlers that draw. Each process of a distributed training has draws of its own.

    Args:
        seed: of the training.
        dataset: the data set whose ``transform`` is seeded; with worker processes MONAI seeds their copies from
            torch's.
    """

    def __init__(self, seed: int, dataset: Dataset) -> None:
        self.seed = seed
        self.dataset = dataset

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.epoch_started)

    def epoch_started(self, engine: Engine) -> None:
        """Seed everything that draws."""
        drawn = random.Random(f"{self.seed}:{engine.state.epoch}:{rank()}").getrandbits(32)
        random.seed(drawn)
        np.random.seed(drawn)
        torch.manual_seed(drawn)
        transform = getattr(self.dataset, "transform", None)
        if isinstance(transform, Randomizable):
            transform.set_random_state(seed=drawn)


class EpochSampler(Sampler[int]):
    """Draw a fixed number of samples an epoch, without replacement as long as the data last; each process for itself.

    Args:
        dataset: what is sampled.
        samples: per epoch and process.
        weights: relative frequency of each item, drawn with replacement then; all alike where None.

    Raises:
        ValueError: When there is nothing to draw from, or ``samples`` is below 1.
    """

    def __init__(self, dataset: Sized, samples: int, weights: list[float] | None = None) -> None:
        if len(dataset) == 0 or samples < 1:
            raise ValueError(f"samples must be at least 1, of at least 1 item, got {samples} of {len(dataset)}.")
        self.dataset = dataset
        self.samples = samples
        self.weights = weights

    def __len__(self) -> int:
        return self.samples

    def __iter__(self) -> Iterator[int]:
        if self.weights is not None:
            yield from torch.multinomial(torch.tensor(self.weights), self.samples, replacement=True).tolist()
            return
        drawn = 0
        while drawn < self.samples:
            order = torch.randperm(len(self.dataset)).tolist()[: self.samples - drawn]
            yield from order
            drawn += len(order)
