"""TorchScript: write a network for hosts whose images have their axes in another order, run it with torch alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from prox_monai.evaluation.threads import torch_threads
from prox_monai.export.fixed_size import at_fixed_size

FILE = "model.ts"


@contextmanager
def torchscript_allowed() -> Iterator[None]:
    """MONAI's bundles hold TorchScript, which torch deprecates; a trace is of one input size, that of the patch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
        yield


class InOrder(nn.Module):
    """A network for images whose axes are in another order than its own.

    Args:
        network: maps ``(B, C, *spatial)`` to logits.
        order: for each of its axes, which one of the images that is.
    """

    def __init__(self, network: nn.Module, order: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self._to = (0, 1, *(axis + 2 for axis in order))
        self._back = (0, 1, *(order.index(axis) + 2 for axis in range(len(order))))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, *spatial)``, in the order of the images, to logits in the same order."""
        return self.network(x.permute(self._to)).permute(self._back)


def write_torchscript(
    network: nn.Module,
    input_shape: Sequence[int],
    order: Sequence[int],
    path: str | Path,
    texts: Mapping[str, str],
) -> None:
    """Write a network as TorchScript, for one image of one shape.

    Args:
        network: plain network, not changed.
        input_shape: ``(C, *spatial)``, in the network's own order of axes.
        order: for each of the network's axes, which one of the images that is; :class:`TorchScriptRuntime` takes
            images in the network's own order all the same.
        path: the file.
        texts: what else the file is to hold, by name.
    """
    channels, *spatial = input_shape
    size = [spatial[order.index(axis)] for axis in range(len(order))]
    module = InOrder(at_fixed_size(network, input_shape), order).eval()
    with torchscript_allowed(), torch.inference_mode():
        traced = torch.jit.trace(module, torch.zeros(1, channels, *size), check_trace=False)
        torch.jit.save(traced, str(path), dict(texts))


class TorchScriptRuntime:
    """A network of :func:`write_torchscript` in this process' torch, in its own order of axes.

    Args:
        path: the file.
        threads: CPU threads of a pass; torch's if not given.

    Raises:
        ValueError: When the file holds no such network.
    """

    name = "torchscript"
    device = "cpu"
    version = torch.__version__

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        self._threads = threads
        try:
            with torchscript_allowed():
                self._network = torch.jit.load(str(path), map_location="cpu").eval().network
        except (RuntimeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is not a network in TorchScript: {str(error).partition('. ')[0]}") from error

    def __call__(self, x: Tensor) -> Tensor:
        """Map one patch ``(1, C, *spatial)`` to its logits."""
        with torch_threads(self._threads), torch.inference_mode(), torchscript_allowed():
            return self._network(x)
