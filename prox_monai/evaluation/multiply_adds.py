"""Multiply-adds of any subnet, from one look at the largest network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from prox_monai.elastic import Supernet, scaled_size
from prox_monai.space import SearchSpace, SubnetConfig

ALIASES = ("smallest", "middle", "largest")


class MultiplyAdds:
    """Counts the multiply-adds of a subnet's convolutions and linear layers for one image.

    Every entry of a weight is used once per voxel of the layer's output (of a transposed convolution: input), and
    that number of voxels depends on the resolution alone. So the largest network is run once per resolution, on
    the meta device; a subnet costs a sum over the sizes of its weights.

    Args:
        supernet: where the subnets come from.
        input_shape: ``(C, *spatial)`` at resolution 1.
        space: the subnets to find by name, if not all of the supernet's.
    """

    def __init__(self, supernet: Supernet, input_shape: Sequence[int], space: SearchSpace | None = None) -> None:
        self.supernet = supernet
        self.space = space or supernet.space
        channels, *size = self.input_shape = tuple(input_shape)
        self._others: dict[tuple[int, ...], MultiplyAdds] = {}
        self._voxels = {
            resolution: _voxels_per_weight(
                supernet, (channels, *scaled_size(size, supernet.architecture.stride, resolution))
            )
            for resolution in supernet.space.resolution
        }

    def __call__(self, config: SubnetConfig) -> int:
        """Return the multiply-adds of a subnet.

        Raises:
            ValueError: When the subnet is not in the supernet's search space.
        """
        self.supernet.space.check(config)
        voxels = self._voxels[config.resolution]
        shapes = self.supernet.parameter_shapes(config)
        return sum(math.prod(shape) * voxels[name] for name, shape in shapes.items() if name in voxels)

    def at(self, size: Sequence[int]) -> MultiplyAdds:
        """Return the same for images of another size, in voxels."""
        shape = (self.input_shape[0], *size)
        if shape == self.input_shape:
            return self
        if shape not in self._others:
            self._others[shape] = MultiplyAdds(self.supernet, shape, self.space)
        return self._others[shape]

    def middle(self) -> SubnetConfig:
        """Return the ``middle`` subnet: of the uniform ones at full resolution, the one whose multiply-adds are
        nearest to the geometric mean of the smallest's and the largest's."""
        space = self.space
        target = (math.log(self(space.smallest())) + math.log(self(space.largest()))) / 2
        uniform = (
            SubnetConfig.uniform(space.sections, depth, width, kernel, space.resolution[-1])
            for depth, width in space.pairs or itertools.product(space.depth, space.width)
            for kernel in space.kernel
        )
        return min(uniform, key=lambda config: (abs(math.log(self(config)) - target), config))

    def find(self, name: str) -> SubnetConfig:
        """Return the subnet of a name or alias: ``smallest``, ``middle``, ``largest``.

        Raises:
            ValueError: When there is no such subnet; the message says which there are.
        """
        check_name(self.space, name)
        return self.middle() if name == "middle" else self.space.parse(name)


def check_name(space: SearchSpace, name: str, field: str | None = None) -> None:
    """Check that a name or alias is one of a subnet; ``middle`` always is.

    Args:
        space: of the subnets.
        name: which.
        field: that it was given for, if the message is to say so.

    Raises:
        ValueError: When there is no such subnet; the message says which there are.
    """
    if name == "middle":
        return
    try:
        space.parse(name)
    except ValueError as error:
        raise ValueError(f"{f'{field}: ' if field else ''}{str(error).rstrip('.')}, and middle.") from error


def _voxels_per_weight(supernet: Supernet, input_shape: Sequence[int]) -> dict[str, int]:
    with torch.device("meta"):
        network = supernet.architecture.build(supernet.space.largest()).eval()
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    voxels: dict[str, int] = {}

    def count(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if isinstance(layer, nn.Linear):
            uses = math.prod(output.shape[1:-1])
        else:
            uses = math.prod((inputs[0] if isinstance(layer, _ConvTransposeNd) else output).shape[2:])
        name = names[id(layer.weight)]
        voxels[name] = voxels.get(name, 0) + uses

    for module in network.modules():
        if isinstance(module, (_ConvNd, nn.Linear)):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.empty(1, *input_shape, device="meta"))
    return voxels
