"""Re-estimate BatchNorm statistics: those of a supernet mix all subnets, an extracted network needs its own."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give every BatchNorm layer of a network the mean and variance of its inputs over all images.

    A layer's inputs depend on the statistics of the layers before it. So the layers are re-estimated one after the
    other, in evaluation mode, on inputs that the earlier ones have normalised with their final statistics: how the
    images are split into batches does not matter. A pass over the images ends at the layer in question; there are as
    many passes as layers, which cost about half as many forward passes. One batch needs a single pass: every layer
    takes its statistics just before it runs.

    The variance is that of the population (divided by the count, Wu & Johnson 2021, arXiv:2105.07576, section 3).
    Layers that keep no statistics or that no image reaches stay as they are, and so does everything but
    ``running_mean``, ``running_var`` and ``num_batches_tracked``, which becomes the number of batches. A network
    without BatchNorm is not run. A layer that runs several times takes the statistics of its first run.

    Args:
        network: plain network, as returned by ``Supernet.extract``; changed in place.
        batches: training images, the same at every iteration: tensors of shape ``(B, C, *spatial)`` on the network's
            device, of any sizes.

    Raises:
        ValueError: When ``batches`` can be read only once, or holds no image.
    """
    if iter(batches) is batches:
        raise ValueError(f"batches must be a sequence that can be read once per layer, got {type(batches).__name__}.")
    layers = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        if layers and len(first := list(itertools.islice(filter(len, batches), 2))) == 1:
            _recalibrate_at_once(network, first[0], layers)
            return
        while layers and (layer := _recalibrate_next(network, batches, layers)):
            layers.remove(layer)
    finally:
        for module, training in modes.items():
            module.training = training


class _Reached(Exception):
    """A forward pass has come to a layer that waits for its statistics."""

    def __init__(self, layer: _BatchNorm, x: Tensor) -> None:
        super().__init__(layer)
        self.layer, self.x = layer, x


@dataclass(slots=True)
class _Moments:
    """Mean and sum of squares about it, per channel, of all values added so far."""

    batches: int = 0
    count: int = 0
    mean: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def add(self, x: Tensor) -> None:
        """Add values of shape ``(B, C, *spatial)`` (Chan, Golub & LeVeque 1983, equations 2.1)."""
        n = x.numel() // x.shape[1]
        variance, mean = torch.var_mean(x.double(), dim=[0, *range(2, x.ndim)], correction=0)
        difference = mean - self.mean
        self.squares += n * variance + difference**2 * (self.count * n / (self.count + n))
        self.mean += difference * (n / (self.count + n))
        self.count += n
        self.batches += 1

    def give(self, layer: _BatchNorm) -> None:
        """Set the statistics of a layer."""
        layer.running_mean.copy_(self.mean)
        layer.running_var.copy_(self.squares / self.count)
        layer.num_batches_tracked.fill_(self.batches)


def _recalibrate_at_once(network: nn.Module, batch: Tensor, layers: Collection[_BatchNorm]) -> None:
    """Run a network on one batch; each layer takes its statistics from its own input, then normalises by them."""
    hooks = {}

    def take(layer: _BatchNorm, inputs: tuple[Tensor]) -> None:
        if (hook := hooks.pop(layer, None)) is not None:
            hook.remove()
            moments = _Moments()
            moments.add(inputs[0])
            moments.give(layer)

    hooks.update({layer: layer.register_forward_pre_hook(take) for layer in layers})
    try:
        network(batch)
    finally:
        for hook in hooks.values():
            hook.remove()


def _recalibrate_next(
    network: nn.Module, batches: Iterable[Tensor], waiting: Collection[_BatchNorm]
) -> _BatchNorm | None:
    """Set the statistics of the layer that runs first among those waiting, and return it; None where none runs."""
    layer, moments = None, _Moments()
    for batch in filter(len, batches):
        layer, x = _run_to(network, batch, waiting)
        if layer is None:
            return None
        moments.add(x)
    if layer is None:
        raise ValueError("batches must hold at least one image, got none.")
    moments.give(layer)
    return layer


def _run_to(network: nn.Module, x: Tensor, waiting: Collection[_BatchNorm]) -> tuple[_BatchNorm | None, Tensor]:
    """Run a network up to the first of the waiting layers; returns it, None where none runs, and its input."""

    def stop(layer: _BatchNorm, inputs: tuple[Tensor]) -> None:
        raise _Reached(layer, inputs[0])

    hooks = [layer.register_forward_pre_hook(stop) for layer in waiting]
    try:
        return None, network(x)
    except _Reached as reached:
        return reached.layer, reached.x
    finally:
        for hook in hooks:
            hook.remove()
