"""``torch.export``: write a network, run it with torch alone."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from prox_monai.evaluation.single_image import DEVICE, OneImage
from prox_monai.evaluation.threads import torch_threads
from prox_monai.export.fixed_size import at_fixed_size
from prox_monai.export.program_archive import check_program_archive

FILE = "model.pt2"
_SOURCE = ("stack_trace", "nn_module_stack", "torch_fn", "from_node")  # where a node comes from: paths of this machine


def write_torch(network: nn.Module, input_shape: Sequence[int], folder: str | Path) -> str:
    """Write a network as ``model.pt2``, an exported program for one image of one shape.

    Args:
        network: plain network, not changed.
        input_shape: ``(C, *spatial)``.
        folder: where to write.

    Returns:
        The file's name.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        program = torch.export.export(at_fixed_size(network, input_shape), (torch.zeros(1, *input_shape),))
        for node in program.graph.nodes:
            for about in _SOURCE:
                node.meta.pop(about, None)
        torch.export.save(program, Path(folder, FILE))
    return FILE


class TorchRuntime:
    """An exported program in this process' torch, with oneDNN's convolutions (:class:`OneImage`).

    Args:
        path: the program.
        threads: CPU threads of a pass; torch's if not given.

    Raises:
        ValueError: When the file is no exported program, or holds what torch would unpickle.
    """

    name = "torch"
    device = DEVICE
    version = torch.__version__

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        check_program_archive(path)
        self._threads = threads
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._program = torch.export.load(Path(path)).module()
        except Exception as error:  # whatever unpacking meets
            raise ValueError(f"{path} is not a program of torch.export: {error}") from error

    def __call__(self, x: Tensor) -> Tensor:
        """Map one patch ``(1, C, *spatial)`` to its logits."""
        with torch_threads(self._threads), torch.inference_mode(), OneImage():
            return self._program(x)
