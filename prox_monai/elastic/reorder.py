"""Sort channels by importance, so that narrower subnets keep the best of them (Cai et al., section 3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prox_monai.elastic.architecture import Architecture, ReorderableArchitecture
from prox_monai.elastic.growth import channel_axes
from prox_monai.elastic.resolution import without_resolution
from prox_monai.elastic.supernet import Supernet
from prox_monai.space import SubnetConfig


@torch.no_grad()
def reorder_channels(supernet: Supernet) -> None:
    """Sort the channels of the largest network by importance, the most important first; it stays the same function.

    Called before narrower subnets are trained (Cai et al., section 3.3, "elastic width"): their functions change. What
    an optimizer keeps per weight is not sorted.

    Raises:
        TypeError: When the architecture does not say which channels belong together.
    """
    architecture, config = supernet.architecture, supernet.space.largest()
    check_reorderable(architecture)
    network = without_resolution(supernet.extract(config))
    importance = channel_importance(architecture, config, network)
    orders = {group: norms.argsort(descending=True, stable=True) for group, norms in importance.items()}
    permute_channels(architecture, config, network, orders)
    supernet.absorb(config, network)


def check_reorderable(architecture: Architecture) -> None:
    """Raise TypeError when an architecture does not say which channels belong together."""
    if not isinstance(architecture, ReorderableArchitecture):
        raise TypeError(f"channels can be re-ordered where channel_groups says which; {architecture} has none.")


@torch.no_grad()
def channel_importance(
    architecture: ReorderableArchitecture, config: SubnetConfig, network: nn.Module
) -> dict[str, Tensor]:
    """Return for each group of channels the L1 norm of the weights that read them, of shape ``(C,)``.

    Args:
        architecture: says which channels belong together.
        config: of the network.
        network: plain network.
    """
    importance: dict[str, Tensor] = {}
    for axis in _axes(architecture, config, network):
        if axis.reads:
            others = [i for i in range(axis.tensor.ndim) if i != axis.index]
            norms = axis.tensor.abs().sum(others).split(axis.sizes)
            for group, norm in zip(axis.groups, norms, strict=True):
                if group is not None:
                    importance[group] = importance[group] + norm if group in importance else norm
    return importance


@torch.no_grad()
def permute_channels(
    architecture: ReorderableArchitecture, config: SubnetConfig, network: nn.Module, orders: Mapping[str, Tensor]
) -> None:
    """Put the channels of a network in another order, in place.

    Args:
        architecture: says which channels belong together.
        config: of the network.
        network: plain network.
        orders: for groups of channels, which channel comes first, second, ..., of shape ``(C,)``.
    """
    for axis in _axes(architecture, config, network):
        index, start = [], 0
        for group, size in zip(axis.groups, axis.sizes, strict=True):
            order = orders[group] if group in orders else torch.arange(size, device=axis.tensor.device)
            index.append(order + start)
            start += size
        axis.tensor.copy_(axis.tensor.index_select(axis.index, torch.cat(index)))


@dataclass(frozen=True, slots=True)
class _Axis:
    """An axis of a tensor that carries channels: their groups and the channels of each."""

    tensor: Tensor
    index: int
    groups: tuple[str | None, ...]
    sizes: tuple[int, ...]
    reads: bool


def _axes(architecture: ReorderableArchitecture, config: SubnetConfig, network: nn.Module) -> Iterator[_Axis]:
    concatenated = architecture.concatenated(config)
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    for prefix, (reads, writes) in architecture.channel_groups(config).items():
        for name, tensor in tensors.items():
            if not name.startswith(prefix) or tensor.ndim == 0:
                continue
            written = 0
            if tensor.ndim > 1:
                read, written = channel_axes(network, name)
                yield _Axis(tensor, read, reads, concatenated.get(name, (tensor.shape[read],)), reads=True)
            yield _Axis(tensor, written, (writes,), (tensor.shape[written],), reads=False)
