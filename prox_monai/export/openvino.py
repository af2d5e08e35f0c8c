"""OpenVINO IR: write a network, run it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from prox_monai.export.absent import named_extra
from prox_monai.export.fixed_size import at_fixed_size

if TYPE_CHECKING:
    import openvino

FILE = "model.xml"
WEIGHTS = "model.bin"


def convert_openvino(network: nn.Module, input_shape: Sequence[int]) -> openvino.Model:
    """Return a network as OpenVINO's model of one image of one shape.

    Args:
        network: plain network, not changed.
        input_shape: ``(C, *spatial)``.

    Raises:
        ImportError: When ``openvino`` is not installed.
    """
    with named_extra("openvino"):
        import openvino

    x = torch.zeros(1, *input_shape)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of tracing: the shape is fixed, as it is meant
        fixed = at_fixed_size(network, input_shape)
        traced = torch.jit.trace(fixed, x, check_trace=False, strict=False)  # a check would trace once more
        model = openvino.convert_model(traced, example_input=x, input=list(x.shape))
    for port, name in ((model.inputs[0], "image"), (model.outputs[0], "logits")):  # as in ONNX
        port.get_tensor().set_names({name})
    return model


def save_openvino(model: openvino.Model, folder: str | Path, *, compressed: bool) -> tuple[str, str]:
    """Write a model as ``model.xml`` and ``model.bin``.

    Args:
        model: OpenVINO's model.
        folder: where to write.
        compressed: keep weights in 16 bits.

    Returns:
        The names of both files.
    """
    import openvino

    openvino.save_model(model, Path(folder, FILE), compress_to_fp16=compressed)
    return FILE, WEIGHTS


@cache
def _core() -> openvino.Core:
    """One for the process, never destroyed: see :mod:`prox_monai.export.signal_stack`."""
    import openvino

    return openvino.Core()


class OpenVinoRuntime:
    """OpenVINO on the CPU, tuned for latency.

    Args:
        path: the model's ``.xml``, or a model.
        threads: CPU threads; the runtime's choice if not given.
        exact: compute in 32 bits. Else what is not int8 is computed as the processor does best: in bfloat16 where it
            has that.

    Raises:
        ImportError: When ``openvino`` is not installed.
        ValueError: When the file is no OpenVINO model.
    """

    name = "openvino"

    def __init__(self, path: str | Path | openvino.Model, threads: int | None = None, *, exact: bool = True) -> None:
        with named_extra("runtime openvino"):
            import openvino  # noqa: F401  says what to install

        options: dict[str, str | int] = {"PERFORMANCE_HINT": "LATENCY"}
        options |= {"INFERENCE_NUM_THREADS": threads} if threads else {}
        options |= {"INFERENCE_PRECISION_HINT": "f32"} if exact else {}
        source = str(path) if isinstance(path, str | Path) else path
        try:
            self._adopt(_core().compile_model(source, "CPU", options))
        except RuntimeError as error:
            raise ValueError(f"{path} is not a model that OpenVINO can run: {error}") from error

    @classmethod
    def of(cls, compiled: openvino.CompiledModel) -> OpenVinoRuntime:
        """Return the runtime of a model that was compiled elsewhere."""
        runtime = cls.__new__(cls)
        runtime._adopt(compiled)
        return runtime

    def _adopt(self, compiled: openvino.CompiledModel) -> None:
        import openvino

        arithmetic = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.device = f"cpu ({arithmetic})"
        self.version = openvino.__version__.partition("-")[0]
        self._request = compiled.create_infer_request()

    def __call__(self, x: Tensor) -> Tensor:
        """Map one patch ``(1, C, *spatial)`` to its logits."""
        outputs = self._request.infer({0: x.contiguous().numpy()}, share_inputs=True)
        return torch.from_numpy(outputs[0])  # a copy: outputs are not shared
