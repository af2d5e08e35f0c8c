"""A subnet as a stock nnU-Net model folder, which needs no plugin.

Of a network that stock nnU-Net has not, the folder needs this package beside nnU-Net, and says so; it needs no trainer
of ours and no variable, as the plans name the network by its dotted path.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import logging
import shutil
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import Tensor

from prox_monai import __version__
from prox_monai.data.complete import check_free, complete_folder
from prox_monai.evaluation.multiply_adds import ALIASES
from prox_monai.export.parity import Parity, check_parity, compare
from prox_monai.integrations.nnunet.calibration import Cases, patches_to_compare
from prox_monai.integrations.nnunet.planning import network_of
from prox_monai.integrations.nnunet.trained import TrainedModel
from prox_monai.space import SubnetConfig
from prox_monai.training.checkpoint import write_atomically

logger = logging.getLogger(__name__)

_CHECKPOINT = "checkpoint_final.pth"
_README = """# {config}

A network of inverted residuals, which nnU-Net itself has not. To predict with this folder, install prox-monai beside
nnU-Net (it was written by version {version}):

    pip install "prox-monai[nnunet]"
    nnUNetv2_predict_from_modelfolder -m FOLDER -f {folds} -i IMAGES -o PREDICTIONS

`plans.json` names the network by its dotted path, `{network_class}`.
"""


def stock_subnet(model: TrainedModel, name: str, *, approximate: bool = False) -> SubnetConfig:
    """Return the subnet of a name or alias as stock nnU-Net can run it: at resolution 1.

    The aliases stand for the smallest, a middle and the largest subnet of resolution 1.

    Args:
        model: the trained model.
        name: a subnet's name, or ``smallest``, ``middle``, ``largest``.
        approximate: take a subnet of another resolution, too, and run its weights at resolution 1.

    Raises:
        ValueError: When there is no such subnet, or it works at another resolution.
    """
    config = model.multiply_adds().find(name)
    if config.resolution == 1:
        return config
    if name in ALIASES and 1.0 in model.space.resolution:
        return dataclasses.replace(config, resolution=1.0)
    if approximate:
        return config
    raise ValueError(
        f"{config} works at resolution {config.resolution:g}, which stock nnU-Net cannot do: its networks see the "
        f"image as it is. Choose a subnet of resolution 1, or --approximate to run these weights at resolution 1."
    )


def export_stock(
    models: Sequence[TrainedModel],
    config: SubnetConfig,
    destination: str | Path,
    *,
    cases: Cases | None = None,
) -> Path:
    """Write a subnet as a stock nnU-Net model folder, which appears when it is complete and checked.

    ``nnUNetv2_predict_from_modelfolder -m DESTINATION -f FOLD [FOLD ...]`` runs it where this package is not
    installed (of a network that stock nnU-Net has not: where it is, as a ``README.md`` in the folder says). The logits
    of each fold, as nnU-Net reads it back, equal those of its supernet in this configuration within 1e-4 of the
    largest, on patches of unseen cases (without cases: of random numbers).

    Args:
        models: the trained folds, each its own; one or more.
        config: the subnet; its ``resolution`` plays no part.
        destination: a folder that does not exist, or is empty.
        cases: what to compare on.

    Raises:
        FileExistsError: When the destination holds anything.
        ValueError: When the subnet is not in the search space, or the folds differ in plans, configuration or the
            subnets that they were trained for.
        RuntimeError: When the logits of what was written differ by more.
    """
    destination, first = Path(destination), models[0]
    check_free(destination)
    for model in models[1:]:
        for field in ("plans", "configuration_name", "space"):
            if getattr(model, field) != getattr(first, field):
                raise ValueError(f"fold {model.fold} has another {field} than fold {first.fold}; export it on its own.")
    first.supernet.space.check(config)
    plans = stock_plans(first, config)
    patches, source = patches_to_compare(first, cases)
    with complete_folder(destination.resolve()) as partial:
        for model in models:
            fold = partial / f"fold_{model.fold}"
            fold.mkdir(parents=True)
            write_atomically(_stock_checkpoint(model, config, plans), fold / _CHECKPOINT)
        (partial / "plans.json").write_text(json.dumps(plans, indent=4))
        (partial / "dataset.json").write_text(json.dumps(first.dataset_json, indent=4))
        if network_of(first.configuration) != "plain":
            (partial / "README.md").write_text(_readme(models, config))
        fingerprint = first.folder / "dataset_fingerprint.json"
        if fingerprint.exists():
            shutil.copyfile(fingerprint, partial / fingerprint.name)
        for model, parity in zip(models, stock_parity(models, config, partial, patches), strict=True):
            check_parity(parity, f"the stock folder, fold {model.fold},")
            message = "fold %s: logits differ by %.2g at most from the supernet's, on %s patches of %s"
            logger.info(message, model.fold, parity.max_difference, parity.patches, source)
    return destination


def stock_parity(
    models: Sequence[TrainedModel], config: SubnetConfig, folder: str | Path, patches: Sequence[Tensor]
) -> list[Parity]:
    """Compare each fold of a stock model folder, as nnU-Net's own predictor reads it, with its supernet's subnet.

    Args:
        models: the trained folds.
        config: the subnet; its ``resolution`` plays no part.
        folder: stock model folder of these folds.
        patches: inputs ``(1, C, *spatial)``.
    """
    folds = tuple(model.fold for model in models)
    with redirect_stdout(io.StringIO()):  # on a CPU nnU-Net says that something was set which was not
        predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False)
    predictor.initialize_from_trained_model_folder(str(folder), folds, _CHECKPOINT)
    network, compared = predictor.network.eval(), []
    for model, weights in zip(models, predictor.list_of_parameters, strict=True):
        network.load_state_dict(weights)
        compared.append(compare(model.extract_at_full_resolution(config), network, patches))
    return compared


def stock_plans(model: TrainedModel, config: SubnetConfig) -> dict[str, Any]:
    """Return the plans with the subnet as the network of the configuration, which stands alone in them."""
    plans = copy.deepcopy(model.plans)
    configuration = copy.deepcopy(model.configuration.configuration)
    configuration["architecture"]["arch_kwargs"] = model.supernet.architecture.arch_kwargs_of(config)
    for link in ("inherits_from", "next_stage", "previous_stage"):
        configuration.pop(link, None)
    plans["configurations"] = {model.configuration_name: configuration}
    return plans


def _readme(models: Sequence[TrainedModel], config: SubnetConfig) -> str:
    return _README.format(
        config=config,
        version=__version__,
        folds=" ".join(str(model.fold) for model in models),
        network_class=models[0].configuration.network_arch_class_name,
    )


def _stock_checkpoint(model: TrainedModel, config: SubnetConfig, plans: dict[str, Any]) -> dict[str, Any]:
    return {
        "network_weights": model.extract_at_full_resolution(config).state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {
            "plans": plans,
            "configuration": model.configuration_name,
            "fold": model.fold,
            "dataset_json": model.dataset_json,
        },
        "inference_allowed_mirroring_axes": model.mirroring_axes,
        "prox": {"subnet": config.to_dict()},
    }
