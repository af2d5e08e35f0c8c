"""Signals after OpenVINO and NNCF: in a process of its own, which a failure ends with a segmentation fault."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import faulthandler, os, signal
import torch
from torch import nn
from prox_monai.export.openvino import OpenVinoRuntime, convert_openvino
from prox_monai.export.quantize import quantize_within

faulthandler.enable()
signal.signal(signal.SIGUSR1, lambda number, frame: print("handled", flush=True))
network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval().requires_grad_(False)
model = convert_openvino(network, (1, 8, 8))
runtimes = [OpenVinoRuntime(model, 1) for _ in range(3)]
while runtimes:
    runtimes.pop(0)  # the oldest first
os.kill(os.getpid(), signal.SIGUSR1)
patches = [torch.randn(1, 1, 8, 8) for _ in range(2)]


def score(runtime, cases):
    values = [-float((runtime(patches[case]) - network(patches[case])).abs().max()) for case in cases]
    return min(values), values


quantize_within(model, patches, [0, 1], score, 1e-6)
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="OpenVINO changes the signal stack on Linux only")
def test_signals_are_handled_after_cores_came_and_went():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["handled", "handled"]
