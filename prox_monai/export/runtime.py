"""What runs a network: a protocol, and the module that hosts take for a network."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn


class Runtime(Protocol):
    """Runs one exported network.

    Args:
        name: for example ``openvino``.
        version: of the runtime.
        device: where it runs, with the arithmetic where the runtime says it, for example ``cpu (bf16)``.
    """

    name: str
    version: str
    device: str

    def __call__(self, x: Tensor) -> Tensor:
        """Map one patch ``(1, C, *spatial)`` to logits ``(1, K, *spatial)``, both in float32 on the CPU."""
        ...


class RuntimeNetwork(nn.Module):
    """A runtime as a module, for whoever expects a network.

    Args:
        runtime: what runs.
        input_shape: ``(C, *spatial)``, the one shape that the exported network takes.
    """

    def __init__(self, runtime: Runtime, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.runtime = runtime
        self.input_shape = tuple(input_shape)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, *spatial)`` to logits, image by image.

        Raises:
            ValueError: When an image has another shape than the exported network takes.
        """
        if tuple(x.shape[1:]) != self.input_shape:
            raise ValueError(f"the exported network takes {list(self.input_shape)}, got {list(x.shape[1:])}.")
        return torch.cat([self.runtime(image) for image in x.split(1)])
