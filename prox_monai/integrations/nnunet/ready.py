"""A network as nnU-Net's predictor is given it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prox_monai.evaluation.single_image import OneImage


class Ready(nn.Module):
    """A network that is on its device and in evaluation mode already; one image on a CPU it takes by oneDNN.

    nnU-Net's predictor moves its network for every case, each tensor of it, which takes a tenth as long as a small
    subnet does. Of this module it sees no tensor.

    Args:
        network: plain network, or one in a runtime.
        device: where to predict.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__()
        self._network = (network.to(device).eval(),)  # in a tuple it is no part of this module

    def forward(self, x: Tensor) -> Tensor:
        """Map a batch ``(B, C, *spatial)`` to its logits."""
        with OneImage.where_needed(x.device):
            return self._network[0](x)
