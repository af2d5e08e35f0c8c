"""What a plain network costs: parameters, multiply-adds, latency and peak memory.

Input shapes are ``(C, *spatial)`` of one image: every figure is for batch 1. No function changes the network,
its device or its mode.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from prox_monai.evaluation.single_image import OneImage

_INSTRUCTIONS = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512f", "avx2", "asimddp", "asimd")


@dataclass(frozen=True, slots=True)
class Latency:
    """Time of one forward pass of one image.

    Args:
        median_ms: median over the repeats, in milliseconds.
        q1_ms: first quartile, in milliseconds.
        q3_ms: third quartile, in milliseconds.
        device: name of the processor or the GPU.
        threads: CPU threads that torch used within an operation.
        torch_version: version of torch.
    """

    median_ms: float
    q1_ms: float
    q3_ms: float
    device: str
    threads: int
    torch_version: str


def parameters(network: nn.Module) -> int:
    """Count the parameters; one that is registered twice counts once."""
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_adds(network: nn.Module, input_shape: Sequence[int]) -> int:
    """Count the multiply-adds of one forward pass, without computing or allocating anything.

    Convolutions, transposed convolutions and linear layers count; biases, norms, activations and resizing do
    not. One multiply-add counts as one; torch's counter, which is used, counts two.

    Args:
        network: plain network on any device, the meta device included.
        input_shape: ``(C, *spatial)``.
    """
    skeleton = _copy(network, lambda tensor: torch.empty_like(tensor, device="meta"))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        skeleton(torch.empty(1, *input_shape, device="meta"))
    return counter.get_total_flops() // 2


def latency(
    network: nn.Module,
    input_shape: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    repeats: int = 20,
    warmup: int = 5,
) -> Latency:
    """Time the forward pass of one image in evaluation mode.

    Args:
        network: plain network; a copy of it is moved to ``device``.
        input_shape: ``(C, *spatial)``.
        device: where to run, a CPU or CUDA device.
        repeats: passes that are timed, each on its own and synchronised.
        warmup: passes before them.

    Raises:
        ValueError: When ``repeats`` is below 2 or ``device`` is neither.
    """
    if repeats < 2:
        raise ValueError(f"repeats must be at least 2 for quartiles, got {repeats}.")
    device = _device(device)
    plain = copy.deepcopy(network).to(device).eval()
    x = torch.rand(1, *input_shape, device=device)
    with torch.inference_mode(), OneImage.where_needed(device):
        for _ in range(warmup):
            plain(x)
        times = [_milliseconds(lambda: plain(x), device) for _ in range(repeats)]
    q1, median, q3 = statistics.quantiles(times, n=4, method="inclusive")
    return Latency(median, q1, q3, device_name(device), torch.get_num_threads(), torch.__version__)


def peak_memory_bytes(network: nn.Module, input_shape: Sequence[int], *, device: torch.device | str = "cpu") -> int:
    """Measure the peak memory of one forward pass: weights, activations, the runtime's workspace.

    On CUDA it is what torch's allocator held at most. On a CPU it is the growth of a fresh process' resident
    set; the process is spawned, so a script that calls this needs the usual ``__main__`` guard.

    Args:
        network: plain network; on a CPU its classes must be importable, its values play no part.
        input_shape: ``(C, *spatial)``.
        device: where to run, a CPU or CUDA device.

    Raises:
        ValueError: When ``device`` is neither.
    """
    device = _device(device)
    if device.type == "cuda":
        return _peak_allocated(network, input_shape, device)
    skeleton = _copy(network, lambda tensor: torch.empty_like(tensor, device="meta"))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        growth = executor.submit(_resident_growth, skeleton, tuple(input_shape), torch.get_num_threads())
        return growth.result()


def _peak_allocated(network: nn.Module, input_shape: Sequence[int], device: torch.device) -> int:
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    plain = _copy(network, lambda tensor: torch.empty_like(tensor, device=device))
    with torch.inference_mode():
        plain(torch.rand(1, *input_shape, device=device))
    return torch.cuda.max_memory_allocated(device) - before


def _resident_growth(skeleton: nn.Module, input_shape: Sequence[int], threads: int) -> int:
    torch.set_num_threads(threads)
    _load_kernels()
    before = _peak_resident_bytes()
    plain = _copy(skeleton, lambda tensor: torch.ones(tensor.shape, dtype=tensor.dtype))
    with torch.inference_mode(), OneImage():
        plain(torch.rand(1, *input_shape))
    return _peak_resident_bytes() - before


def _peak_resident_bytes() -> int:
    """Return the high-water mark of this process' resident set, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux ru_maxrss survives exec: a spawned process starts at its parent's mark
        fields = dict(line.split(":") for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(fields["VmHWM"].removesuffix("kB")) * 1024
    import resource  # not on Windows; in bytes on macOS

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _load_kernels() -> None:
    """Run small convolutions and a small linear layer: the code they load is no network's cost."""
    with torch.inference_mode(), OneImage():
        nn.Conv2d(16, 16, 3)(torch.ones(1, 16, 16, 16))
        nn.Conv3d(16, 16, 3)(torch.ones(1, 16, 8, 8, 8))
        nn.Linear(64, 64)(torch.ones(1, 64))


def _device(device: torch.device | str) -> torch.device:
    device = torch.device(device)
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be a cpu or cuda device, got {str(device)!r}.")
    return device


def _copy(network: nn.Module, make: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """Copy a network in evaluation mode with ``make(tensor)`` for each tensor; shared ones stay shared."""
    made = {id(p): nn.Parameter(make(p.detach()), p.requires_grad) for p in network.parameters()}
    made |= {id(buffer): make(buffer) for buffer in network.buffers()}
    return copy.deepcopy(network, made).eval()


def _milliseconds(run: Callable[[], object], device: torch.device) -> float:
    _synchronise(device)
    start = time.perf_counter()
    run()
    _synchronise(device)
    return (time.perf_counter() - start) * 1e3


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def instruction_set() -> str:
    """Return the widest instructions that runtimes may use, as far as the machine tells; processors share names.

    oneDNN, with which torch and OpenVINO compute, is held to ``ONEDNN_MAX_CPU_ISA`` where that is set.
    """
    if limit := os.environ.get("ONEDNN_MAX_CPU_ISA"):
        return f"at most {limit}"
    facts = _processor()
    flags = (facts.get("flags") or facts.get("Features", "")).split()
    return next((name for name in _INSTRUCTIONS if name in flags), "")


def device_name(device: torch.device | str) -> str:
    """Return the name of the processor or the GPU.

    A processor's ends with family and model where Linux tells them: in virtual machines, processors of which one is
    four times as fast as the other may both be called "AMD EPYC".

    Raises:
        ValueError: When ``device`` is neither.
    """
    device = _device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    facts = _processor()
    name = facts.get("model name") or platform.processor() or platform.machine()
    if "cpu family" not in facts or "model" not in facts:
        return name
    return f"{name} (family {facts['cpu family']}, model {facts['model']})"


def _processor() -> dict[str, str]:
    """What Linux says about the first processor; nothing on other systems."""
    cpuinfo = Path("/proc/cpuinfo")
    first = cpuinfo.read_text().partition("\n\n")[0] if cpuinfo.exists() else ""
    return {name.strip(): fact.strip() for name, _, fact in (line.partition(":") for line in first.splitlines())}
