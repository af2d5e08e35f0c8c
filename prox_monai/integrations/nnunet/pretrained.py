"""``-pretrained_weights`` for supernets: a ProX checkpoint of the same space, or a stock one of the planned network."""

from __future__ import annotations

import re
from functools import wraps
from typing import Any

from nnunetv2.run import run_training
from torch import Tensor, nn

from prox_monai.elastic import Supernet
from prox_monai.elastic.extra_state import ExtraState
from prox_monai.integrations.nnunet.checkpoint import read_stock


def accept_supernets() -> None:
    """Let nnU-Net hand pretrained weights of a supernet to us.

    nnU-Net compares names and shapes of the file with those of the network before any of our code runs, and has no
    hook there; so the function that its command line calls is replaced, for supernets only.
    """
    original = run_training.load_pretrained_weights
    if getattr(original, "_accepts_supernets", False):
        return

    @wraps(original)
    def load(network: nn.Module, fname: str, verbose: bool = False) -> None:
        bare = getattr(network, "module", network)
        if isinstance(bare, Supernet):
            content = read_stock(fname)
            if not isinstance(content, dict) or "network_weights" not in content:
                raise ValueError(f"{fname} is not a checkpoint of nnU-Net: it holds no network_weights.")
            load_pretrained(bare, content["network_weights"], fname)
        else:
            original(network, fname, verbose)

    load._accepts_supernets = True
    run_training.load_pretrained_weights = load


def load_pretrained(supernet: Supernet, weights: dict[str, Any], path: str) -> None:
    """Fill a supernet.

    As nnU-Net does, segmentation heads are left as they are.

    Args:
        supernet: the network; changed in place.
        weights: ``network_weights`` of a checkpoint of ``ProXTrainer`` of the same search space, or of a stock
            trainer's planned network, which goes into the corner that it fills.
        path: where they were read.

    Raises:
        ValueError: When the search space or a shape differs, or the planned network is not in the space.
    """
    if "_extra_state" in weights:
        _load_supernet(supernet, weights, path)
    else:
        _load_planned(supernet, weights, path)


def _load_supernet(supernet: Supernet, weights: dict[str, Tensor], path: str) -> None:
    theirs = ExtraState.decode(weights["_extra_state"])
    if theirs.space != supernet.space:
        raise ValueError(f"{path} was trained in the search space {theirs.space}, this training's is {supernet.space}.")
    ours = supernet.state_dict()
    taken = {name: tensor for name, tensor in weights.items() if not _is_head(name) and name != "_extra_state"}
    for name, tensor in taken.items():
        if name not in ours or ours[name].shape != tensor.shape:
            raise ValueError(f"{path} does not fit the planned network: {name} of shape {tuple(tensor.shape)}.")
    supernet.load_state_dict(ours | taken)
    supernet.mark_opened(theirs.opened_depth)


def _load_planned(supernet: Supernet, weights: dict[str, Tensor], path: str) -> None:
    planned = supernet.architecture.planned()
    try:
        supernet.space.check(planned)
    except ValueError as error:
        raise ValueError(f"{path} holds the planned network {planned}, which is not a subnet here: {error}") from error
    network = supernet.extract(planned)
    state = network.state_dict()
    for name, tensor in state.items():
        if not _is_head(name) and (name not in weights or weights[name].shape != tensor.shape):
            found = tuple(weights[name].shape) if name in weights else "no such tensor"
            raise ValueError(f"{path} does not fit the planned network: {name} is {tuple(tensor.shape)}, got {found}.")
        if not _is_head(name):
            state[name] = weights[name]
    network.load_state_dict(state)
    supernet.absorb(planned, network)


def _is_head(name: str) -> bool:
    """Whether a tensor belongs to a layer that gives logits: those of other classes are not taken over."""
    return bool({"seg_layers", "head"} & set(re.split("[/.]", name)))
