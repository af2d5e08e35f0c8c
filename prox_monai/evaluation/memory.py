"""What a network holds in memory at its peak, counted without computing or allocating anything."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def tensor_bytes(network: nn.Module, input_shape: Sequence[int]) -> int:
    """Count the bytes of weights, and of input and activations that are alive at once, at their peak, for one image.

    It is what any runtime needs that does not work in place where the network does not; workspaces of the operations
    come on top (:func:`~prox_monai.evaluation.cost.peak_memory_bytes` measures them, which takes seconds).

    Args:
        network: plain network on any device, the meta device included; not changed.
        input_shape: ``(C, *spatial)``.
    """
    made = {id(tensor): _meta(tensor) for tensor in (*network.parameters(), *network.buffers())}
    skeleton = copy.deepcopy(network, made).eval()
    for layer in skeleton.modules():
        if isinstance(layer, (_NormBase, nn.GroupNorm)):  # torch takes such layers apart first, which takes long
            layer.forward = torch.empty_like
    weights = sum(tensor.nbytes for tensor in (*skeleton.parameters(), *skeleton.buffers()))
    with torch.inference_mode(), _Alive() as alive:
        skeleton(torch.zeros(1, *input_shape, device="meta"))
    return weights + alive.peak


def _meta(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


class _Alive(TorchDispatchMode):
    """Sums the storages that operations make for as long as something holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if id(storage) not in given and storage not in self._seen:
                    self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self._seen.add(storage)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size
