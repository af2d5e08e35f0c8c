"""The order in which kernels lie in memory while they are trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_SLOW_GRADIENTS = "AVX2"


def trained_fast(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a network's tensors with 3-D kernels channels last, where the processor trains them faster so.

    On processors whose widest instructions are AVX2, oneDNN takes a quarter less time for a step of a 3-D U-Net
    (``benchmarks/memory_format.py``). All values are the same; a convolution adds them up in another order.
    Other tensors, processors and GPUs: as they are.
    """
    if torch.backends.cpu.get_cpu_capability() != _SLOW_GRADIENTS:
        return dict(tensors)
    return {
        name: tensor.contiguous(memory_format=torch.channels_last_3d) if _is_kernel(tensor) else tensor
        for name, tensor in tensors.items()
    }


def _is_kernel(tensor: Tensor) -> bool:
    """Whether it is a 3-D kernel in 32 bits; of one input channel, as depth-wise ones, both orders are the same."""
    return tensor.ndim == 5 and tensor.shape[1] > 1 and tensor.dtype == torch.float32 and tensor.device.type == "cpu"
