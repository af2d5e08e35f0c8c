"""Write a network in any format, and open what was written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from prox_monai.export.description import Description, read_description
from prox_monai.export.formats import check_precision
from prox_monai.export.onnx import FILE as ONNX
from prox_monai.export.onnx import OnnxRuntime, write_onnx
from prox_monai.export.openvino import FILE as OPENVINO
from prox_monai.export.openvino import WEIGHTS, OpenVinoRuntime, convert_openvino, save_openvino
from prox_monai.export.runtime import Runtime, RuntimeNetwork
from prox_monai.export.torch_export import FILE as TORCH
from prox_monai.export.torch_export import TorchRuntime, write_torch
from prox_monai.export.torchscript import TorchScriptRuntime

NETWORK_FILES = (ONNX, OPENVINO, WEIGHTS, TORCH)
"""The names that files of an exported network may have, whatever its format."""


def write_network(
    network: nn.Module, input_shape: Sequence[int], folder: str | Path, format: str, precision: str = "fp32"
) -> tuple[str, ...]:
    """Write a network that is not quantised.

    Args:
        network: plain network, not changed.
        input_shape: ``(C, *spatial)``.
        folder: where to write.
        format: ``onnx``, ``openvino`` or ``torch``; a bundle is more than its network.
        precision: ``fp32`` or ``fp16``.

    Returns:
        The names of the files, the one to open first.

    Raises:
        ImportError: When a package that the format needs is not installed.
        ValueError: When the format is unknown, or does not come in this precision.
    """
    check_precision(format, precision)
    if format == "onnx":
        return (write_onnx(network, input_shape, folder, precision=precision),)
    if format == "torch":
        return (write_torch(network, input_shape, folder),)
    if format == "openvino":
        return save_openvino(convert_openvino(network, input_shape), folder, compressed=precision == "fp16")
    raise ValueError(f"format of a network alone must be onnx, openvino or torch, got {format!r}.")


def open_runtime(path: str | Path, format: str, precision: str, threads: int | None = None) -> Runtime:
    """Open a model file with the runtime of its format.

    Raises:
        ImportError: When the runtime is not installed.
        ValueError: When the file is not of this format.
    """
    if format == "onnx":
        return OnnxRuntime(path, threads)
    if format == "torch":
        return TorchRuntime(path, threads)
    if format == "bundle":
        return TorchScriptRuntime(path, threads)
    return OpenVinoRuntime(path, threads, exact=precision == "fp32")


def load_exported(folder: str | Path, threads: int | None = None) -> tuple[Description, RuntimeNetwork]:
    """Open an exported network, and check that it is what its description says.

    Args:
        folder: a folder of ``prox-monai export``.
        threads: CPU threads; the runtime's choice if not given.

    Raises:
        FileNotFoundError: When the folder holds no exported network, or not all of it.
        ImportError: When the runtime is not installed.
        ValueError: When the description and the files do not match.
    """
    description = read_description(folder)
    runtime = open_runtime(Path(folder, description.model), description.format, description.precision, threads)
    network = RuntimeNetwork(runtime, description.input_shape).eval()
    expected = [1, description.outputs, *description.input_shape[1:]]
    try:
        shape = list(network(torch.zeros(1, *description.input_shape)).shape)
    except Exception as error:  # every runtime has its own
        raise ValueError(
            f"{Path(folder, description.model)} does not take what its description says, "
            f"{list(description.input_shape)}: {error}"
        ) from error
    if shape != expected:
        raise ValueError(f"{Path(folder, description.model)} gives {shape}, its description says {expected}.")
    return description, network
