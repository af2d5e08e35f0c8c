"""A trained ProX model folder, read without unpickling."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2.utilities.label_handling.label_handling import LabelManager, determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from prox_monai.data.json_file import read_json
from prox_monai.elastic import Supernet
from prox_monai.elastic.resolution import AtResolution
from prox_monai.evaluation.multiply_adds import MultiplyAdds
from prox_monai.integrations.nnunet.checkpoint import read_checkpoint, trained_space
from prox_monai.integrations.nnunet.trainer import ProXTrainer
from prox_monai.space import SearchSpace, SubnetConfig


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """One fold of a model folder.

    Args:
        folder: nnU-Net's model folder (``<trainer>__<plans>__<configuration>``).
        fold: which fold.
        plans: content of ``plans.json``.
        dataset_json: content of ``dataset.json``.
        configuration_name: for example ``3d_fullres``.
        mirroring_axes: axes along which prediction may mirror; None for none.
        supernet: with the trained weights, in evaluation mode, without deep supervision.
        digest: of the checkpoint file, the first digits of its SHA-256.
        space: the subnets that were trained when the checkpoint was written.
        batch_size: that of the training.
    """

    folder: Path
    fold: int | str
    plans: dict[str, Any]
    dataset_json: dict[str, Any]
    configuration_name: str
    mirroring_axes: tuple[int, ...] | None
    supernet: Supernet
    digest: str
    space: SearchSpace
    batch_size: int

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
    def input_shape(self) -> tuple[int, ...]:
        """Channels and voxels of one patch."""
        return self.supernet.architecture.in_channels, *self.configuration.patch_size

    def multiply_adds(self) -> MultiplyAdds:
        """Return the counter of multiply-adds per patch, which finds the subnets that are trained."""
        return MultiplyAdds(self.supernet, self.input_shape, self.space)

    def extract_at_full_resolution(self, config: SubnetConfig) -> nn.Module:
        """Extract a subnet's network, in evaluation mode, as it runs at resolution 1."""
        network = self.supernet.extract(config)
        return (network.network if isinstance(network, AtResolution) else network).eval()


def read_model_files(folder: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the plans and the ``dataset.json`` of a model folder.

    Raises:
        FileNotFoundError: When one is missing.
        ValueError: When one is damaged.
    """
    plans = read_json(Path(folder, "plans.json"), "plans_name", "configurations")
    return plans, read_json(Path(folder, "dataset.json"), "labels", "file_ending")


def load_trained(folder: str | Path, fold: int | str = 0, checkpoint: str = "checkpoint_final.pth") -> TrainedModel:
    """Read one fold of a model folder.

    Raises:
        FileNotFoundError: When the folder has no such checkpoint, or no plans.
        ValueError: When the checkpoint is damaged, of a newer version, or not one of ``ProXTrainer``.
    """
    folder = Path(folder)
    path = folder / f"fold_{fold}" / checkpoint
    for needed in (folder / "plans.json", folder / "dataset.json", path):
        if not needed.is_file():
            raise FileNotFoundError(f"{needed} does not exist; {folder} should be a model folder of ProXTrainer.")
    content = read_checkpoint(path)
    plans, dataset_json = read_model_files(folder)
    name = content["init_args"]["configuration"]
    manager = PlansManager(plans)
    supernet = ProXTrainer.build_network_architecture(
        manager,
        manager.get_configuration(name),
        determine_num_input_channels(manager, manager.get_configuration(name), dataset_json),
        manager.get_label_manager(dataset_json).num_segmentation_heads,
        enable_deep_supervision=False,
    )
    supernet.load_state_dict(content["network_weights"])
    axes = content["inference_allowed_mirroring_axes"]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return TrainedModel(
        folder,
        fold,
        plans,
        dataset_json,
        name,
        None if axes is None else tuple(axes),
        supernet.eval(),
        digest,
        trained_space(content),
        content["prox"]["settings"]["batch_size"] or manager.get_configuration(name).batch_size,
    )
