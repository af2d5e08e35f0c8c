"""Progressive expansion in MONAI's ``SupervisedTrainer``, without an engine of our own."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from prox_monai.elastic import Supernet
from prox_monai.space import PhaseSchedule
from prox_monai.training import ProgressiveTraining
from prox_monai.training.learning_rate import Decay, learning_rate

_OPENING_BATCHES = 4

logger = logging.getLogger(__name__)


class ExpansionHandler:
    """Let a ``SupervisedTrainer`` expand a supernet: its epochs are the schedule's, its iterations train subnets.

    The trainer takes :meth:`update` as its ``iteration_update``: it makes the same pieces and events of an iteration as
    MONAI's own: a forward and a backward pass for each subnet of a step (one, or several in a polishing phase) on the
    same batch, then one step of the optimizer; the events of loss and backward pass follow the last. So handlers of
    losses, checkpoints and learning rates work as usual::

        expansion = ExpansionHandler(training, learning_rate=3e-3)
        trainer = SupervisedTrainer(
            ..., network=supernet, loss_function=training.criterion(loss), iteration_update=expansion.update,
            train_handlers=[expansion, ...], max_epochs=training.schedule.total_epochs,
        )

    A ``CheckpointSaver`` listed after it, whose ``save_dict`` holds network, optimizer and this handler, saves all that
    a run needs to go on; a ``CheckpointLoader`` is listed before it. A configuration cannot name a trainer among the
    things that its own handlers save, so the handler keeps the epoch, too.

    A run may end early, by MONAI's ``EarlyStopHandler`` or fewer ``max_epochs``: then later phases have trained nothing
    of what they add. The model that is to be used is therefore saved as :class:`TrainedModel`, not as the network.

    Args:
        training: the phases of the supernet that the trainer trains.
        learning_rate: its peak; None leaves it to other handlers.
        decay: see :func:`~prox_monai.training.learning_rate.learning_rate`.
    """

    def __init__(
        self, training: ProgressiveTraining, *, learning_rate: float | None = None, decay: Decay = "phase"
    ) -> None:
        self.training = training
        self.learning_rate = learning_rate
        self.decay: Decay = decay
        self._updated = False
        self._epochs = 0
        self._scaler: torch.amp.GradScaler | None = None
        self._scaler_state: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the epochs that are done, the state of the training and of mixed precision."""
        scaler = self._scaler.state_dict() if self._scaler is not None else {}
        schedule = self.training.schedule.to_dict()
        return {"epochs": self._epochs, "schedule": schedule, "training": self.training.state_dict(), "scaler": scaler}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned; the trainer goes on after these epochs.

        Raises:
            ValueError: When the training was begun with other phases, or another seed, freeze, distillation or patch.
        """
        begun, phases = PhaseSchedule.from_dict(state["schedule"]), self.training.schedule
        if begun != phases:
            raise ValueError(
                f"the training was begun with other phases: {_described(begun)}, now {_described(phases)}; go on with "
                f"the space, the epochs and the method that it was begun with."
            )
        self.training.load_state_dict(state["training"])
        self._epochs = state["epochs"]
        self._scaler_state = state["scaler"]

    def trained(self) -> Supernet:
        """Return the supernet of the subnets that were trained by the end of the last epoch, with tensors of its own.

        It is the trained supernet itself where that has no other subnets.
        """
        supernet, schedule = self.training.supernet, self.training.schedule
        space = schedule.phase_at(max(self._epochs, 1) - 1).space
        return supernet if space == supernet.space else supernet.only(space)

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer; only when it is made are its handlers attached, before it has a network."""
        engine.add_event_handler(Events.STARTED, self.started)
        engine.add_event_handler(Events.EPOCH_STARTED, self.epoch_started)
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=1), self.iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)

    def started(self, engine: SupervisedTrainer) -> None:
        """Check that trainer and training fit, and go on where a loaded state ended.

        Raises:
            ValueError: When the trainer is of another network, has more epochs than the schedule, or an option that
                an ``iteration_update`` leaves without effect.
        """
        for option, default in (("accumulation_steps", 1), ("compile", False)):
            if (given := getattr(engine, option)) != default:
                raise ValueError(
                    f"{option} of the trainer must be {default} in expansion, which makes the iterations itself, got "
                    f"{given}."
                )
        if _bare(engine.network) is not self.training.supernet:
            raise ValueError("network must be the supernet of the training that is expanded, got another one.")
        if engine.amp:
            self._scaler = engine.scaler
            if self._scaler_state:
                self._scaler.load_state_dict(self._scaler_state)
        if engine.state.epoch < self._epochs:
            engine.state.epoch = self._epochs
            engine.state.iteration = self._epochs * engine.state.epoch_length
        total, wanted = self.training.schedule.total_epochs, engine.state.max_epochs
        if wanted > total:
            raise ValueError(f"max_epochs must be at most {total}, the length of the schedule, got {wanted}.")

    def iteration_completed(self, engine: SupervisedTrainer) -> None:
        """Check that it was this handler that made the iteration.

        Raises:
            ValueError: When it was not.
        """
        if not self._updated:
            raise ValueError(
                "iteration_update of the trainer must be the handler's: iteration_update=expansion.update."
            )

    def epoch_started(self, engine: SupervisedTrainer) -> None:
        """Enter the phase of the epoch."""
        epoch = engine.state.epoch - 1
        phase = self.training.begin_epoch(epoch, self._inputs(engine))
        if epoch != self.training.schedule.first_epoch(phase):
            return
        if phase.reorder:
            engine.optimizer.state.clear()
        logger.info(
            "phase %d of %d, stage %s: %d subnets, %d epochs",
            phase.index + 1,
            len(self.training.schedule.phases),
            phase.stage,
            phase.space.size(),
            phase.epochs,
        )

    def epoch_completed(self, engine: SupervisedTrainer) -> None:
        """Count the epoch as done."""
        self._epochs = engine.state.epoch

    def update(self, engine: SupervisedTrainer, batchdata: Any) -> dict[str, Any]:
        """Make one iteration; the output is that of the step's last subnet, with the loss a mean over its subnets."""
        self._updated = True
        inputs, targets, args, kwargs = _prepared(engine, batchdata)
        epoch, step = engine.state.epoch - 1, (engine.state.iteration - 1) % engine.state.epoch_length
        self._set_learning_rate(engine, epoch + step / engine.state.epoch_length)
        inputs, targets = self.training.crop(step, inputs, targets)
        engine.state.output = {CommonKeys.IMAGE: inputs, CommonKeys.LABEL: targets}
        engine.network.train()
        engine.optimizer.zero_grad(set_to_none=True)  # a gradient of zero would move what is not trained
        scaler = engine.scaler if engine.amp else None
        count, losses = self.training.phase.subnets_per_step, []
        for number, _ in enumerate(self.training.begin_step(step), 1):
            with _without_sync(engine.network, number < count):
                with nullcontext() if scaler is None else torch.autocast("cuda", **engine.amp_kwargs):
                    self.training.distill(inputs)
                    engine.state.output[CommonKeys.PRED] = engine.inferer(inputs, engine.network, *args, **kwargs)
                    engine.fire_event(IterationEvents.FORWARD_COMPLETED)
                    loss = engine.loss_function(engine.state.output[CommonKeys.PRED], targets).mean()
                share = loss / count
                (share if scaler is None else scaler.scale(share)).backward()
            losses.append(loss.detach())
        engine.state.output[CommonKeys.LOSS] = torch.stack(losses).mean()
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        if scaler is None:
            engine.optimizer.step()
        else:
            scaler.step(engine.optimizer)
            scaler.update()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    def _set_learning_rate(self, engine: SupervisedTrainer, position: float) -> None:
        if self.learning_rate is None:
            return
        rate = learning_rate(self.training.schedule, position, self.learning_rate, self.decay)
        for group in engine.optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)

    def _inputs(self, engine: SupervisedTrainer) -> Iterator[Tensor]:
        """Inputs that a depth may look at when it is opened; drawn only then."""
        for batchdata in itertools.islice(engine.data_loader, _OPENING_BATCHES):
            yield _prepared(engine, batchdata)[0]


