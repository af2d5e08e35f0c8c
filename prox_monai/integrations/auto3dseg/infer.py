"""Predict with a subnet: the probabilities of the classes on the image's own grid."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd
from torch import nn

from prox_monai.evaluation.single_image import OneImage
from prox_monai.integrations.auto3dseg.data import deterministic_transforms
from prox_monai.integrations.auto3dseg.engines import sliding_window
from prox_monai.integrations.auto3dseg.folder import AlgoFolder
from prox_monai.integrations.auto3dseg.ranks import device_of
from prox_monai.integrations.monai import SubnetNetwork
from prox_monai.training.checkpoint import load_checkpoint

logger = logging.getLogger(__name__)

OPTIONS = ("subnet", "max_latency_ms", "num_sw_batch_size", "overlap_ratio", "amp")
_KEPT_NETWORKS = 32


class InferClass:
    """What Auto3DSeg builds for every file and algorithm: the weights are read once, not at every build.

    Args:
        config_file: the algorithm's configuration files.
        **override: ``subnet``, one name or several, whose probabilities are averaged; ``max_latency_ms``, of one patch;
            ``num_sw_batch_size``, ``overlap_ratio``, ``amp``. Auto3DSeg passes what is meant for saving and for other
            algorithms, too: that is left alone. A member of ``add_subnet`` keeps its
            subnet.

    Raises:
        FileNotFoundError: When the algorithm is not trained.
        ValueError: When there is no such subnet, none within the budget, a subnet and a budget are given, or an option
            is nearly one of these.
    """

    def __init__(self, config_file: str | Path | Sequence[str | Path] | None = None, **override: Any) -> None:
        folder = AlgoFolder.of(config_file)
        given = _options(override)
        if folder.is_member:  # what Auto3DSeg passes to all whose name begins with prox
            dropped = [name for name in OPTIONS[:2] if given.pop(name, None)]
            if dropped:
                logger.info(
                    "%s predicts with its own subnet: %s is not for it.", folder.root.name, " and ".join(dropped)
                )
        # a choice takes the place of the one in the file, be it a subnet or a budget
        if given.get("subnet"):
            given["max_latency_ms"] = 0
        elif given.get("max_latency_ms"):
            given["subnet"] = "largest"
        self.parameters = folder.trained_parameters(given)
        self.device = device_of(int(override.get("rank") or 0))
        budget = self.parameters.max_latency_ms
        self.networks = [_load(folder, name, budget, self.device) for name in self.parameters.subnet]
        self.preprocessing = Compose(deterministic_transforms(self.parameters, ["image"]))
        self.inferer = sliding_window(self.parameters)
        self.inversion = Invertd(
            "pred", self.preprocessing, orig_keys="image", nearest_interp=False, to_tensor=True, device="cpu"
        )

    @torch.no_grad()
    def infer(self, image_file: Any) -> torch.Tensor:
        """Return the probabilities of an image's classes.

        Args:
            image_file: a path, a list of one per channel, or a mapping that has either under ``image``.

        Returns:
            Probabilities of shape ``(classes, *spatial)`` on the grid of the file, with its affine and its name.
        """
        path = image_file["image"] if isinstance(image_file, Mapping) else image_file
        data = self.preprocessing({"image": path})
        image: MetaTensor = data["image"]
        inputs = image.as_tensor()[None].to(self.device)
        mixed = self.parameters.amp and self.device.type == "cuda"
        with torch.autocast(self.device.type, enabled=mixed), OneImage.where_needed(self.device):
            logits = [self.inferer(inputs, network)[0].float() for network in self.networks]
        # of an image that is too large for the GPU the inferer returns them on the CPU
        probabilities = torch.stack([each.softmax(0).to(logits[0].device) for each in logits]).mean(0)
        data["pred"] = MetaTensor(probabilities, meta=image.meta, applied_operations=image.applied_operations)
        return self.inversion(data)["pred"]


@lru_cache(maxsize=_KEPT_NETWORKS)
def load_network(
    supernet: str,
    changed: int,
    subnet: str,
    max_latency_ms: float,
    table: str,
    table_changed: int,
    device: torch.device,
) -> nn.Module:
    """Return a subnet as a plain network; the same one for the same files.

    Args:
        supernet: file of the trained supernet.
        changed: when it was written, in nanoseconds.
        subnet: its name.
        max_latency_ms: the best one known within this instead; 0: no budget.
        table: file of known subnets.
        table_changed: when that was written, in nanoseconds.
        device: where it is to run.

    Raises:
        ValueError: When there is no such subnet, or none within the budget.
    """
    trained = load_checkpoint(supernet).supernet
    network = SubnetNetwork(
        trained.architecture, trained.space, subnet=subnet, max_latency_ms=max_latency_ms, table=table
    )
    network.load_state_dict(trained.state_dict())
    logger.info("subnet %s of %s", network.active.name, supernet)
    return network.extract(network.active).eval().to(device)


def _load(folder: AlgoFolder, subnet: str, max_latency_ms: float, device: torch.device) -> nn.Module:
    changed, table_changed = (
        path.stat().st_mtime_ns if path.exists() else 0 for path in (folder.supernet, folder.table)
    )
    files = str(folder.supernet), changed, subnet, max_latency_ms, str(folder.table), table_changed
    return load_network(*files, device)


def _options(override: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are for this algorithm; a misspelt one is refused."""
    for name in override:
        close = difflib.get_close_matches(name, OPTIONS[:2], n=1, cutoff=0.75)
        if name not in OPTIONS and (close or name.startswith("prox_")):
            meant = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(f"unknown option {name!r}{meant}; prox predicts with {', '.join(OPTIONS)}.")
    if override.get("subnet") and override.get("max_latency_ms"):
        raise ValueError(
            f"max_latency_ms chooses the subnet: give one of both, got {override['max_latency_ms']} and "
            f"{override['subnet']}."
        )
    return {name: override[name] for name in OPTIONS if name in override}
