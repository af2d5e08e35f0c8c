"""Which modules of a U-Net read and write the same channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

ChannelGroups = dict[str, tuple[tuple[str | None, ...], str | None]]


def unet_channel_groups(
    depths: Sequence[int], block_prefix: Callable[[int, int], str], upsample: str, head: str
) -> ChannelGroups:
    """Return per module the groups of the channels that it reads, one per input, and of those that it writes.

    The blocks of a section write one group, as any of them may be the last of a subnet. An up-sampling writes one of
    its own; images and classes are none.

    Args:
        depths: blocks per section: encoder levels, then decoder levels, deepest first.
        block_prefix: maps section and block to the prefix of the names of the block's tensors.
        upsample: prefix of the names of an up-sampling's tensors, with ``{}`` for the index of its decoder section.
        head: likewise of a head.
    """
    levels = (len(depths) + 1) // 2
    groups: ChannelGroups = {}
    for section, depth in enumerate(depths):
        own, before = f"section {section}", f"section {section - 1}" if section else None
        reads: tuple[str | None, ...] = (before,)
        if section >= levels:
            i = section - levels
            reads = (f"up {i}", f"section {levels - 2 - i}")
            groups[upsample.format(i)] = (before,), f"up {i}"
            groups[head.format(i)] = (own,), None
        for block in range(depth):
            groups[block_prefix(section, block)] = (own,) if block else reads, own
    return groups
