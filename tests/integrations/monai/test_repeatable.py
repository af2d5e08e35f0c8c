"""What is drawn is a function of seed and epoch, so a training that was broken off goes on exactly."""

from __future__ import annotations

import random
from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

if find_spec("monai") is None or find_spec("ignite") is None:
    pytest.skip('needs MONAI and ignite: pip install "prox-monai[monai]"', allow_module_level=True)

from ignite.engine import Engine, Events
from monai.data import CacheDataset, DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.handlers import CheckpointLoader, CheckpointSaver
from monai.transforms import Compose, EnsureTyped, RandAffined, RandFlipd, RandGaussianNoised

from prox_monai.elastic import Supernet
from prox_monai.integrations.monai import repeatable
from prox_monai.integrations.monai.bundle import latest_checkpoint
from prox_monai.integrations.monai.handler import ExpansionHandler
from prox_monai.integrations.monai.repeatable import EpochSampler, EpochSeedHandler
from prox_monai.space import PhaseSchedule
from prox_monai.training import Distillation, ProgressiveTraining

SEED = 4


def epoch_draws(seed: int = SEED, epoch: int = 1, before: int = 0) -> tuple[object, ...]:
    """What is drawn in an epoch, whatever was drawn before."""
    transform = Compose([RandGaussianNoised("image", prob=0.9)])
    dataset = Dataset([{"image": torch.zeros(1, 2, 2)}], transform)
    for _ in range(before):
        random.random(), np.random.rand(), torch.rand(1), dataset[0]
    handler = EpochSeedHandler(seed, dataset)
    engine = Engine(lambda engine, batch: None)
    engine.state.epoch = epoch
    handler.attach(engine)
    engine.fire_event(Events.EPOCH_STARTED)
    return random.random(), np.random.rand(), torch.rand(1).item(), tuple(dataset[0]["image"].flatten().tolist())


def test_draws_are_a_function_of_seed_and_epoch():
    reference = epoch_draws()
    assert epoch_draws(before=3) == reference
    for other in (epoch_draws(seed=SEED + 1), epoch_draws(epoch=2)):
        assert all(a != b for a, b in zip(reference, other, strict=True))


def test_each_process_draws_for_itself(monkeypatch):
    reference = epoch_draws()
    monkeypatch.setattr(repeatable, "rank", lambda: 1)
    assert all(a != b for a, b in zip(reference, epoch_draws(), strict=True))


def test_a_data_set_without_random_transforms_is_left_alone():
    engine = SimpleNamespace(state=SimpleNamespace(epoch=1))
    for dataset in ([1, 2], Dataset([1], None), Dataset([1], EnsureTyped("image"))):
        EpochSeedHandler(SEED, dataset).epoch_started(engine)


@pytest.mark.parametrize(("items", "samples"), [(5, 3), (5, 5), (5, 17), (1, 4)])
def test_all_items_are_drawn_alike(items, samples):
    """None a second time before all others were drawn."""
    sampler = EpochSampler(range(items), samples)
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == samples
    for start in range(0, samples, items):
        part = drawn[start : start + items]
        assert len(set(part)) == len(part)
    assert set(drawn) <= set(range(items))


def test_two_epochs_differ_and_a_seed_repeats_them():
    sampler = EpochSampler(range(20), 20)
    first, second = list(sampler), list(sampler)
    assert first != second
    torch.manual_seed(0)
    assert (list(sampler), list(sampler)) == (first, second)


def test_weights_are_relative_frequencies():
    drawn = list(EpochSampler(range(3), 4000, weights=[1.0, 0.0, 3.0]))
    counts = [drawn.count(item) for item in range(3)]
    assert sum(counts) == 4000
    assert counts[1] == 0
    assert counts[2] / counts[0] == pytest.approx(3, rel=0.15)


@pytest.mark.parametrize(("items", "samples"), [(0, 3), (3, 0), (3, -1)])
def test_nothing_to_draw_is_refused(items, samples):
    with pytest.raises(ValueError, match=f"samples must be at least 1, of at least 1 item, got {samples} of {items}"):
        EpochSampler(range(items), samples)


class Broken(Exception):
    """Ends a training."""


