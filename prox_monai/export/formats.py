"""The formats with the precisions that each is written in, and the runtimes, by name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

FORMATS: Mapping[str, tuple[str, ...]] = {
    "onnx": ("fp32", "fp16"),
    "openvino": ("fp32", "fp16", "int8"),
    "torch": ("fp32",),
    "bundle": ("fp32",),
}
PRECISIONS = ("fp32", "fp16", "int8")
RUNTIMES_IN_32_BITS = ("torch", "onnxruntime", "openvino")
RUNTIMES = (*RUNTIMES_IN_32_BITS, "openvino-int8")
MAX_DICE_DROP = 0.005
"""By how much the mean Dice of what is written may be below the plain subnet's, unless told otherwise."""

_PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "torch": (),
    "bundle": ("monai", "ignite", "fire"),
}
_TIMED = {
    ("onnx", "fp32"): "onnxruntime",
    ("openvino", "fp32"): "openvino",
    ("openvino", "int8"): "openvino-int8",
    ("torch", "fp32"): "torch",
}


def check_precision(format: str, precision: str) -> None:
    """Check that a format can be written in a precision.

    Raises:
        ValueError: When it cannot; the message says what can.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}.")
    if precision not in FORMATS[format]:
        raise ValueError(f"precision of {format} must be one of {', '.join(FORMATS[format])}, got {precision!r}.")


def check_installed(format: str, precision: str) -> None:
    """Check that what writes and runs a format in a precision is installed, before long work.

    Raises:
        ImportError: When a package is not; the message says what to install.
    """
    packages = _PACKAGES[format] + ("nncf",) * (precision == "int8")
    missing = next((name for name in packages if find_spec(name) is None), None)
    if missing is not None:
        extra = "monai" if format == "bundle" else "export"
        raise ImportError(
            f'{format} in {precision} needs an extra (no module named {missing!r}): pip install "prox-monai[{extra}]"'
        )


def form_of(runtime: str) -> tuple[str, str]:
    """Return the format and the precision that run in a runtime as it was timed.

    Raises:
        ValueError: When there is no such runtime.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime must be one of {', '.join(RUNTIMES)}, got {runtime!r}.")
    return next(form for form, name in _TIMED.items() if name == runtime)


def timed_runtime(format: str, precision: str) -> str | None:
    """Return the runtime whose latencies are those of a format in a precision; None where none measures that."""
    return _TIMED.get((format, precision))