class TrainedModel:
    """What a ``CheckpointSaver`` saves as the model of an expansion: the state of :meth:`ExpansionHandler.trained`.

    Args:
        expansion: the handler of the training.
    """

    def __init__(self, expansion: ExpansionHandler) -> None:
        self.expansion = expansion

    def state_dict(self) -> dict[str, Any]:
        """Return the state dict of the supernet of what was trained."""
        return self.expansion.trained().state_dict()


def _described(schedule: PhaseSchedule) -> str:
    epochs = ", ".join(str(phase.epochs) for phase in schedule.phases)
    return f"{epochs} epochs, at last {schedule.phases[-1].space.size()} subnets"


def _prepared(engine: SupervisedTrainer, batchdata: Any) -> tuple[Tensor, Any, tuple[Any, ...], dict[str, Any]]:
    """Inputs, targets and further arguments of the network, as MONAI's own iteration takes them from a batch."""
    batch = engine.prepare_batch(batchdata, engine.state.device, engine.non_blocking, **engine.to_kwargs)
    return batch if len(batch) == 4 else (*batch, (), {})


def _bare(network: torch.nn.Module) -> torch.nn.Module:
    return network.module if isinstance(network, DistributedDataParallel) else network


def _without_sync(network: torch.nn.Module, hold: bool) -> AbstractContextManager[None]:
    """Of several backward passes only the last exchanges gradients between processes."""
    return network.no_sync() if hold and isinstance(network, DistributedDataParallel) else nullcontext()
