"""``ProXTrainer``: nnU-Net's trainer, expanding an elastic network phase by phase."""

from __future__ import annotations

import dataclasses
import functools
import gc
import math
import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn
from torch.amp import autocast
from torch.nn.parallel import DistributedDataParallel

from prox_monai.elastic import Supernet
from prox_monai.evaluation.multiply_adds import ALIASES, MultiplyAdds
from prox_monai.integrations.nnunet import pretrained
from prox_monai.integrations.nnunet.checkpoint import (
    check_network,
    checkpoint_of,
    compatible_settings,
    read_checkpoint,
    schedule_of,
    subnet_checkpoint,
)
from prox_monai.integrations.nnunet.expansion import FIXED_BATCHES, dimension_ends, opening
from prox_monai.integrations.nnunet.optimization import EpochScheduler, backward, optimize
from prox_monai.integrations.nnunet.planning import (
    architecture_of,
    build_supernet,
    check_other_folds,
    plan_training,
    plans_with_network,
)
from prox_monai.integrations.nnunet.progress import ProgressLog, StepReport, dice_of
from prox_monai.integrations.nnunet.repeatable import FixedBatches, make_repeatable
from prox_monai.integrations.nnunet.settings import ProXSettings, resolve_settings, settings_of_class
from prox_monai.space import PhaseSchedule, SearchSpace
from prox_monai.training import ProgressiveTraining
from prox_monai.training.checkpoint import write_atomically
from prox_monai.training.learning_rate import learning_rate

_OPENING_BATCHES = 4


