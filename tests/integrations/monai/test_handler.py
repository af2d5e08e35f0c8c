"""Expansion in MONAI's stock trainer is that of a plain loop."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

if find_spec("monai") is None or find_spec("ignite") is None:
    pytest.skip('needs MONAI and ignite: pip install "prox-monai[monai]"', allow_module_level=True)

from monai.engines import SupervisedTrainer
from monai.handlers import CheckpointLoader, CheckpointSaver, EarlyStopHandler, StatsHandler

from prox_monai.elastic import Supernet
from prox_monai.integrations.monai.handler import ExpansionHandler, TrainedModel
from prox_monai.networks import UNetArchitecture
from prox_monai.space import PhaseSchedule, SearchSpace, unet_groups
from prox_monai.training import Distillation, ProgressiveTraining

ARCHITECTURE = UNetArchitecture(2, 1, 2, (4, 8), ((1, 1), (2, 2)), norm="batch")
SPACE = SearchSpace(3, (1, 2), (0.5, 1), (3, 5), (0.5, 1), unet_groups(2))
SCHEDULES = {
    "prox": PhaseSchedule.prox(SPACE, 5),
    "polished": PhaseSchedule.prox(SPACE, 6, polish=True),
    "shrinking": PhaseSchedule.progressive_shrinking(SPACE, 4, subnets_per_step=[1, 2, 4], reorder=True),
}
RATE = 0.01


def batches() -> list[dict[str, torch.Tensor]]:
    data = torch.Generator().manual_seed(0)
    return [
        {"image": torch.randn(2, 1, 8, 8, generator=data), "label": torch.randint(2, (2, 8, 8), generator=data)}
        for _ in range(3)
    ]


class Run:
    """A training with MONAI's engine."""

    def __init__(self, schedule: PhaseSchedule, handlers=(), patch="full", **options) -> None:
        torch.manual_seed(0)
        self.supernet = Supernet(ARCHITECTURE, SPACE)
        self.training = ProgressiveTraining(
            self.supernet, schedule, seed=3, distillation=Distillation(0.5), patch=patch
        )
        self.expansion = ExpansionHandler(self.training, learning_rate=RATE)
        self.optimizer = torch.optim.AdamW(self.supernet.parameter_groups(RATE), weight_decay=0.1)
        self.trainer = SupervisedTrainer(
            **{
                "device": torch.device("cpu"),
                "max_epochs": schedule.total_epochs,
                "train_data_loader": batches(),
                "network": self.supernet,
                "optimizer": self.optimizer,
                "loss_function": self.training.criterion(F.cross_entropy),
                "iteration_update": self.expansion.update,
                "train_handlers": [self.expansion, *handlers],
                "decollate": False,
                **options,
            }
        )

    @property
    def saved(self) -> dict[str, object]:
        return {"net": self.supernet, "opt": self.optimizer, "training": self.training, "trainer": self.trainer}


def plain(schedule: PhaseSchedule) -> Supernet:
    """The same without MONAI."""
    run = Run(schedule)
    training, optimizer, supernet = run.training, run.optimizer, run.supernet
    loss, data = training.criterion(F.cross_entropy), batches()
    for epoch in range(schedule.total_epochs):
        phase = training.begin_epoch(epoch, [batch["image"] for batch in data])
        if phase.reorder and epoch == schedule.first_epoch(phase):
            optimizer.state.clear()
        for step, batch in enumerate(data):
            run.expansion._set_learning_rate(run.trainer, epoch + step / len(data))
            optimizer.zero_grad()
            count = len(training.subnets_at(epoch, step))
            for _ in training.begin_step(step):
                training.distill(batch["image"])
                (loss(supernet.train()(batch["image"]), batch["label"]) / count).backward()
            optimizer.step()
    return supernet


def differing(a: Supernet, b: Supernet) -> list[str]:
    ours, theirs = a.state_dict(), b.state_dict()
    return [name for name in ours if not torch.equal(ours[name], theirs[name])]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_it_is_the_training_of_a_plain_loop(schedule):
    run = Run(SCHEDULES[schedule])
    before = {name: tensor.clone() for name, tensor in run.supernet.state_dict().items()}
    run.trainer.run()
    assert differing(run.supernet, plain(SCHEDULES[schedule])) == []
    assert any(not torch.equal(tensor, before[name]) for name, tensor in run.supernet.state_dict().items())


def test_a_patch_may_grow():
    seen = []
    handler = StatsHandler(output_transform=lambda x: seen.append(x) or x["loss"])
    schedule = PhaseSchedule.prox(SPACE.restrict(resolution=(1,)), [2] * 4)
    Run(schedule, handlers=[handler], patch="growing").trainer.run()
    sizes = [tuple(output["image"].shape[2:]) for output in seen]
    assert set(sizes[0:3]) == {(6, 6)}
    assert set(sizes[-3:]) == {(8, 8)}
    assert all(output["label"].shape[1:] == output["pred"].shape[2:] == output["image"].shape[2:] for output in seen)


def test_the_output_holds_what_handlers_expect(caplog):
    seen = []
    run = Run(SCHEDULES["polished"], handlers=[StatsHandler(output_transform=lambda x: seen.append(x) or x["loss"])])
    run.trainer.run()
    assert len(seen) >= 6 * 3
    assert all({"image", "label", "pred", "loss"} <= set(output) for output in seen)
    assert seen[-1]["loss"].ndim == 0
    assert seen[-1]["pred"].shape == (2, 2, 8, 8)


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_a_run_that_was_saved_goes_on_as_if_it_had_not_ended(cut, tmp_path):
    """After the first phase, at a phase's boundary, before polishing; MONAI's own saver and loader."""
    schedule = SCHEDULES["polished"]
    first = Run(schedule, max_epochs=cut)
    CheckpointSaver(str(tmp_path), first.saved, save_final=True).attach(first.trainer)
    first.trainer.run()
    torch.manual_seed(99)
    second = Run(schedule)
    (path,) = Path(tmp_path).glob("*.pt")
    CheckpointLoader(str(path), second.saved).attach(second.trainer)
    second.trainer.run()
    straight = Run(schedule)
    straight.trainer.run()
    assert second.trainer.state.epoch == schedule.total_epochs
    assert differing(second.supernet, straight.supernet) == []


