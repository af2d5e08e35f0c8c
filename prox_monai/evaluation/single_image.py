"""3-D convolutions of one image by oneDNN, where torch would unfold the image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_CONVOLUTIONS = (torch.conv3d, torch.ops.aten.conv3d.default)  # of layers, and of exported programs
_UNFOLDED = 20480  # numbers in an image, its last axis aside: torch unfolds up to so many
_WIDE = 3  # voxels: torch unfolds no wider kernels


class OneImage(TorchFunctionMode):
    """A context for predicting one image at a time on a CPU: oneDNN computes its 3-D convolutions.

    Torch unfolds a single image of few channels into a matrix first (``slow_conv3d``): it takes three times as long as
    oneDNN, which it leaves batches of two to, and 27 times the image's memory (``benchmarks/single_image.py``). Values
    are the same but for rounding. All else stays as it is: other images and operations, other devices, and whatever is
    traced or has gradients.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Compute a function of torch."""
        if function in _CONVOLUTIONS and not kwargs:
            return _convolved(*args)
        return function(*args, **(kwargs or {}))


def _convolved(
    image: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """``torch.conv3d``, by oneDNN where that is faster."""
    if groups == 1 and not isinstance(padding, str) and _is_unfolded(image, kernel):
        options = (_per_axis(padding), _per_axis(stride), _per_axis(dilation), groups)
        return torch.mkldnn_convolution(image, kernel, bias, *options)
    return torch.conv3d(image, kernel, bias, stride, padding, dilation, groups)


def _is_unfolded(image: Tensor, kernel: Tensor) -> bool:
    """Whether torch would unfold an image, and oneDNN may be called in its place."""
    return (
        not (torch.is_grad_enabled() or torch.jit.is_tracing())
        and image.device.type == "cpu"
        and image.dtype == kernel.dtype == torch.float32
        and image.ndim == 5
        and len(image) == 1
        and image.shape[:-1].numel() <= _UNFOLDED
        and kernel.shape[2:].numel() > 1
        and max(kernel.shape[-2:]) <= _WIDE
        and torch.backends.mkldnn.is_available()
    )


def _per_axis(value: int | Sequence[int]) -> Sequence[int]:
    return (value,) * 3 if isinstance(value, int) else value
