"""The runtimes by name: what makes one of a plain network, without a file that stays."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from prox_monai.evaluation.single_image import DEVICE, OneImage
from prox_monai.evaluation.threads import torch_threads
from prox_monai.export.onnx import OnnxRuntime, write_onnx
from prox_monai.export.openvino import OpenVinoRuntime, convert_openvino
from prox_monai.export.quantize import quantize_openvino
from prox_monai.export.runtime import Runtime

MakeRuntime = Callable[[nn.Module, Sequence[int], int], Runtime]


class PlainRuntime:
    """A network as it is, run by torch, with oneDNN's convolutions (:class:`OneImage`).

    Args:
        network: plain network, not changed.
        threads: CPU threads of a pass.
    """

    name = "torch"
    device = DEVICE
    version = torch.__version__

    def __init__(self, network: nn.Module, threads: int) -> None:
        self._threads = threads
        self._network = copy.deepcopy(network).eval()

    def __call__(self, x: Tensor) -> Tensor:
        """Map one patch ``(1, C, *spatial)`` to its logits."""
        with torch_threads(self._threads), torch.inference_mode(), OneImage():
            return self._network(x)


def make_runtime(name: str, network: nn.Module, input_shape: Sequence[int], threads: int) -> Runtime:
    """Return a network as a runtime that is named runs it.

    Args:
        name: a name in :data:`RUNTIMES`.
        network: plain network, not changed.
        input_shape: ``(C, *spatial)`` of one image.
        threads: CPU threads of one operation.

    Raises:
        ImportError: When the runtime is not installed; the message says what to install.
        ValueError: When there is no runtime of this name.
    """
    if name not in RUNTIMES:
        raise ValueError(f"runtime must be one of {', '.join(RUNTIMES)}, got {name!r}.")
    return RUNTIMES[name](network, input_shape, threads)


def runtime_maker(name: str, threads: int) -> Callable[[nn.Module, Sequence[int]], Runtime]:
    """Return what makes a named runtime with so many threads of a network and the shape of its input."""

    def make(network: nn.Module, input_shape: Sequence[int]) -> Runtime:
        return make_runtime(name, network, input_shape, threads)

    return make


def _torch(network: nn.Module, input_shape: Sequence[int], threads: int) -> Runtime:
    return PlainRuntime(network, threads)


def _onnxruntime(network: nn.Module, input_shape: Sequence[int], threads: int) -> Runtime:
    with tempfile.TemporaryDirectory() as folder:
        return OnnxRuntime(Path(folder, write_onnx(network, input_shape, folder)), threads)


def _openvino(network: nn.Module, input_shape: Sequence[int], threads: int) -> Runtime:
    return OpenVinoRuntime(convert_openvino(network, input_shape), threads)


def _openvino_int8(network: nn.Module, input_shape: Sequence[int], threads: int) -> Runtime:
    """Ranges of activations are those of noise: they change what comes out, not how long it takes."""
    noise = torch.randn(1, *input_shape, generator=torch.Generator().manual_seed(0))
    return OpenVinoRuntime(quantize_openvino(convert_openvino(network, input_shape), [noise]), threads, exact=False)


RUNTIMES: Mapping[str, MakeRuntime] = {
    "torch": _torch,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "openvino-int8": _openvino_int8,
}
