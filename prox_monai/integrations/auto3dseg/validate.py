"""Evaluate subnets of a supernet on the validation cases of a fold: what a choice by latency knows."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from monai.data import Dataset

from prox_monai.elastic import Supernet
from prox_monai.evaluation.multiply_adds import ALIASES
from prox_monai.evaluation.subnets import read_rows
from prox_monai.integrations.auto3dseg.data import read_split
from prox_monai.integrations.auto3dseg.engines import make_evaluator, validation_dataset
from prox_monai.integrations.auto3dseg.folder import AlgoFolder
from prox_monai.integrations.auto3dseg.parameters import Parameters
from prox_monai.integrations.auto3dseg.ranks import training_device
from prox_monai.integrations.auto3dseg.reading import read_names
from prox_monai.integrations.monai import SubnetChoice, SubnetSamplingHandler, of_first_rank
from prox_monai.training.checkpoint import load_checkpoint

logger = logging.getLogger(__name__)

OPTIONS = (
    "subnet",
    "prox_per_bucket",
    "prox_seed",
    "num_sw_batch_size",
    "overlap_ratio",
    "amp",
    "cache_rate",
    "data_list_file_path",
    "data_file_base_dir",
)


def main() -> None:
    """Run what the command line says: ``run --config_file FILE [--subnet NAME,NAME ...] [--prox_per_bucket N]``."""
    import fire

    fire.Fire({"run": run})


def run(config_file: str | list[str] | None = None, **override: Any) -> None:
    """Evaluate subnets of a trained algorithm, and add them to its table.

    Args:
        config_file: the algorithm's ``configs/hyper_parameters.yaml``.
        **override: ``subnet``, the names of those to evaluate, by default the smallest, the middle and the largest;
            ``prox_per_bucket`` and ``prox_seed``, of random ones; ``num_sw_batch_size``, ``overlap_ratio``, ``amp``,
            ``cache_rate``, ``data_list_file_path`` and ``data_file_base_dir``.

    Raises:
        FileNotFoundError: When the algorithm is not trained.
        ValueError: When an option is none of these, a value is not as it must be, or there is no such subnet.
    """
    if others := [name for name in override if name not in OPTIONS]:
        raise ValueError(
            f"{', '.join(others)} cannot be given: an evaluation takes {', '.join(OPTIONS)}; all else, the fold among "
            f"it, is as it was in the training."
        )
    names = read_names(override.pop("subnet")) if "subnet" in override else ALIASES
    folder = AlgoFolder.of(config_file)
    parameters = folder.trained_parameters(override)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with training_device() as device:
        evaluate_trained(parameters, folder, names, device)


def evaluate_trained(
    parameters: Parameters, folder: AlgoFolder, names: tuple[str, ...], device: torch.device
) -> list[dict[str, Any]]:
    """Evaluate subnets of a trained algorithm by name; returns their rows.

    Latencies of other machines cannot be compared: where the table holds subnets that were measured only there, or
    with other threads, these are evaluated here, too, or a budget would no longer know them.

    Raises:
        FileNotFoundError: When the algorithm is not trained.
        ValueError: When there is no such subnet, or something about the data is not as it must be.
    """
    supernet = load_checkpoint(folder.supernet).supernet.to(device)
    split = read_split(parameters.data_list_file_path, parameters.data_file_base_dir, parameters.fold)
    dataset = validation_dataset(parameters, split)
    rows = evaluate_subnets(parameters, folder, supernet, dataset, device, names)
    if elsewhere := of_first_rank(lambda: _only_elsewhere(read_rows(folder.table), rows[-1])):
        logger.info("%d known subnets were measured otherwise, and are evaluated here, too", len(elsewhere))
        evaluate_subnets(replace(parameters, prox_per_bucket=0), folder, supernet, dataset, device, elsewhere)
    return rows


def _only_elsewhere(known: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> tuple[str, ...]:
    """The subnets that a table knows, but not from the machine, cases and input of a row."""
    about = ("metric", "data", "input_shape", "machine")
    here = {other["key"] for other in known if all(other.get(name) == row.get(name) for name in about)}
    return tuple({other["key"]: other["name"] for other in known if other["key"] not in here}.values())


def evaluate_subnets(
    parameters: Parameters,
    folder: AlgoFolder,
    supernet: Supernet,
    dataset: Dataset,
    device: torch.device,
    names: tuple[str, ...] = ALIASES,
) -> list[dict[str, Any]]:
    """Evaluate subnets by name, and ``prox_per_bucket`` random ones per latency bucket, into the algorithm's table.

    Latency is that of one patch. Rows that are there already are not made again.

    Args:
        parameters: of the algorithm.
        folder: where the table is.
        supernet: trained.
        dataset: the validation cases.
        device: where networks run, and are timed.
        names: of the subnets.

    Returns:
        The rows, see :class:`~prox_monai.integrations.monai.SubnetSamplingHandler`.

    Raises:
        ValueError: When there is no such subnet.
    """
    sampling = SubnetSamplingHandler(
        supernet,
        (parameters.input_channels, *parameters.topology.patch),
        choice=SubnetChoice(names, per_bucket=parameters.prox_per_bucket, seed=parameters.prox_seed),
        table=folder.table,
    )
    make_evaluator(parameters, dataset, supernet, sampling, device).run()
    return of_first_rank(lambda: sampling.rows)  # which alone has written them
