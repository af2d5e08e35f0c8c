"""Train a generated algorithm: by progressive expansion, with MONAI's engines."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.utils import set_determinism

from prox_monai.integrations.auto3dseg.data import check_classes, read_split
from prox_monai.integrations.auto3dseg.engines import make_engines, training_dataset
from prox_monai.integrations.auto3dseg.folder import AlgoFolder, write_config
from prox_monai.integrations.auto3dseg.parameters import Parameters
from prox_monai.integrations.auto3dseg.ranks import training_device
from prox_monai.integrations.auto3dseg.validate import evaluate_subnets
from prox_monai.integrations.monai import latest_checkpoint, of_first_rank
from prox_monai.integrations.monai.ranks import rank
from prox_monai.training.checkpoint import save_checkpoint

logger = logging.getLogger(__name__)

_MAY_CHANGE = (
    "num_workers",
    "cache_rate",
    "num_sw_batch_size",
    "subnet",
    "max_latency_ms",
    "data_list_file_path",
    "data_file_base_dir",
)
"""Parameters that a training which was broken off may go on with differently."""


def main() -> None:
    """Run what the command line says: ``run --config_file FILE [--PARAMETER VALUE ...]``."""
    import fire

    fire.Fire({"run": run})


def run(config_file: str | list[str] | None = None, **override: Any) -> None:
    """Train the algorithm of a file of parameters; a training of it that was broken off goes on.

    Args:
        config_file: the algorithm's ``configs/hyper_parameters.yaml``.
        **override: parameters of this training, see :class:`Parameters`.

    Raises:
        ValueError: When a parameter, or something about the data, is not as it must be: before training.
    """
    folder = AlgoFolder.of(config_file)
    if folder.is_member:
        raise ValueError(f"{folder.root} is a subnet of the supernet in {folder.model.parent}: train that.")
    parameters = folder.parameters(override)
    with training_device() as device, _logged(folder):
        train(parameters, folder, device)


def train(parameters: Parameters, folder: AlgoFolder, device: torch.device) -> float:
    """Train a supernet, evaluate subnets, and write what Auto3DSeg reads; returns the score.

    Raises:
        ValueError: When something about the data is not as it must be, or a training that was broken off had other
            parameters.
    """
    split = read_split(parameters.data_list_file_path, parameters.data_file_base_dir, parameters.fold)

    def begin() -> Path | None:
        check_classes(split.training, parameters.output_classes, parameters.fold)
        return _begin(parameters, folder)

    resume = of_first_rank(begin)
    set_determinism(parameters.prox_seed)
    dataset = training_dataset(parameters, split)
    engines = make_engines(parameters, split, folder, dataset, device, resume)
    count = len(split.training), len(split.validation)
    logger.info("%d training and %d validation cases, patch %s", *count, parameters.topology.patch)
    engines.trainer.run()
    if rank() == 0:
        save_checkpoint(folder.supernet, engines.supernet)
    rows = evaluate_subnets(parameters, folder, engines.supernet, engines.validation, device)
    supernet = engines.supernet
    largest = supernet.architecture.canonical(supernet.space.largest()).name  # its row may have another alias as well
    score = next(row["score"] for row in rows if row["key"] == largest) or 0.0
    if rank() == 0:
        _write_progress(folder, rows, largest, engines.trainer.state.epoch)
        for done in (folder.training, folder.previous):
            shutil.rmtree(done, ignore_errors=True)
    logger.info("mean Dice of the largest subnet on the validation cases: %.4f", score)
    return score


def _begin(parameters: Parameters, folder: AlgoFolder) -> Path | None:
    """Make the folder ready: the checkpoint to go on from where a training was broken off, else nothing of an old one.

    A finished model is kept in ``model/previous`` until the new one is finished, too.

    Raises:
        ValueError: When that training had other parameters.
    """
    folder.training.mkdir(parents=True, exist_ok=True)
    begun = any(folder.training.glob("checkpoint_epoch=*.pt")) and not folder.progress.exists()
    if not begun:
        shutil.rmtree(folder.training)
        _put_aside(folder)
        write_config(folder.used, parameters.to_dict())
        return None
    old, new = ConfigParser.load_config_file(str(folder.used)), parameters.to_dict()
    differing = [name for name in new if name not in _MAY_CHANGE and old.get(name) != new[name]]
    if differing:
        listed = ", ".join(f"{name} ({old.get(name)} then, {new[name]} now)" for name in differing)
        raise ValueError(
            f"a training in {folder.training} was broken off that had other parameters: {listed}. Give those again to "
            f"go on with it, or remove that folder to begin anew."
        )
    write_config(folder.used, new)
    checkpoint = latest_checkpoint(folder.training)
    logger.info("going on from %s", checkpoint)
    return Path(checkpoint)


def _put_aside(folder: AlgoFolder) -> None:
    """Move a finished model to ``previous``; of one that was never finished nothing is kept."""
    finished = folder.progress.exists()
    # the scores last: they say that the model is finished, should this be interrupted
    for path in (folder.supernet, folder.table, folder.table.with_suffix(".png"), folder.used, folder.progress):
        if finished and path.exists():
            folder.previous.mkdir(exist_ok=True)
            path.replace(folder.previous / path.name)
        path.unlink(missing_ok=True)
    if finished:
        logger.info("the finished model is in %s until the new one is finished", folder.previous)


def _write_progress(folder: AlgoFolder, rows: list[dict[str, Any]], largest: str, epochs: int) -> None:
    """Write the scores; Auto3DSeg reads the last entry, which is the largest subnet's."""
    entries = [
        {
            "subnet": row["key"],
            "name": row["name"],
            "epoch": epochs,
            "best_avg_dice_score": row["score"] or 0.0,
            "best_avg_dice_score_epoch": epochs,
            "latency_ms": row["latency_ms"],
        }
        for row in sorted(rows, key=lambda row: row["key"] == largest)
    ]
    write_config(folder.progress, entries)


@contextmanager
def _logged(folder: AlgoFolder) -> Iterator[None]:
    """Let the first process log to the console, which Auto3DSeg keeps to itself, and to ``training.log``."""
    if rank() > 0:
        yield
        return
    folder.model.mkdir(parents=True, exist_ok=True)
    root = logging.getLogger()
    handlers = [logging.StreamHandler(), logging.FileHandler(folder.model / "training.log", encoding="utf-8")]
    level = root.level
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