class Run:
    """A training as a bundle's `train.json` makes it: random transforms, a shuffled loader, its order of handlers."""

    def __init__(self, family, folder, *, resume=False, broken_in=None, workers=0, shuffle=False, last=1) -> None:
        torch.manual_seed(random.getrandbits(30))  # nothing hangs on what was drawn before
        random_transforms = [
            EnsureTyped(["image", "label"]),
            RandFlipd(["image", "label"], prob=0.5, spatial_axis=0),
            RandAffined(["image", "label"], prob=0.5, rotate_range=[0.3], mode="nearest"),
            RandGaussianNoised("image", prob=0.5),
        ]
        data = [{key: value[0].float() for key, value in item.items()} for item in family.data]
        dataset = CacheDataset(data, Compose(random_transforms), progress=False)
        draw = {"shuffle": True} if shuffle else {"sampler": EpochSampler(dataset, 4)}
        self.supernet = Supernet(family.architecture, family.space)
        self.supernet.load_state_dict(family.state)
        schedule = PhaseSchedule.prox(family.space, [2] * 5 + [last], polish=True)
        training = ProgressiveTraining(self.supernet, schedule, seed=SEED, distillation=Distillation(0.5))
        expansion = ExpansionHandler(training, learning_rate=0.01)
        self.optimizer = torch.optim.AdamW(self.supernet.parameter_groups(0.01))
        saved = {"expansion": expansion, "model": self.supernet, "optimizer": self.optimizer}
        self.trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=schedule.total_epochs,
            train_data_loader=DataLoader(dataset, batch_size=2, num_workers=workers, **draw),
            network=self.supernet,
            optimizer=self.optimizer,
            loss_function=training.criterion(F.cross_entropy),
            iteration_update=expansion.update,
            train_handlers=[
                *([CheckpointLoader(latest_checkpoint(folder), saved)] if resume else []),
                EpochSeedHandler(SEED, dataset),
                expansion,
                CheckpointSaver(str(folder), saved, save_interval=1, n_saved=1),
            ],
        )
        self.epochs: list[int] = []
        self.trainer.add_event_handler(Events.EPOCH_STARTED, lambda engine: self.epochs.append(engine.state.epoch))
        if broken_in is not None:
            self.trainer.add_event_handler(Events.ITERATION_COMPLETED, self.end, broken_in)

    @staticmethod
    def end(engine: Engine, epoch: int) -> None:
        """Break off in the middle of an epoch."""
        if engine.state.epoch == epoch:
            raise Broken

    def differences(self, other: Run) -> list[object]:
        """What differs in weights and optimizer."""
        ours, theirs = self.tensors(), other.tensors()
        assert len(theirs) > 2 * len(list(self.supernet.parameters()))
        return [name for name in theirs if name not in ours or not torch.equal(ours[name], theirs[name])]

    def tensors(self) -> dict[object, torch.Tensor]:
        """Weights, and what the optimizer keeps of each."""
        kept = self.optimizer.state_dict()["state"]
        return self.supernet.state_dict() | {(i, name): value for i in kept for name, value in kept[i].items()}


@pytest.mark.parametrize(("shuffle", "workers"), [(True, 0), (False, 1)])
def test_a_seed_repeats_a_training(plain_family, tmp_path, shuffle, workers):
    runs = [Run(plain_family, tmp_path / str(i), shuffle=shuffle, workers=workers) for i in range(2)]
    for run in runs:
        random.seed()
        run.trainer.run()
    assert runs[0].differences(runs[1]) == []


@pytest.mark.parametrize(("broken_in", "shuffle"), [(2, False), (3, True), (4, False), (11, True)])
def test_a_training_that_was_broken_off_goes_on_as_if_it_had_not_been(family, tmp_path, broken_in, shuffle):
    """In the middle and at the start of a phase (two epochs each), where depth opens, and in polishing."""
    straight = Run(family, tmp_path / "straight", shuffle=shuffle)
    straight.trainer.run()
    first = Run(family, tmp_path / "broken", broken_in=broken_in, shuffle=shuffle)
    with pytest.raises(Broken):
        first.trainer.run()
    assert first.epochs == list(range(1, broken_in + 1))
    second = Run(family, tmp_path / "broken", resume=True, shuffle=shuffle)
    assert second.differences(straight)
    second.trainer.run()
    assert second.epochs == list(range(broken_in, 12))
    assert second.trainer.state.iteration == straight.trainer.state.iteration
    assert second.differences(straight) == []


def test_a_finished_training_has_nothing_to_go_on_with(plain_family, tmp_path):
    first = Run(plain_family, tmp_path)
    first.trainer.run()
    second = Run(plain_family, tmp_path, resume=True)
    second.trainer.run()
    assert second.epochs == []
    assert second.differences(first) == []


def test_other_phases_are_refused(plain_family, family_of, tmp_path):
    """A supernet takes on the space of the state that is loaded, and then its optimizer would move dead tensors."""
    Run(plain_family, tmp_path).trainer.run()
    with pytest.raises(
        ValueError, match=r"begun with other phases: 2, 2, 2, 2, 2, 1 epochs, .*, now 2, 2, 2, 2, 2, 3 e"
    ):
        Run(plain_family, tmp_path, resume=True, last=3).trainer.run()
    smaller = family_of(space=replace(plain_family.space, resolution=(0.7, 1)))
    with pytest.raises(ValueError, match="begun with other phases: .* go on with the space, the epochs and the method"):
        Run(smaller, tmp_path, resume=True).trainer.run()
