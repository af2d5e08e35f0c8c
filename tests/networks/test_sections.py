from __future__ import annotations

import torch
from torch import nn

from prox_monai.networks.sections import SectionedUNet


def test_what_is_asked_of_the_blocks_of_each_section():
    """Index, channels that it reads (after a concatenation both inputs'), stride of its first block."""
    asked = {}

    def blocks(section, inputs, stride):
        asked[section] = inputs, tuple(stride)
        outputs = (4, 6, 8, 6, 4)[section]
        return nn.Sequential(nn.Conv2d(inputs, outputs, 1, tuple(stride), bias=False))

    shape = {"channels": (4, 6, 8), "strides": ((1, 1), (1, 2), (2, 2)), "deep_supervision": True}
    network = SectionedUNet(2, 3, out_channels=5, **shape, blocks=blocks)
    assert asked == {0: (3, (1, 1)), 1: (4, (1, 2)), 2: (6, (2, 2)), 3: (12, (1, 1)), 4: (8, (1, 1))}
    full, half = network(torch.randn(1, 3, 4, 8))
    assert (full.shape, half.shape) == ((1, 5, 4, 8), (1, 5, 4, 4))
    assert not network.decoder[0].upsample.bias.any()
