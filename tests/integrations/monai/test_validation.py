"""The sampling handler in the validation of a training."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch.nn import functional as F

if find_spec("monai") is None or find_spec("ignite") is None:
    pytest.skip('needs MONAI and ignite: pip install "prox-monai[monai]"', allow_module_level=True)

from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.handlers import CheckpointSaver, ValidationHandler

from prox_monai.elastic import Supernet
from prox_monai.elastic.resolution import without_resolution
from prox_monai.integrations.monai.choice import LargestOfPhase
from prox_monai.integrations.monai.handler import ExpansionHandler
from prox_monai.integrations.monai.sampling import SubnetSamplingHandler
from prox_monai.space import PhaseSchedule
from prox_monai.training import ProgressiveTraining

EPOCHS = 5


@pytest.fixture
def train(evaluation, tmp_path):
    """Trains through all phases, with or without a validation after every second epoch."""

    def run(family, *, validate):
        torch.manual_seed(0)
        supernet = Supernet(family.architecture, family.space)
        training = ProgressiveTraining(supernet, PhaseSchedule.prox(family.space, EPOCHS))
        expansion = ExpansionHandler(training, learning_rate=0.01)
        sampling = SubnetSamplingHandler(
            supernet, (1, 8, 8), choice=LargestOfPhase(training), calibration=family.calibration
        )
        best = CheckpointSaver(str(tmp_path), {"net": supernet}, save_key_metric=True, key_metric_filename="best.pt")
        validation = evaluation(family, [sampling, best], network=supernet)
        seen = []
        validation.evaluator.add_event_handler(
            Events.EPOCH_COMPLETED,
            lambda engine: seen.append((engine.state.epoch, engine.state.metrics["dice"], training.phase.index)),
        )
        optimizer = torch.optim.AdamW(supernet.parameter_groups(0.01))
        trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=EPOCHS,
            train_data_loader=[batch | {"label": batch["label"].float()} for batch in family.data],
            network=supernet,
            optimizer=optimizer,
            loss_function=training.criterion(F.cross_entropy),
            iteration_update=expansion.update,
            train_handlers=[expansion, *([ValidationHandler(2, validation.evaluator)] if validate else [])],
            decollate=False,
        )
        trainer.run()
        return supernet, validation, seen

    return run


def test_validation_keeps_the_epochs_and_the_best_of_the_training(family, train, tmp_path):
    supernet, validation, seen = train(family, validate=True)
    evaluator = validation.evaluator
    assert [epoch for epoch, _, _ in seen] == validation.epochs == [2, 4]
    best = max(seen, key=lambda entry: entry[1])
    assert (evaluator.state.best_metric_epoch, evaluator.state.best_metric) == best[:2]
    assert torch.load(tmp_path / "best.pt", weights_only=True).keys() == supernet.state_dict().keys()
    assert evaluator.network is supernet


def test_the_largest_of_the_phase_is_validated(plain_family, train):
    """Its parameters say which it is."""
    supernet, validation, seen = train(plain_family, validate=True)
    phases = PhaseSchedule.prox(plain_family.space, EPOCHS).phases
    for network, (_, _, phase) in zip(validation.networks, seen, strict=True):
        expected = supernet.parameter_shapes(phases[phase].largest())
        plain = without_resolution(network)
        assert {name: tuple(parameter.shape) for name, parameter in plain.named_parameters()} == expected
    assert len({phase for _, _, phase in seen}) == 2


def test_validation_does_not_disturb_the_training(family, train):
    with_validation, without = (train(family, validate=validate)[0].state_dict() for validate in (True, False))
    assert [name for name in without if not torch.equal(with_validation[name], without[name])] == []
