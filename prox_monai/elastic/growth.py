"""Initial values: what an expansion finds when it opens a candidate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from prox_monai.elastic.architecture import Architecture
from prox_monai.elastic.shells import Cell, Extent, ShellTensor
from prox_monai.elastic.skeleton import build_skeleton
from prox_monai.space import SearchSpace, SubnetConfig

Growth = Literal["preserving", "host", "none"]


@torch.no_grad()
def initialise(
    architecture: Architecture, space: SearchSpace, shells: Callable[[str], ShellTensor], growth: Growth
) -> dict[str, Tensor]:
    """Fill the shells as the host initialises.

    Where the network grows, each width is initialised on its own, so that layers suit their own fan-in, and kernel
    rings stay zero (ProX, section 3.3).

    Args:
        architecture: rule from configuration to plain network.
        space: the candidates.
        shells: returns the shells of a tensor, which are zero.
        growth: ``"preserving"`` sets the weights with which old channels read new ones to zero, so that opening a
            width changes no output; ``"host"`` keeps the host's initialisation; with ``"none"`` nothing grows: the
            largest network is initialised whole, rings too.

    Returns:
        The buffers of the widest network.
    """
    opened: dict[str, Cell] = {}
    kernel = space.kernel[-1 if growth == "none" else 0]
    for width in space.width[-1:] if growth == "none" else space.width:
        config = SubnetConfig.uniform(space.sections, space.depth[-1], width, kernel)
        network = architecture.build(config)
        for name, extent in build_skeleton(architecture, config).parameters.items():
            _open(shells(name), extent, name, network, opened.get(name), growth)
            opened[name] = shells(name).grid.locate(extent)
    return dict(network.named_buffers())


def _open(
    shells: ShellTensor, extent: Extent, name: str, network: nn.Module, opened: Cell | None, growth: Growth
) -> None:
    """Fill the cells that a width adds to those that are ``opened``."""
    reads, writes = channel_axes(network, name)
    for cell in shells.grid.cells(shells.grid.locate(extent)):
        if opened is not None and all(i <= o for i, o in zip(cell, opened, strict=True)):
            continue
        old_reads_new = opened is not None and cell[reads] > opened[reads] and cell[writes] <= opened[writes]
        if not (old_reads_new and extent.ndim > 1 and growth == "preserving"):
            shells.write(extent, network.get_parameter(name), only=cell)


def channel_axes(network: nn.Module, name: str) -> tuple[int, int]:
    """Return the axes of a weight along which its module reads and writes channels."""
    module = network.get_submodule(name.rpartition(".")[0])
    return (0, 1) if isinstance(module, _ConvTransposeNd) else (1, 0)
