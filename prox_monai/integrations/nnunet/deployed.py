"""Whatever can predict: a trained model with a subnet, a stock nnU-Net folder, an exported model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager, determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from prox_monai.evaluation.single_image import DEVICE
from prox_monai.export.description import FILE as DESCRIPTION
from prox_monai.export.description import file_digest
from prox_monai.export.exported import load_exported
from prox_monai.export.formats import RUNTIMES_IN_32_BITS
from prox_monai.export.runtime import RuntimeNetwork
from prox_monai.export.runtimes import make_runtime
from prox_monai.integrations.nnunet.checkpoint import read_stock
from prox_monai.integrations.nnunet.describing import check_described
from prox_monai.integrations.nnunet.planned import planned_module
from prox_monai.integrations.nnunet.trained import TrainedModel, read_model_files
from prox_monai.space import SubnetConfig

_CHECKPOINT = "checkpoint_final.pth"


@dataclass(frozen=True, slots=True)
class Deployed:
    """A network, and what says how images get to it and back.

    Args:
        network: maps patches to logits; a plain network, or one in a runtime.
        plans: content of nnU-Net's ``plans.json``.
        dataset_json: content of nnU-Net's ``dataset.json``.
        configuration_name: for example ``3d_fullres``.
        mirroring_axes: axes along which prediction may mirror; None for none.
        about: what identifies the network: subnet, weights, runtime.
    """

    network: nn.Module
    plans: dict[str, Any]
    dataset_json: dict[str, Any]
    configuration_name: str
    mirroring_axes: tuple[int, ...] | None
    about: dict[str, Any]

    @property
    def plans_manager(self) -> PlansManager:
        """nnU-Net's view of the plans."""
        return PlansManager(self.plans)

    @property
    def configuration(self) -> ConfigurationManager:
        """nnU-Net's view of the configuration."""
        return self.plans_manager.get_configuration(self.configuration_name)

    @property
    def labels(self) -> LabelManager:
        """nnU-Net's view of the labels."""
        return self.plans_manager.get_label_manager(self.dataset_json)

    @property
    def channels(self) -> int:
        """Number of channels of an image."""
        return determine_num_input_channels(self.plans_manager, self.configuration, self.dataset_json)

    @property
    def file_ending(self) -> str:
        """Of images and label maps."""
        return self.dataset_json["file_ending"]


def kind_of(folder: str | Path, fold: int | str = 0) -> Literal["exported", "family", "stock"]:
    """Return what a folder holds: an exported model, the subnets of ``ProXTrainer``, or a stock model of nnU-Net.

    Raises:
        FileNotFoundError: When it is none of these.
    """
    folder = Path(folder)
    if Path(folder, DESCRIPTION).is_file():
        return "exported"
    path = folder / f"fold_{fold}" / _CHECKPOINT
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no model: neither {DESCRIPTION} of prox-monai export, nor {path.relative_to(folder)} of "
            f"nnU-Net."
        )
    ours = read_stock(path).get("prox") or {}  # a stock folder of an exported subnet names the subnet there
    return "family" if "schedule" in ours or "settings" in ours else "stock"


def from_exported(folder: str | Path, threads: int | None = None) -> Deployed:
    """Open a folder of ``prox-monai export onnx``, ``openvino``, ``torch`` or ``bundle``; see ``load_exported``.

    Raises:
        ValueError: When its description does not match what is beside it.
    """
    folder = Path(folder)
    description, network = load_exported(folder, threads)
    plans, dataset_json = read_model_files(folder)
    check_described(description, plans, dataset_json)
    axes = description.preprocessing["mirroring_axes"]
    about = {
        "subnet": description.subnet,
        "weights": description.digest,
        "runtime": f"{network.runtime.name} {network.runtime.version}",
        "precision": description.precision,
        "device": network.runtime.device,
    }
    return Deployed(
        network,
        plans,
        dataset_json,
        description.source["configuration"],
        None if axes is None else tuple(axes),
        about,
    )


def from_trained(
    model: TrainedModel, config: SubnetConfig, runtime: str = "torch", threads: int | None = None
) -> Deployed:
    """Take a subnet of a trained model, in 32 bits.

    Args:
        model: the trained model.
        config: the subnet.
        runtime: ``torch``, ``onnxruntime`` or ``openvino``.
        threads: CPU threads of the last two; as many as torch's if not given.

    Raises:
        ImportError: When the runtime is not installed.
        ValueError: When the subnet is not in the search space, or the runtime is unknown, or computes in 8 bits.
    """
    model.supernet.space.check(config)
    if runtime not in RUNTIMES_IN_32_BITS:
        raise ValueError(
            f"runtime of a subnet that is not exported must be one of {', '.join(RUNTIMES_IN_32_BITS)}, got "
            f"{runtime!r}. int8 needs calibration: prox-monai export openvino --precision int8 --subnet {config}."
        )
    network = model.supernet.extract(config).eval()
    about = _about_torch(config.name, model.digest)
    if runtime != "torch":
        made = make_runtime(runtime, network, model.input_shape, threads or torch.get_num_threads())
        network = RuntimeNetwork(made, model.input_shape).eval()
        about |= {"runtime": f"{made.name} {made.version}", "device": made.device}
    axes, name = model.mirroring_axes, model.configuration_name
    return Deployed(network, model.plans, model.dataset_json, name, axes, about)


def from_stock(folder: str | Path, fold: int | str = 0) -> Deployed:
    """Open one fold of a stock nnU-Net model folder, such as ``prox-monai export nnunet`` writes, in torch.

    Raises:
        FileNotFoundError: When a file of it is missing.
        ValueError: When the checkpoint is damaged or not nnU-Net's.
    """
    folder = Path(folder)
    path = folder / f"fold_{fold}" / _CHECKPOINT
    for needed in (folder / "plans.json", folder / "dataset.json", path):
        if not needed.is_file():
            raise FileNotFoundError(f"{needed} does not exist; {folder} should be a model folder of nnU-Net.")
    content = read_stock(path)
    plans, dataset_json = read_model_files(folder)
    name = content["init_args"]["configuration"]
    network = planned_module(PlansManager(plans), name, dataset_json)
    network.load_state_dict(content["network_weights"])
    axes = content.get("inference_allowed_mirroring_axes")
    axes, about = None if axes is None else tuple(axes), _about_torch("stock", file_digest(path)[:12])
    return Deployed(network, plans, dataset_json, name, axes, about)


def stock_folds(folder: str | Path) -> list[str]:
    """Return the names of the folds of a model folder that can predict."""
    return sorted(path.parent.name for path in Path(folder).glob(f"fold_*/{_CHECKPOINT}"))


def _about_torch(subnet: str, digest: str) -> dict[str, Any]:
    runtime = f"torch {torch.__version__}"
    return {"subnet": subnet, "weights": digest, "runtime": runtime, "precision": "fp32", "device": DEVICE}