class ProXTrainer(nnUNetTrainer):
    """Train one elastic U-Net from small to large, and take from it a whole family of networks.

    The supernet is built from ordinary plans; settings come from the YAML file that ``PROX_CONFIG`` names, or from
    class attributes of a subclass: ``epochs = 100``, or all at once, ``settings = ProXSettings(epochs=100)``.

    Raises:
        ValueError: When a setting is not allowed, or does not fit the plans; before anything is written.
        NotImplementedError: When the configuration is a cascade, or the planned network is no ``PlainConvUNet``.
    """

    settings = ProXSettings()

    def __init_subclass__(cls, **kwargs) -> None:
        """Take class attributes that are named as settings for settings.

        Raises:
            TypeError: When ``settings`` is not a ``ProXSettings``.
            ValueError: When a value is not allowed, or an attribute's name is almost that of a setting.
        """
        super().__init_subclass__(**kwargs)
        cls.settings = settings_of_class(cls)

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),
    ) -> None:
        self.settings, self._given = resolve_settings(type(self).settings, os.environ)
        planned = PlansManager(plans).get_configuration(configuration)
        schedule = plan_training(self.settings, planned)[1]
        super().__init__(plans, configuration, fold, dataset_json, device)
        self._plans, self._planned_batch_size = plans, planned.batch_size
        self.logger.local_logger = ProgressLog()
        self.training: ProgressiveTraining | None = None
        self._adopt(self.settings, schedule)
        self._resumed, self._step = False, 0
        pretrained.accept_supernets()

    def _adopt(self, settings: ProXSettings, schedule: PhaseSchedule) -> None:
        """Let these settings and phases hold: those given, or a checkpoint's."""
        self.settings = settings
        self.num_iterations_per_epoch = settings.iterations_per_epoch
        self.num_val_iterations_per_epoch = settings.validation_iterations
        self.initial_lr, self.weight_decay = settings.learning_rate, settings.weight_decay
        self.my_init_kwargs["plans"] = plans_with_network(self._plans, self.configuration_name, settings.network)
        self.plans_manager = PlansManager(self.my_init_kwargs["plans"])
        self.configuration_manager = self.plans_manager.get_configuration(self.configuration_name)
        self.configuration_manager.configuration["batch_size"] = settings.batch_size or self._planned_batch_size
        self.build_network_architecture = functools.partial(build_supernet, settings)
        self._follow(schedule)

    def _follow(self, schedule: PhaseSchedule) -> None:
        """Let these phases hold from here on."""
        self.schedule = self._log.schedule = schedule
        self.num_epochs = schedule.total_epochs
        self.save_every = self.num_epochs + 1  # nnU-Net saves before it knows whether the epoch was the best
        if self.training is not None:
            self.training.schedule = schedule
            self._choose_validated()

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build a supernet for prediction: it takes on the space of the state dict that it is about to load."""
        architecture = architecture_of(
            configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )
        sections = architecture.sections
        return Supernet(architecture, SearchSpace(sections, depth=(1,), width=(1.0,), kernel=(3,)))

    @property
    def supernet(self) -> Supernet:
        """The network, without the wrapper for several processes."""
        return self.network.module if self.is_ddp else self.network

    def initialize(self) -> None:
        """Build network, optimizer and loss, then the progressive training around them."""
        if self.settings.threads is not None:
            torch.set_num_threads(self.settings.threads)  # nnU-Net has set them to the number of cores
        super().initialize()
        if self.is_ddp:
            self.network = _wrap_again(self.network)
        self.training = self.settings.training(
            self.supernet, self.schedule, self.settings.seed, regions=self.label_manager.has_regions
        )
        self.loss = self.training.criterion(self.loss, _output_weights(self.loss))
        self._choose_validated()

    def _choose_validated(self) -> None:
        """Find the subnets to validate among those of the last phase; a stop may have left out some of the names."""
        last = self.schedule.phases[-1]
        patch = (self.num_input_channels, *self.configuration_manager.patch_size)
        self.multiply_adds = MultiplyAdds(self.supernet, patch, last.space)
        names = self.settings.validate if last.random else (self.settings.subnet,)
        there = [name for name in names if name in ALIASES or self.supernet.space.parse(name) in last.space]
        self.validated = {name: self.multiply_adds.find(name) for name in there}
        if last.largest() not in self.validated.values():
            self.validated["largest"] = last.largest()

    def configure_optimizers(self):
        """Return Adam or AdamW, and a scheduler that follows the phases."""
        fused = self.device.type in ("cpu", "cuda")
        return self.settings.make_optimizer(self.network, fused=fused), EpochScheduler(self)

    def set_learning_rate(self, position: float) -> None:
        """Set the learning rate of a position in the training, in epochs."""
        rate = learning_rate(self.schedule, position, self.settings.learning_rate, self.settings.learning_rate_decay)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]

    def _do_i_compile(self) -> bool:
        if os.environ.get("nnUNet_compile", "").lower() in ("true", "1", "t"):
            self.print_to_log_file(
                "torch.compile is not used: every subnet would be compiled anew. Extracted subnets compile as usual."
            )
        return False

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Choose whether subnets return the logits of every decoder stage."""
        supernet = self.supernet
        supernet.architecture = dataclasses.replace(supernet.architecture, deep_supervision=enabled)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        """As nnU-Net does, with mirroring only if the settings want it."""
        rotation, dummy_2d, initial_patch_size, mirror_axes = (
            super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        if not self.settings.mirror:
            mirror_axes = self.inference_allowed_mirroring_axes = None
        return rotation, dummy_2d, initial_patch_size, mirror_axes

    def get_dataloaders(self):
        """As nnU-Net does; without worker processes, batches are functions of seed, epoch and step."""
        loaders = super().get_dataloaders()
        names = ("training", "validation")
        self.fixed_batches = FixedBatches(loaders[1], (self.settings.seed, "fixed"), FIXED_BATCHES)
        self._opening_batches = FixedBatches(loaders[0], (self.settings.seed, "opening"), _OPENING_BATCHES)
        return tuple(
            make_repeatable(loader, lambda name=name: (self.settings.seed, name, self.current_epoch, self.local_rank))
            for loader, name in zip(loaders, names, strict=True)
        )

    def on_train_start(self) -> None:
        """Refuse to overwrite a finished or begun training, then start as nnU-Net does."""
        if not self._resumed and not self.settings.overwrite:
            for name in ("checkpoint_final.pth", "checkpoint_latest.pth"):
                if Path(self.output_folder, name).exists():
                    raise FileExistsError(
                        f"{self.output_folder} holds a training ({name}). Continue it with --c, choose another fold "
                        f"or nnUNet_results, or set `overwrite: true`."
                    )
        if not self.settings.overwrite:
            check_other_folds(Path(self.output_folder_base), self.configuration_name, self.settings.network)
        super().on_train_start()
        gc.collect()  # wrapped networks that were replaced, which would stay for good
        gc.freeze()  # a new subnet makes many small objects: the collector need not walk those of the hosts each time
        self._log.open(Path(self.output_folder), self.settings, self.schedule, write=self.local_rank == 0)

    def run_training(self) -> None:
        """As nnU-Net does; its loop, whose length is fixed before it begins, is left when a stop makes it shorter."""
        self._loop_epochs = self.num_epochs
        try:
            super().run_training()
        except _StoppedEarlier:
            self.on_train_end()

    def on_train_epoch_start(self) -> None:
        """Enter the phase of the epoch."""
        with opening(self):
            inputs = (batch["data"].to(self.device) for batch in self._opening_batches)
            phase = self.training.begin_epoch(self.current_epoch, inputs)
        super().on_train_epoch_start()
        self._step = 0
        if self.current_epoch == self.schedule.first_epoch(phase):
            self._best_ema = None
            if phase.reorder:
                self.optimizer.state.clear()  # it belongs to the channels' old places
            teacher = self.training.teacher and self.training.teacher.config
            self.print_to_log_file(self._log.describe(phase, len(self.schedule.phases), teacher))
        self._log.begin_epoch(phase, self.current_epoch, self.num_epochs, self.num_iterations_per_epoch)

    def train_step(self, batch: dict) -> dict:
        """Train the subnets of a step on one batch, one after the other; as nnU-Net does where there is only one.

        Raises:
            FloatingPointError: When a loss is not finite; the checkpoints on disk are as they were. Where gradients are
                scaled, such a step is skipped instead.
        """
        step, self._step = self._step, self._step + 1
        self.set_learning_rate(self.current_epoch + step / self.num_iterations_per_epoch)
        data = batch["data"].to(self.device, non_blocking=True)
        target = _on(self.device, batch["target"])
        data, target = self.training.crop(step, data, target)
        self.optimizer.zero_grad(set_to_none=True)
        count = self.training.phase.subnets_per_step
        reports, losses = [], []
        for number, config in enumerate(self.training.begin_step(step), 1):
            with self.network.no_sync() if self.is_ddp and number < count else nullcontext():
                with autocast("cuda") if self.device.type == "cuda" else nullcontext():
                    self.training.distill(data)
                    loss = self.loss(self.network(data), target)
                backward(loss / count, self.grad_scaler)
            losses.append(loss.detach())
            if self.grad_scaler is None and not math.isfinite(losses[-1]):
                raise FloatingPointError(self._not_finite("loss", f"step {step}, subnet {config}"))
            reports.append(StepReport(config, tuple(data.shape[2:]), self.loss.task, self.loss.distance))
        optimize(self.network, self.optimizer, self.grad_scaler)
        self._log.end_step(reports, self.multiply_adds)
        return {"loss": np.mean(torch.stack(losses).tolist())}

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """Log the epoch's losses and what it cost.

        Raises:
            FloatingPointError: When no loss of the epoch was finite.
        """
        if not np.isfinite([output["loss"] for output in train_outputs]).any():
            raise FloatingPointError(self._not_finite("loss", "in all steps"))
        self._log.end_training(self.batch_size)
        self.optimizer.zero_grad(set_to_none=True)
        super().on_train_epoch_end(train_outputs)

    def validation_step(self, batch: dict) -> dict:
        """Validate the largest subnet of the phase for nnU-Net's own log, and the smallest beside it."""
        smallest, largest = self.training.phase.smallest(), self.training.phase.largest()
        if smallest != largest:
            self.supernet.activate(smallest)
            self._log.validated_smallest.append(super().validation_step(_copied(batch)))
        self.supernet.activate(largest)
        return super().validation_step(batch)

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """Log the Dice of both.

        Raises:
            FloatingPointError: When a loss is not finite; the checkpoints on disk are as they were.
        """
        if not all(math.isfinite(output["loss"]) for output in val_outputs):
            raise FloatingPointError(self._not_finite("validation loss", f"subnet {self.supernet.active}"))
        smallest = self._log.validated_smallest or val_outputs
        self._log.log("dice_smallest", dice_of(smallest), self.current_epoch)
        super().on_validation_epoch_end(val_outputs)

    def on_epoch_end(self) -> None:
        """Write logs and checkpoints; at the end of a phase also one of its own, and end what gains nothing."""
        phase = self.training.phase
        phase_ends = self.current_epoch + 1 == self.schedule.first_epoch(phase) + phase.epochs
        if phase_ends and dimension_ends(self):
            self._follow(self.schedule.stopped(phase))
        self._log.end_epoch()
        super().on_epoch_end()
        if phase_ends:
            self.save_checkpoint(str(Path(self.output_folder, f"checkpoint_phase{phase.index}.pth")), ended=True)
        if phase_ends or self.current_epoch % self.settings.save_every == 0:
            self.save_checkpoint(str(Path(self.output_folder, "checkpoint_latest.pth")), ended=True)
        if self.current_epoch == self.num_epochs < self._loop_epochs:
            raise _StoppedEarlier

    def on_train_end(self) -> None:
        """Write the final checkpoint, and one per validated subnet for ``nnUNetv2_predict -chk``."""
        super().on_train_end()
        self._log.close()
        if self.local_rank == 0 and not self.disable_checkpointing:
            final = Path(self.output_folder, "checkpoint_final.pth")
            for name, config in self.validated.items():
                subnet_checkpoint(final, config, name)

    def _not_finite(self, what: str, where: str) -> str:
        phase = self.training.phase
        return (
            f"the {what} is not finite in phase {phase.index} ({phase.stage}), epoch {self.current_epoch}, {where}. "
            f"No checkpoint was written since the last epoch that ended well; continue from it with --c, for example "
            f"after lowering `learning_rate`."
        )

    @property
    def _log(self) -> ProgressLog:
        return self.logger.local_logger

    def save_checkpoint(self, filename: str, *, ended: bool = False) -> None:
        """Write nnU-Net's checkpoint with ours beside it, atomically; it holds no pickled objects.

        Args:
            filename: path.
            ended: the epoch counter already points to the next epoch.
        """
        if self.local_rank != 0 or self.disable_checkpointing:
            return
        self.supernet.activate(self.training.phase.largest())
        write_atomically(checkpoint_of(self, self.current_epoch + (0 if ended else 1)), filename)

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """Continue a training: the checkpoint's settings and phases hold.

        Raises:
            ValueError: When the file is no ProX checkpoint, is damaged, or ``PROX_CONFIG`` differs from it.
        """
        content = read_checkpoint(filename_or_checkpoint)
        settings = compatible_settings(content, filename_or_checkpoint, self.settings, self._given)
        if not self.was_initialized:  # else --val_best: what was stopped after the best epoch stays so
            self._adopt(settings, schedule_of(content))
            self.initialize()
        check_network(content, filename_or_checkpoint, self.supernet.architecture)
        super().load_checkpoint(filename_or_checkpoint)
        self.training.load_state_dict(content["prox"]["training"])
        self._log.expansions = content["prox"]["expansions"]
        self._resumed = True

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Validate each chosen subnet with nnU-Net's own evaluation, the largest last.

        The largest one's results lie in ``validation``, as nnU-Net expects; others in ``subnet_<name>/validation``.
        """
        folder, largest = self.output_folder, self.schedule.phases[-1].largest()
        distinct = {config: name for name, config in reversed(self.validated.items())}
        for config, name in sorted(distinct.items(), key=lambda item: item[0] == largest):
            self.supernet.activate(config)
            self.print_to_log_file(
                f"Validating {name}: {config}, {self.multiply_adds(config) / 1e9:.2f} GMAC per patch"
            )
            self.output_folder = folder if config == largest else str(Path(folder, f"subnet_{name}"))
            try:
                super().perform_actual_validation(save_probabilities)
            finally:
                self.output_folder = folder


class _StoppedEarlier(Exception):
    """The last phase ended before the last epoch that nnU-Net's loop was begun with."""


def _wrap_again(network: DistributedDataParallel) -> DistributedDataParallel:
    """A subnet leaves most shells unused, which nnU-Net's own wrapper does not expect."""
    return DistributedDataParallel(
        network.module, device_ids=network.device_ids, find_unused_parameters=True, broadcast_buffers=False
    )


def _output_weights(loss: nn.Module) -> tuple[float, ...] | None:
    """What each output of deep supervision counts for in nnU-Net's loss; None where there is one output."""
    return loss.weight_factors if isinstance(loss, DeepSupervisionWrapper) else None


def _on(device: torch.device, target: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
    if isinstance(target, list):
        return [each.to(device, non_blocking=True) for each in target]
    return target.to(device, non_blocking=True)


def _copied(batch: dict) -> dict:
    """nnU-Net's validation step writes into the target where there is an ignore label."""
    target = batch["target"]
    return {
        "data": batch["data"],
        "target": target.clone() if isinstance(target, Tensor) else [t.clone() for t in target],
    }
