"""A U-Net made of sections, whatever their blocks are: skips, up-sampling, heads, deep supervision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from prox_monai.networks.blocks import NEGATIVE_SLOPE
from prox_monai.networks.dims import conv, transposed_conv

MakeBlocks = Callable[[int, int, Sequence[int]], nn.Sequential]
"""Makes the blocks of a section from its index, the channels that it reads, and the stride of its first block."""


class EncoderSection(nn.Module):
    """The blocks of one encoder level; the first one reduces the resolution."""

    def __init__(self, blocks: nn.Sequential) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, C_below, *spatial)`` to ``(B, C, *spatial / stride)``."""
        return self.blocks(x)


class DecoderSection(nn.Module):
    """Up-sampling, concatenation with the skip, the blocks of one decoder level, and the head on them."""

    def __init__(self, upsample: nn.Module, blocks: nn.Sequential, head: nn.Module) -> None:
        super().__init__()
        self.upsample = upsample
        self.blocks = blocks
        self.head = head

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Map ``(B, C_below, *spatial)`` and the skip ``(B, C, *spatial * stride)`` to the skip's shape."""
        return self.blocks(torch.cat((self.upsample(x), skip), dim=1))


class SectionedUNet(nn.Module):
    """A U-Net of sections with transposed-convolution up-sampling, with He initialisation.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes.
        channels: channels per level, highest resolution first.
        strides: stride per level and axis; the first level's are 1.
        deep_supervision: whether ``forward`` returns the logits of every decoder level. All heads exist
            either way, so that names do not depend on it; the attribute may be set on a built network.
        blocks: makes the blocks of a section; sections are the encoder levels, then the decoder levels in the order
            they run (deepest first).

    Raises:
        ValueError: When ``spatial_dims`` is not 2 or 3.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        *,
        out_channels: int,
        channels: Sequence[int],
        strides: Sequence[Sequence[int]],
        deep_supervision: bool,
        blocks: MakeBlocks,
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        levels, one = len(channels), (1,) * spatial_dims

        def decoder(level: int) -> DecoderSection:
            width, stride = channels[level], tuple(strides[level + 1])
            upsample = transposed_conv(spatial_dims)(channels[level + 1], width, stride, stride)
            section = blocks(2 * levels - 2 - level, 2 * width, one)
            return DecoderSection(upsample, section, conv(spatial_dims)(width, out_channels, 1))

        inputs = (in_channels, *channels)
        self.encoder = nn.ModuleList(
            EncoderSection(blocks(level, inputs[level], strides[level])) for level in range(levels)
        )
        self.decoder = nn.ModuleList(decoder(level) for level in reversed(range(levels - 1)))
        self._initialise((conv(spatial_dims), transposed_conv(spatial_dims)))

    def _initialise(self, convolutions: tuple[type[nn.Module], ...]) -> None:
        for module in self.modules():
            if isinstance(module, convolutions):
                nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Compute the logits of an image.

        Args:
            x: image of shape ``(B, in_channels, *spatial)``, each axis a multiple of its product of strides.

        Returns:
            Logits of shape ``(B, out_channels, *spatial)``; with deep supervision a list of the logits of
            every decoder level, highest resolution first.
        """
        skips = []
        for section in self.encoder:
            x = section(x)
            skips.append(x)
        skips.pop()
        logits = []
        for section in self.decoder:
            x = section(x, skips.pop())
            if self.deep_supervision or not skips:
                logits.insert(0, section.head(x))
        return logits if self.deep_supervision else logits[0]
