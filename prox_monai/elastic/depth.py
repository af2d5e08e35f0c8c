"""Opening a depth: new blocks continue what stands before them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from prox_monai.elastic.architecture import Architecture, Moments
from prox_monai.elastic.resolution import without_resolution


@torch.no_grad()
def measure_moments(
    architecture: Architecture, network: nn.Module, block: int, batches: Iterable[Tensor]
) -> dict[int, Moments]:
    """Return, per section, the moments of what one of its blocks gives: within an image, a mean over images.

    Args:
        architecture: that of the network.
        network: a subnet in which every section has the block; run in evaluation mode.
        block: which block of the sections.
        batches: inputs of shape ``(B, C, *spatial)``; without any, there are no moments.
    """
    images: dict[int, list[Moments]] = {}

    def hook(section: int, output: Tensor) -> None:
        voxels = output.float().flatten(2)
        images.setdefault(section, []).append((voxels.mean(2), voxels.std(2, correction=0)))

    handles = []
    for section in range(architecture.sections):
        module = without_resolution(network).get_submodule(architecture.block_prefix(section, block)[:-1])
        handles.append(module.register_forward_hook(lambda _, __, output, section=section: hook(section, output)))
    network.eval()
    for batch in batches:
        network(batch)
    for handle in handles:
        handle.remove()
    return {
        section: tuple(torch.cat(parts).mean(0) for parts in zip(*found, strict=True))
        for section, found in images.items()
    }


def continue_sections(
    architecture: Architecture, network: nn.Module, blocks: Iterable[int], moments: Mapping[int, Moments]
) -> None:
    """Let new blocks of every section continue the block before them.

    Args:
        architecture: that of the network.
        network: a subnet that has the blocks; changed in place.
        blocks: the new blocks of each section, the first first.
        moments: of what each section gave before, where they were measured.
    """
    for section in range(architecture.sections):
        for block in blocks:
            architecture.continue_depth(network, section, block, moments.get(section))
