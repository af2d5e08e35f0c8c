"""The picture of a subnet: its sections by what they look at, with blocks, channels and kernels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from prox_monai.elastic import Architecture, scaled_size
from prox_monai.search.plots import new_figure
from prox_monai.space import SubnetConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHADES = {1: "#c6dbef", 3: "#9ecae1", 5: "#4292c6", 7: "#08519c"}
_BLOCK, _GAP, _HEIGHT = 0.5, 0.08, 0.62


@dataclass(frozen=True, slots=True)
class DrawnSection:
    """What one section of a plain network is.

    Args:
        blocks: how many there are.
        kernel: size per axis of the largest kernel.
        channels: that it gives.
        voxels: per axis, of what it gives.
    """

    blocks: int
    kernel: tuple[int, ...]
    channels: int
    voxels: tuple[int, ...]


def drawn_sections(
    architecture: Architecture, config: SubnetConfig, input_shape: Sequence[int]
) -> tuple[DrawnSection, ...]:
    """Return the sections of a subnet's plain network; nothing is computed or allocated.

    Args:
        architecture: the rule that builds it.
        config: the subnet.
        input_shape: ``(C, *spatial)`` of one image or patch at resolution 1.
    """
    channels, *size = input_shape
    with torch.device("meta"):
        network = architecture.build(config).eval()
    given: dict[int, torch.Size] = {}
    blocks = [
        network.get_submodule(architecture.block_prefix(section, depth - 1).rstrip("."))
        for section, depth in enumerate(config.depths)
    ]
    for section, block in enumerate(blocks):
        block.register_forward_hook(lambda _, inputs, output, section=section: given.update({section: output.shape}))
    with torch.no_grad():
        network(torch.empty(1, channels, *scaled_size(size, architecture.stride, config.resolution), device="meta"))
    return tuple(
        DrawnSection(depth, _largest_kernel(block, len(size)), given[section][1], tuple(given[section][2:]))
        for section, (depth, block) in enumerate(zip(config.depths, blocks, strict=True))
    )


def network_picture(
    architecture: Architecture, config: SubnetConfig, input_shape: Sequence[int], path: str | Path, *, title: str
) -> None:
    """Draw a subnet: a box a block, as dark as its kernel is large, lower where fewer voxels are seen.

    Args:
        architecture: the rule that builds its network.
        config: the subnet.
        input_shape: ``(C, *spatial)`` of one image or patch at resolution 1.
        path: the PNG to write.
        title: of the picture.

    Raises:
        ImportError: When matplotlib is not installed.
    """
    sections = drawn_sections(architecture, config, input_shape)
    sizes = sorted({math.prod(section.voxels) for section in sections}, reverse=True)
    figure = new_figure(9, 1.3 + 1.05 * len(sizes))
    from matplotlib.patches import Patch

    axes, left, places = figure.add_subplot(), 0.0, []
    for section in sections:
        bottom = -float(sizes.index(math.prod(section.voxels)))
        width = section.blocks * (_BLOCK + _GAP) - _GAP
        _draw_section(axes, section, left, bottom)
        places.append((left, left + width, bottom))
        left += max(width, 1.3) + 0.45
    _draw_ways(axes, places)
    axes.set(xlim=(-0.3, left), ylim=(-len(sizes) + 0.55, 1.15), title=title)
    axes.axis("off")
    kernels = sorted({max(section.kernel) for section in sections})
    handles = [Patch(facecolor=_shade(kernel), edgecolor="black", label=f"kernel {kernel}") for kernel in kernels]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(kernels), frameon=False)
    figure.savefig(path, dpi=130)


def _largest_kernel(block: nn.Module, spatial_dims: int) -> tuple[int, ...]:
    weights: list[Tensor] = [weight for weight in block.parameters() if weight.ndim == spatial_dims + 2]
    return max((tuple(weight.shape[2:]) for weight in weights), key=math.prod)


def _shade(kernel: int) -> str:
    return _SHADES.get(kernel, "#6a51a3")


def _draw_section(axes: Axes, section: DrawnSection, left: float, bottom: float) -> None:
    from matplotlib.patches import Rectangle

    for block in range(section.blocks):
        corner = (left + block * (_BLOCK + _GAP), bottom)
        face = _shade(max(section.kernel))
        axes.add_patch(Rectangle(corner, _BLOCK, _HEIGHT, facecolor=face, edgecolor="black", linewidth=0.8))
    kernel = "x".join(map(str, section.kernel))
    text = f"{section.channels} ch, {kernel}"
    axes.text(left, bottom + _HEIGHT + 0.04, text, fontsize="small", va="bottom")
    axes.text(left, bottom - 0.04, "x".join(map(str, section.voxels)), fontsize="x-small", va="top", color="0.35")


def _draw_ways(axes: Axes, places: Sequence[tuple[float, float, float]]) -> None:
    """Arrows from section to section, and from an encoder section to the decoder section of its level."""
    arrow = {"arrowstyle": "-|>", "color": "0.4", "shrinkA": 2, "shrinkB": 2}
    for (_, right, low), (left, _, other) in itertools.pairwise(places):
        axes.annotate("", (left, other + _HEIGHT / 2), (right, low + _HEIGHT / 2), arrowprops=arrow)
    pairs = ((places[i], places[-1 - i]) for i in range(len(places) // 2))
    for (_, right, low), (left, _, other) in pairs:
        if low == other and len(places) % 2:
            axes.annotate(
                "", (left, low + _HEIGHT / 2), (right, low + _HEIGHT / 2), arrowprops=arrow | {"linestyle": "--"}
            )
