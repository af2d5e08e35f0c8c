"""MONAI's trainer and evaluator for a supernet, as the bundles have them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.data import CacheDataset, DataLoader, Dataset, DistributedSampler
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import (
    CheckpointLoader,
    CheckpointSaver,
    MeanDice,
    StatsHandler,
    TensorBoardStatsHandler,
    ValidationHandler,
    from_engine,
)
from monai.inferers import SimpleInferer, SlidingWindowInfererAdapt
from monai.losses import DiceCELoss
from monai.transforms import AsDiscreted, Compose
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from prox_monai.elastic import Supernet
from prox_monai.integrations.auto3dseg.data import Split, training_transforms, validation_transforms
from prox_monai.integrations.auto3dseg.folder import AlgoFolder
from prox_monai.integrations.auto3dseg.parameters import Parameters
from prox_monai.integrations.monai import (
    EpochSampler,
    EpochSeedHandler,
    ExpansionHandler,
    LargestOfPhase,
    SubnetSamplingHandler,
)
from prox_monai.integrations.monai.ranks import distributed_now, rank
from prox_monai.training import ProgressiveTraining

METRIC = "val_mean_dice"


@dataclass(frozen=True, slots=True)
class Engines:
    """A training that is ready to run.

    Args:
        trainer: its engine; it ends with a trained supernet.
        supernet: what it trains.
        validation: the data set that its evaluator scores.
    """

    trainer: SupervisedTrainer
    supernet: Supernet
    validation: Dataset


def sliding_window(parameters: Parameters) -> SlidingWindowInfererAdapt:
    """Return the inferer of whole images."""
    return SlidingWindowInfererAdapt(
        parameters.topology.patch,
        sw_batch_size=parameters.num_sw_batch_size,
        overlap=parameters.overlap_ratio,
        mode="gaussian",
    )


def validation_dataset(parameters: Parameters, split: Split) -> Dataset:
    """Return the cases of a fold that are scored, kept in memory."""
    transform = validation_transforms(parameters)
    return CacheDataset(split.validation, transform, cache_rate=parameters.cache_rate, progress=False)


def make_evaluator(
    parameters: Parameters,
    dataset: Dataset,
    network: nn.Module,
    sampling: SubnetSamplingHandler,
    device: torch.device,
    *handlers: Any,
) -> SupervisedEvaluator:
    """Return the evaluator of the subnets that a handler chooses: mean Dice of the foreground, on resampled images.

    Args:
        parameters: of the algorithm.
        dataset: cases under :func:`validation_transforms`.
        network: the supernet.
        sampling: gives the evaluator its subnets.
        device: where it runs.
        handlers: others, which follow it.
    """
    classes = parameters.output_classes
    return SupervisedEvaluator(
        device=device,
        val_data_loader=DataLoader(dataset, batch_size=1, num_workers=0, sampler=share_of_rank(dataset)),
        network=network,
        inferer=sliding_window(parameters),
        postprocessing=Compose(
            [AsDiscreted("pred", argmax=True, to_onehot=classes), AsDiscreted("label", to_onehot=classes)]
        ),
        key_val_metric={METRIC: MeanDice(include_background=False, output_transform=from_engine(["pred", "label"]))},
        val_handlers=[sampling, *handlers],
        amp=parameters.amp and device.type == "cuda",
    )


def share_of_rank(dataset: Dataset) -> DistributedSampler | None:
    """The cases that this process scores; its metrics are put together with those of the others.

    Each scores all where there are fewer cases than processes, which must all score one.
    """
    if not distributed_now() or len(dataset) < distributed.get_world_size():
        return None
    return DistributedSampler(dataset, even_divisible=False, shuffle=False)


def make_engines(
    parameters: Parameters,
    split: Split,
    folder: AlgoFolder,
    dataset: CacheDataset,
    device: torch.device,
    resume: Path | None,
) -> Engines:
    """Return the training of a supernet.

    Args:
        parameters: of the algorithm.
        split: the fold.
        folder: where checkpoints and losses go.
        dataset: the training cases.
        device: of this process.
        resume: checkpoint to go on from.

    Raises:
        ValueError: When parameters do not fit each other.
    """
    recipe = parameters.recipe()
    schedule, steps, interval = parameters.lengths()
    supernet = recipe.supernet(parameters.architecture(), parameters.search_space()).to(device)
    training = recipe.training(supernet, schedule, seed=parameters.prox_seed)
    expansion = ExpansionHandler(training, learning_rate=recipe.learning_rate, decay=recipe.learning_rate_decay)
    optimizer = recipe.make_optimizer(supernet)
    validation = validation_dataset(parameters, split)
    saved = {"expansion": expansion, "model": supernet, "optimizer": optimizer}
    handlers: list[Any] = [
        *([CheckpointLoader(str(resume), saved, map_location=device)] if resume is not None else []),
        EpochSeedHandler(parameters.prox_seed, dataset),
        expansion,
        ValidationHandler(interval, validator=_validator(parameters, training, validation, folder, device)),
        CheckpointSaver(str(folder.training), saved, save_interval=interval, n_saved=2),
        *_reports(folder, tag_name="train_loss", output_transform=from_engine(["loss"], first=True)),
    ]
    batch = parameters.num_images_per_batch
    trainer = SupervisedTrainer(
        device=device,
        max_epochs=schedule.total_epochs,
        train_data_loader=DataLoader(
            dataset,
            batch_size=batch,
            sampler=EpochSampler(dataset, steps * batch),
            num_workers=parameters.num_workers,
        ),
        network=_wrapped(supernet, device),
        optimizer=optimizer,
        loss_function=training.criterion(DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)),
        inferer=SimpleInferer(),
        iteration_update=expansion.update,
        train_handlers=handlers,
        amp=parameters.amp and device.type == "cuda",
    )
    return Engines(trainer, supernet, validation)


def _validator(
    parameters: Parameters, training: ProgressiveTraining, dataset: Dataset, folder: AlgoFolder, device: torch.device
) -> SupervisedEvaluator:
    """The evaluator of the largest subnet of the phase that a training is in."""
    supernet, patch = training.supernet, parameters.topology.patch
    sampling = SubnetSamplingHandler(supernet, (parameters.input_channels, *patch), choice=LargestOfPhase(training))
    return make_evaluator(parameters, dataset, supernet, sampling, device, *_reports(folder, iteration_log=False))


def _reports(folder: AlgoFolder, iteration_log: bool = True, **loss: Any) -> list[Any]:
    """The handlers that write losses or scores to the log and to TensorBoard, in the first process."""
    if rank() > 0:
        return []
    epochs = {"epoch_log": lambda engine, epoch: True} if loss else {}
    return [
        StatsHandler(iteration_log=False, **epochs, **loss),
        TensorBoardStatsHandler(log_dir=str(folder.model / "tensorboard"), iteration_log=iteration_log, **loss),
    ]


def training_dataset(parameters: Parameters, split: Split) -> CacheDataset:
    """Return the cases of a fold that train; what is not random is done once."""
    return CacheDataset(
        split.training, training_transforms(parameters), cache_rate=parameters.cache_rate, progress=False
    )


def _wrapped(supernet: Supernet, device: torch.device) -> nn.Module:
    if not distributed_now():
        return supernet
    ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(supernet, device_ids=ids, find_unused_parameters=True)