@pytest.mark.filterwarnings("ignore:'(min|cumulative)_delta' is deprecated:DeprecationWarning")
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_what_no_phase_came_to_is_not_in_the_model(schedule, tmp_path):
    """A training that MONAI's handler ends after its second epoch: Ignite completes it all the same."""
    stop = EarlyStopHandler(patience=1, score_function=lambda engine: 0.0)
    run = Run(SCHEDULES[schedule], handlers=[stop])
    stop.set_trainer(run.trainer)
    final = {"save_final": True, "final_filename": "model.pt"}
    CheckpointSaver(str(tmp_path), {"model": TrainedModel(run.expansion)}, **final).attach(run.trainer)
    run.trainer.run()
    assert run.trainer.state.epoch == 2 < SCHEDULES[schedule].total_epochs
    trained = SCHEDULES[schedule].phase_at(1).space
    supernet = Supernet(ARCHITECTURE, SPACE)
    supernet.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert supernet.space == trained
    assert trained.size() < SPACE.size()
    assert all(
        torch.equal(tensor, run.supernet.extract(config).state_dict()[name])
        for config in trained
        for name, tensor in supernet.extract(config).state_dict().items()
    )


def test_the_model_of_a_whole_training_is_its_network():
    run = Run(SCHEDULES["polished"])
    assert run.expansion.trained().space == SCHEDULES["polished"].phases[0].space
    run.trainer.run()
    assert run.expansion.trained() is run.supernet


GRADIENT_SCALE = 2.0**10


@pytest.fixture
def mixed_precision(monkeypatch):
    """As on a GPU, where MONAI makes an enabled scaler; autocast remains without effect on a CPU."""

    def scaler():
        return torch.amp.GradScaler("cpu", init_scale=GRADIENT_SCALE, growth_interval=4)

    monkeypatch.setattr(torch.cuda.amp, "GradScaler", scaler)


@pytest.mark.filterwarnings("ignore:CUDA is not available:UserWarning")
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_scaled_gradients_train_the_same(schedule, mixed_precision):
    """A power of two rounds nothing, also where several subnets make a step."""
    run = Run(SCHEDULES[schedule], amp=True)
    run.trainer.run()
    assert differing(run.supernet, plain(SCHEDULES[schedule])) == []
    assert run.trainer.scaler.get_scale() == GRADIENT_SCALE * 2 ** (3 * SCHEDULES[schedule].total_epochs // 4)


@pytest.mark.filterwarnings("ignore:CUDA is not available:UserWarning")
def test_a_run_in_mixed_precision_goes_on_with_its_scale(mixed_precision, tmp_path):
    def saved(run):
        return {"expansion": run.expansion, "model": run.supernet, "optimizer": run.optimizer}

    schedule = SCHEDULES["polished"]
    first = Run(schedule, amp=True, max_epochs=3)
    CheckpointSaver(str(tmp_path), saved(first), save_final=True).attach(first.trainer)
    first.trainer.run()
    second, (path,) = Run(schedule, amp=True), tmp_path.glob("*.pt")
    for name, state in torch.load(path, weights_only=True).items():
        saved(second)[name].load_state_dict(state)
    second.trainer.run()
    straight = Run(schedule, amp=True)
    straight.trainer.run()
    assert second.trainer.scaler.state_dict() == straight.trainer.scaler.state_dict()
    assert differing(second.supernet, straight.supernet) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="MONAI's scaler is disabled without a GPU only")
@pytest.mark.filterwarnings("ignore:CUDA is not available:UserWarning", "ignore:.*GradScaler")
def test_mixed_precision_without_a_gpu_is_none(tmp_path):
    """What MONAI itself does there."""
    run = Run(SCHEDULES["polished"], amp=True)
    run.trainer.run()
    assert not run.trainer.scaler.is_enabled()
    assert run.expansion.state_dict()["scaler"] == {}
    assert differing(run.supernet, plain(SCHEDULES["polished"])) == []


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"accumulation_steps": 2}, "accumulation_steps of the trainer must be 1 in expansion, .*, got 2"),
        ({"compile": True}, "compile of the trainer must be False in expansion, .*, got True"),
    ],
)
def test_options_that_an_iteration_of_ours_would_not_obey_are_refused(option, message):
    run = Run(SCHEDULES["prox"], **option)
    with pytest.raises(ValueError, match=message):
        run.trainer.run()


def test_more_epochs_than_phases_are_refused():
    run = Run(SCHEDULES["prox"], max_epochs=6)
    with pytest.raises(ValueError, match="max_epochs must be at most 5, the length of the schedule, got 6"):
        run.trainer.run()


def test_another_network_is_refused():
    run = Run(SCHEDULES["prox"], network=Supernet(ARCHITECTURE, SPACE))
    with pytest.raises(ValueError, match="network must be the supernet of the training that is expanded"):
        run.trainer.run()


def test_a_trainer_that_iterates_by_itself_is_refused():
    run = Run(SCHEDULES["prox"], iteration_update=None)
    with pytest.raises(ValueError, match="iteration_update of the trainer must be the handler's"):
        run.trainer.run()
