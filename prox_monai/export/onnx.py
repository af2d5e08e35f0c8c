"""ONNX: write a network, run it with ONNX Runtime."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from prox_monai.export.absent import named_extra
from prox_monai.export.fixed_size import at_fixed_size

FILE = "model.onnx"


def write_onnx(network: nn.Module, input_shape: Sequence[int], folder: str | Path, *, precision: str = "fp32") -> str:
    """Write a network as ``model.onnx``, weights included, for one image of one shape.

    Args:
        network: plain network, not changed.
        input_shape: ``(C, *spatial)``.
        folder: where to write.
        precision: ``fp32``, or ``fp16``: weights and arithmetic in 16 bits, input and output in 32.

    Returns:
        The file's name.

    Raises:
        ImportError: When ``onnx``, ``onnxscript`` or, of ``fp16``, ``onnxruntime`` is not installed.
        ValueError: When the precision is another.
    """
    if precision not in ("fp32", "fp16"):
        raise ValueError(f"precision of onnx must be fp32 or fp16, got {precision!r}.")
    with named_extra("onnx"):
        import onnx
        import onnxscript  # noqa: F401  the exporter writes through it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        program = torch.onnx.export(
            at_fixed_size(network, input_shape),
            (torch.zeros(1, *input_shape),),
            dynamo=True,
            verbose=False,
            input_names=["image"],
            output_names=["logits"],
        )
    model = program.model_proto
    if precision == "fp16":
        with named_extra("fp16 of onnx"):
            from onnxruntime.transformers.float16 import convert_float_to_float16

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # weights too small for 16 bits become zero, as they must
            model = convert_float_to_float16(model, keep_io_types=True)
    onnx.save(model, Path(folder, FILE))
    return FILE


class OnnxRuntime:
    """ONNX Runtime on the CPU.

    Args:
        path: the model.
        threads: CPU threads of one operation; the runtime's choice if not given.

    Raises:
        ImportError: When ``onnxruntime`` is not installed.
        ValueError: When the file is no ONNX model.
    """

    name = "onnxruntime"
    device = "cpu"

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        with named_extra("runtime onnxruntime"):
            import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3  # errors
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no class of their own
            raise ValueError(f"{path} is not a model that ONNX Runtime can run: {error}") from error
        self._input = self._session.get_inputs()[0].name
        self.version = onnxruntime.__version__

    def __call__(self, x: Tensor) -> Tensor:
        """Map one patch ``(1, C, *spatial)`` to its logits."""
        return torch.from_numpy(self._session.run(None, {self._input: x.contiguous().numpy()})[0])
