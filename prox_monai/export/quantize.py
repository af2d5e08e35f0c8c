"""int8 through NNCF: after training, with accuracy control, or by training with quantisation in place."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from prox_monai.export.absent import named_extra
from prox_monai.export.fixed_size import at_fixed_size
from prox_monai.export.openvino import OpenVinoRuntime
from prox_monai.export.runtime import Runtime
from prox_monai.export.signal_stack import kept_signal_stack

if TYPE_CHECKING:
    import openvino


class Patches(Protocol):
    """Inputs ``(1, C, *spatial)`` that can be gone through more than once: a list, or what reads them anew."""

    def __iter__(self) -> Iterator[Tensor]: ...

    def __len__(self) -> int: ...


def quantize_openvino(model: openvino.Model, patches: Patches) -> openvino.Model:
    """Quantise weights and activations of convolutions to 8 bits, after training.

    Args:
        model: OpenVINO's model in 32 bits.
        patches: inputs ``(1, C, *spatial)`` from which ranges of activations are taken.

    Raises:
        ImportError: When ``nncf`` is not installed.
        ValueError: When there is no patch.
    """
    with _nncf(patches) as nncf:
        return nncf.quantize(model, _dataset(nncf, patches), subset_size=len(patches), **_options(nncf))


def quantize_within(
    model: openvino.Model,
    patches: Patches,
    cases: Sequence[Any],
    score: Callable[[Runtime, list[Any]], tuple[float, list[float]]],
    max_drop: float,
) -> openvino.Model:
    """Quantise after training, and leave in floating point what costs the most until the score drops little enough.

    Args:
        model: OpenVINO's model in 32 bits.
        patches: inputs ``(1, C, *spatial)`` from which ranges of activations are taken.
        cases: what is scored.
        score: of a quantised network on some of the cases: the mean, and the value of each; more is better.
        max_drop: by how much the score may be lower, absolute.

    Raises:
        ImportError: When ``nncf`` is not installed.
        ValueError: When there is no patch.
    """

    def validate(candidate: Any, items: Iterable[Any]) -> tuple[float, list[float]]:
        return score(OpenVinoRuntime.of(candidate), list(items))

    with _nncf(patches) as nncf:
        return nncf.quantize_with_accuracy_control(
            model,
            calibration_dataset=_dataset(nncf, patches),
            validation_dataset=nncf.Dataset(list(cases)),
            validation_fn=validate,
            max_drop=max_drop,
            drop_type=nncf.DropType.ABSOLUTE,
            subset_size=len(patches),
            advanced_quantization_parameters=_without_overflow(nncf),
            ignored_scope=_resizing(nncf),
        )


def quantize_trainable(network: nn.Module, patches: Patches) -> nn.Module:
    """Return a copy of a network that computes as if in 8 bits and can be trained on (quantisation-aware training).

    Train it in :func:`uncompiled`. At its first step NNCF compiles an extension in C++, where there is a compiler.

    Args:
        network: plain network.
        patches: inputs ``(1, C, *spatial)`` from which ranges of activations are taken.

    Raises:
        ImportError: When ``nncf`` is not installed.
        ValueError: When there is no patch.
    """
    os.environ.setdefault("NNCF_EXTENSION_LOAD_TIMEOUT", "600")  # seconds; a small processor compiles longer than 60
    shape = next(iter(patches)).shape[1:] if patches else ()
    with _nncf(patches) as nncf, uncompiled():
        return nncf.quantize(
            at_fixed_size(network, shape),
            nncf.Dataset(patches),
            subset_size=len(patches),
            **_options(nncf),
        )


def uncompiled() -> AbstractContextManager:
    """Return a context without ``torch.compile``: NNCF compiles its small functions for every shape, a second each."""
    return torch.compiler.set_stance("force_eager")


def _options(nncf: Any) -> dict[str, Any]:
    """Options of a quantisation that is made once, without accuracy control."""
    return {"advanced_parameters": _without_overflow(nncf), "ignored_scope": _resizing(nncf)}


def _without_overflow(nncf: Any) -> Any:
    """Weights of seven bits: processors without VNNI add products of eight in 16 bits, where they overflow.

    A file goes to other devices than the one that wrote it; there labels would be wrong, without an error.
    """
    return nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE)


def _resizing(nncf: Any) -> Any:
    """The layers that stay in floating point: those that resize, if there are any; 8 bits would blur the image."""
    return nncf.IgnoredScope(patterns=[".*resize.*"], validate=False)


def _dataset(nncf: Any, patches: Patches) -> Any:
    return nncf.Dataset(patches, lambda patch: patch.contiguous().numpy())


@contextmanager
def _nncf(patches: Patches) -> Iterator[Any]:
    """NNCF without its progress bars and notes."""
    if not patches:
        raise ValueError("int8 needs patches of training cases to take ranges of activations from; there is none.")
    with named_extra("int8"):
        import nncf
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()), kept_signal_stack():
            yield nncf
    finally:
        logger.setLevel(level)
