"""The blocks that a subnet is run as: what its latency is made up of."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from prox_monai.elastic import Architecture, Supernet, scaled_size
from prox_monai.elastic.resolution import AtResolution, without_resolution
from prox_monai.elastic.skeleton import build_skeleton
from prox_monai.space import SearchSpace, SubnetConfig

_PATIENCE = 400
_DRAWS_PER_BLOCK = 20  # a section's first blocks differ in two widths and the kernel: one is missed in e^-20 of cases
_RESIZE = "resize"
_SAME_SHAPE = (_NormBase, nn.GroupNorm, nn.ReLU, nn.ReLU6, nn.LeakyReLU, _DropoutNd)


@dataclass(frozen=True, slots=True)
class Block:
    """One block of one subnet: a block of a section, a layer outside them, or the resizing of input and output.

    Args:
        key: what it computes, of an input of which shape; equal keys take equal time.
        path: its module in the plain network.
        shape: of its input, ``(C, *spatial)``.
        elements: numbers that it reads and writes, weights aside.
        weights: number of its weights.
    """

    key: str
    path: str
    shape: tuple[int, ...]
    elements: int
    weights: int


def blocks_of(architecture: Architecture, config: SubnetConfig, input_shape: Sequence[int]) -> list[Block]:
    """Return the blocks of a subnet in the order they run; nothing is computed or allocated.

    Args:
        architecture: what builds the subnet.
        config: the subnet.
        input_shape: ``(C, *spatial)`` of one image at resolution 1.
    """
    channels, *size = input_shape
    shape = (channels, *scaled_size(size, architecture.stride, config.resolution))
    network = build_skeleton(architecture, config).network.eval()
    found: list[Block] = []

    def note(path: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            found.append(_block(module, path, inputs[0], output))

        return hook

    for path, module in _units(architecture, config, network):
        module.register_forward_hook(note(path))
    for layer in network.modules():
        if isinstance(layer, _SAME_SHAPE):  # shapes are all that is looked at, and these take the most time
            layer.forward = _unchanged
    with torch.inference_mode():
        output = network(torch.empty(1, *shape, device="meta"))
    if config.resolution != 1 and isinstance(output, Tensor) and output.ndim == len(shape) + 1:
        found.append(_resizing(tuple(input_shape), shape, output.shape[1]))
    return found


def module_of(supernet: Supernet, config: SubnetConfig, block: Block) -> nn.Module:
    """Return the block of a subnet as a network of its own."""
    if block.path == _RESIZE:
        outputs = int(block.key.split()[-2])
        return AtResolution(_Repeat(outputs), supernet.architecture.stride, config.resolution)
    return without_resolution(supernet.extract(config)).get_submodule(block.path).eval()


def all_blocks(
    architecture: Architecture, space: SearchSpace, input_shape: Sequence[int], seed: int = 0
) -> dict[str, tuple[SubnetConfig, Block]]:
    """Return every block that subnets of a space have, by key, each with a subnet that has it.

    A small space is enumerated; else subnets are drawn, for each resolution first of the largest depth, until many in
    a row have brought no new block.

    Args:
        architecture: what builds the subnets.
        space: the subnets.
        input_shape: ``(C, *spatial)`` of one image at resolution 1.
        seed: of the draw.
    """
    found: dict[str, tuple[SubnetConfig, Block]] = {}
    patience = max(_PATIENCE, _DRAWS_PER_BLOCK * len(space.width) ** 2 * len(space.kernel))
    for configs in _samples(space, random.Random(seed)):
        idle = 0
        for config in configs:
            new = {block.key: (config, block) for block in blocks_of(architecture, config, input_shape)}
            idle = 0 if new.keys() - found.keys() else idle + 1
            found = new | found
            if idle == patience:
                break
    return found


def _samples(space: SearchSpace, rng: random.Random) -> Iterator[Iterator[SubnetConfig]]:
    """Sequences of subnets, each to be read until it brings nothing new."""
    if space.size() <= 2 * _PATIENCE:
        yield iter(space)
        return
    deepest = {} if space.pairs else {"depth": space.depth[-1:]}
    for resolution in space.resolution:
        part = space.restrict(resolution=(resolution,), **deepest)
        yield (part.sample(rng) for _ in iter(int, 1))
    yield (space.sample(rng) for _ in iter(int, 1))


def _units(architecture: Architecture, config: SubnetConfig, network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that are timed: blocks of sections that a module runs as a whole, else their layers."""
    blocks = [
        architecture.block_prefix(section, block)[:-1]
        for section, depth in enumerate(config.depths)
        for block in range(depth)
    ]
    inside = tuple(f"{path}." for path in blocks)
    for path, module in network.named_modules():
        is_layer = not any(True for _ in module.children()) and not path.startswith(inside)
        if path in blocks or (is_layer and path):
            yield path, module


def _block(module: nn.Module, path: str, x: Tensor, output: Tensor) -> Block:
    layers = [layer for layer in module.modules() if not any(True for _ in layer.children())]
    plain = (bool, int, float, str, tuple)
    own = {name: value for name, value in vars(module).items() if name[0] != "_" and isinstance(value, plain)}
    own.pop("training", None)
    flags = ", ".join(f"{name}={value}" for name, value in sorted(own.items())) if module not in layers else ""
    sizes = f"{_times(x.shape[1:])} to {_times(output.shape[1:])}"
    key = f"{type(module).__name__}({flags}): {', '.join(map(repr, layers))}; {sizes}"
    weights = sum(parameter.numel() for parameter in module.parameters())
    return Block(key, path, tuple(x.shape[1:]), x.numel() + output.numel(), weights)


def _resizing(native: tuple[int, ...], scaled: tuple[int, ...], outputs: int) -> Block:
    key = f"{_RESIZE}: {_times(native)} to {_times(scaled)} and {outputs} back"
    elements = math.prod(native) + math.prod(scaled)
    elements += outputs * (math.prod(native[1:]) + math.prod(scaled[1:]))
    return Block(key, _RESIZE, native, elements, 0)


def _unchanged(x: Tensor) -> Tensor:
    return x


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


class _Repeat(nn.Module):
    """Repeats the first channel: in place of a network, where only resizing is timed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, *spatial)`` to ``(B, channels, *spatial)``."""
        return torch.cat([x[:, :1]] * self.channels, 1)
