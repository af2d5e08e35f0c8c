"""Kernels lie channels last while they are trained, where that is faster, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from prox_monai.elastic import Supernet
from prox_monai.elastic.memory_format import trained_fast
from prox_monai.networks import UNetArchitecture
from prox_monai.space import SearchSpace
from prox_monai.space.groups import unet_groups

LAST = torch.channels_last_3d
ARCHITECTURE = UNetArchitecture(3, 1, 2, channels=(8, 16), strides=((1, 1, 1), (2, 2, 2)))
SPACE = SearchSpace(3, (1, 2), (0.5, 1.0), (3, 5), groups=unet_groups(2))


@pytest.fixture(params=["AVX2", "AVX512"])
def capability(request, monkeypatch) -> str:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: request.param)
    return request.param


def test_only_kernels_of_three_axes_are_laid_out(capability):
    shapes = {"kernel": (4, 3, 3, 3, 3), "depthwise": (4, 1, 3, 3, 3), "plane": (4, 3, 3, 3), "bias": (4,)}
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    tensors["double"] = torch.randn(4, 3, 3, 3, 3, dtype=torch.float64)
    laid_out = trained_fast(tensors)
    assert all(torch.equal(laid_out[name], tensor) for name, tensor in tensors.items())
    changed = {name for name, tensor in tensors.items() if laid_out[name] is not tensor}
    assert changed == ({"kernel"} if capability == "AVX2" else set())
    assert laid_out["kernel"].is_contiguous(memory_format=LAST) is (capability == "AVX2")


def test_a_supernet_lays_them_out_while_it_is_trained(capability):
    network, seen = Supernet(ARCHITECTURE, SPACE), []
    handle = register_module_forward_pre_hook(
        lambda module, inputs: seen.append(module.weight) if isinstance(module, torch.nn.Conv3d) else None
    )
    try:
        for training, gradients in ((True, True), (True, False), (False, True), (False, False)):
            seen.clear()
            with torch.set_grad_enabled(gradients):
                network.train(training)(torch.randn(1, 1, 16, 16, 16))
            kernels = [weight for weight in seen if weight.shape[1] > 1 and weight.shape[2] > 1]
            assert kernels
            wanted = capability == "AVX2" and training and gradients
            assert {weight.is_contiguous(memory_format=LAST) for weight in kernels} == {wanted}
    finally:
        handle.remove()


def test_a_step_is_the_same_but_for_rounding(monkeypatch):
    torch.manual_seed(0)
    network = Supernet(ARCHITECTURE, SPACE)
    x, steps = torch.randn(2, 1, 16, 16, 16), {}
    for capability in ("AVX2", "AVX512"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda found=capability: found)
        network.zero_grad()
        loss = network.train()(x).square().mean()
        loss.backward()
        gradients = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
        assert all(gradient.is_contiguous() for gradient in gradients.values())
        with torch.no_grad():
            steps[capability] = loss.detach(), gradients, network.eval()(x)
    torch.testing.assert_close(steps["AVX2"][:2], steps["AVX512"][:2], atol=1e-5, rtol=1e-4)
    assert torch.equal(steps["AVX2"][2], steps["AVX512"][2])  # evaluated as it is extracted
    with torch.no_grad():
        assert torch.equal(network.extract(network.active).eval()(x), steps["AVX2"][2])
