"""3-D convolutions of one image by oneDNN, where torch would unfold the image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_CONVOLUTIONS = (torch.conv3d, torch.ops.aten.conv3d.default)  # of layers, and of exported programs
_UNFOLDED = 20480  # numbers in an image, its last axis aside: torch unfolds up to so many
_WIDE = 3  # voxels: torch leaves kernels to oneDNN that are wider along both of the last axes

DEVICE = "cpu (oneDNN)"
"""Where networks run in this context, as tables of latencies and descriptions have it."""


class OneImage(TorchFunctionMode):
    """A context for predicting one image at a time on a CPU: oneDNN computes its 3-D convolutions.

    Torch unfolds a single image of few channels into a matrix first (``slow_conv3d``), 27 times as large for kernels of
    three voxels; oneDNN, which it leaves batches of two to, takes a third to a ninth of the time
    (``benchmarks/single_image.py``).
    Values are the same but for rounding. All else stays as it is: other images and operations, other devices and
    precisions, and whatever is traced, compiled or has gradients.
    """

    @classmethod
    def where_needed(cls, device: torch.device) -> AbstractContextManager[Any]:
        """Return this context for a CPU, and one that does nothing for other devices, where it would cost time."""
        return cls() if device.type == "cpu" else nullcontext()

    @classmethod
    def cover(cls, network: nn.Module) -> nn.Module:
        """Let every pass of a network be made in this context from now on; returns the network."""
        entered: list[Self] = []

        def enter(*_: Any) -> None:
            entered.append(cls())
            entered[-1].__enter__()

        def leave(*_: Any) -> None:
            entered.pop().__exit__(None, None, None)

        network.register_forward_pre_hook(enter)
        network.register_forward_hook(leave, always_call=True)
        return network

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
        not (torch.is_grad_enabled() or torch.jit.is_tracing() or torch.compiler.is_compiling())
        and not torch.is_autocast_enabled("cpu")
        and image.device.type == "cpu"
        and image.dtype == kernel.dtype == torch.float32
        and image.ndim == 5
        and len(image) == 1
        and image.shape[:-1].numel() <= _UNFOLDED
        and kernel.shape[2:].numel() > 1
        and min(kernel.shape[-2:]) <= _WIDE
        and torch.backends.mkldnn.is_available()
        and torch._C._get_mkldnn_enabled()  # by torch.backends.mkldnn.flags
    )


def _per_axis(value: int | Sequence[int]) -> Sequence[int]:
    return (value,) * 3 if isinstance(value, int) else value
