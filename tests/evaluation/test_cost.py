from __future__ import annotations

import time
import warnings

import pytest
import torch
from torch import nn

from prox_monai.evaluation import cost
from prox_monai.networks import UNetArchitecture
from prox_monai.space import SubnetConfig

PLANAR = UNetArchitecture(2, 1, 3, (8, 12, 16), ((1, 1), (2, 2), (2, 2)))
VOLUME = UNetArchitecture(3, 2, 4, (8, 12), ((1, 1, 1), (1, 2, 2)), planned_kernels=((1, 3, 3), (3, 3, 3)))


def meta(architecture, *, depth=1, width=1.0, kernel=3):
    with torch.device("meta"):
        return architecture.build(SubnetConfig.uniform(architecture.sections, depth, width, kernel))


def test_closed_form_in_2d():
    """Width 0.5: 4, 6 and 8 channels; depth 2; 16 x 12 pixels, then 8 x 6, then 4 x 3."""
    network = meta(PLANAR, depth=2, width=0.5, kernel=5)
    convolutions = [  # voxels of the output, inputs, outputs
        (192, 1, 4), (192, 4, 4), (48, 4, 6), (48, 6, 6), (12, 6, 8), (12, 8, 8),
        (48, 12, 6), (48, 6, 6), (192, 8, 4), (192, 4, 4),
    ]  # fmt: skip
    upsamplings = [(12, 8, 6), (48, 6, 4)]  # voxels of the input: each makes 2 x 2
    expected = sum(25 * n * i * o for n, i, o in convolutions) + sum(4 * n * i * o for n, i, o in upsamplings)
    assert cost.multiply_adds(network, (1, 16, 12)) == expected + 192 * 4 * 3  # one head runs
    blocks = sum(25 * i * o + 3 * o for _, i, o in convolutions)
    up, heads = sum(4 * i * o + o for _, i, o in upsamplings), (6 + 1) * 3 + (4 + 1) * 3  # both are there
    assert cost.parameters(network) == blocks + up + heads


def test_closed_form_in_3d_with_flat_kernels():
    """8 and 12 channels; depth 1; 2 x 4 x 6 voxels, then 2 x 2 x 3; the first level's kernel is 1 x 5 x 5."""
    network = meta(VOLUME, kernel=5)
    level_0, level_1 = 48 * 25 * (2 * 8 + 16 * 8), 12 * 125 * (8 * 12)
    upsampling, head = 12 * 4 * (12 * 8), 48 * 8 * 4
    assert cost.multiply_adds(network, (2, 2, 4, 6)) == level_0 + level_1 + upsampling + head
    weights = 25 * (2 * 8 + 16 * 8) + 2 * 3 * 8 + 125 * 8 * 12 + 3 * 12 + 4 * 12 * 8 + 8 + (8 + 1) * 4
    assert cost.parameters(network) == weights


def test_linear_layers_count_and_shared_parameters_count_once():
    layer = nn.Linear(5, 5)
    network = nn.Sequential(layer, nn.ReLU(), layer)
    assert cost.multiply_adds(network, (5,)) == 2 * 25
    assert cost.parameters(network) == 30


@pytest.mark.parametrize(("architecture", "shape"), [(PLANAR, (1, 16, 12)), (VOLUME, (2, 2, 4, 6))])
def test_agrees_with_fvcore(architecture, shape):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # fvcore uses torch.jit.script on import
        fvcore = pytest.importorskip("fvcore.nn")
        network = architecture.build(SubnetConfig.uniform(architecture.sections, 2, 0.5, 5)).eval()
        analysis = fvcore.FlopCountAnalysis(network, torch.rand(1, *shape)).unsupported_ops_warnings(False)
        assert cost.multiply_adds(network, shape) == analysis.by_operator()["conv"]


@pytest.mark.parametrize(("architecture", "shape"), [(PLANAR, (1, 16, 16)), (VOLUME, (2, 4, 8, 8))])
def test_monotone_in_every_dimension(architecture, shape):
    """Invariant 12; a smaller resolution is a smaller input."""
    smallest = {"depth": 1, "width": 0.25, "kernel": 3}
    for dimension, values in {"depth": (1, 2, 3), "width": (0.25, 0.5, 1.0), "kernel": (3, 5, 7)}.items():
        networks = [meta(architecture, **smallest | {dimension: value}) for value in values]
        macs = [cost.multiply_adds(network, shape) for network in networks]
        assert macs[0] < macs[1] < macs[2], dimension
        counts = [cost.parameters(network) for network in networks]
        assert counts[0] < counts[1] < counts[2], dimension
    network = meta(architecture, **smallest)
    half = (shape[0], *(n // 2 for n in shape[1:]))
    assert cost.multiply_adds(network, half) * 2 ** len(shape[1:]) == cost.multiply_adds(network, shape)


def test_network_that_nnunet_plans_for_hippocampus():
    unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    with torch.device("meta"):
        planned = unet.PlainConvUNet(
            1, 4, (32, 64, 128, 256), nn.Conv3d, 3, (1, 2, 2, 2), 2, 3, 2,
            conv_bias=True, norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
        )  # fmt: skip
    ours = meta(UNetArchitecture(3, 1, 3, (32, 64, 128, 256), ((1, 1, 1), *((2, 2, 2),) * 3)), depth=2)
    assert cost.multiply_adds(planned, (1, 40, 56, 40)) / 1e9 == pytest.approx(19.14, abs=0.01)
    assert cost.multiply_adds(ours, (1, 40, 56, 40)) == cost.multiply_adds(planned, (1, 40, 56, 40))
    assert cost.parameters(ours) == cost.parameters(planned)


SEEN = []


class Probe(nn.Module):
    """Takes 5 ms, and notes the state it runs in."""

    def forward(self, x):
        time.sleep(0.005)
        SEEN.append((self.training, torch.is_inference_mode_enabled(), tuple(x.shape)))
        return x


def test_latency():
    SEEN.clear()
    result = cost.latency(Probe(), (3, 4, 5), repeats=4, warmup=3)
    assert SEEN == [(False, True, (1, 3, 4, 5))] * 7
    assert 5 <= result.q1_ms <= result.median_ms <= result.q3_ms
    assert result.device
    assert (result.threads, result.torch_version) == (torch.get_num_threads(), torch.__version__)


def test_latency_refuses():
    with pytest.raises(ValueError, match="repeats must be at least 2 for quartiles, got 1"):
        cost.latency(nn.Identity(), (1, 2, 2), repeats=1)
    for function in (cost.latency, cost.peak_memory_bytes):
        with pytest.raises(ValueError, match="device must be a cpu or cuda device, got 'meta'"):
            function(nn.Identity(), (1, 2, 2), device="meta")


def test_measuring_changes_nothing():
    architecture = UNetArchitecture(2, 1, 2, (2, 2), ((1, 1), (2, 2)), norm="batch")
    network = architecture.build(SubnetConfig.uniform(3, 1, 1.0, 3))
    network.encoder[0].eval()
    modes = [module.training for module in network.modules()]
    before = {name: (tensor, tensor.clone()) for name, tensor in network.state_dict(keep_vars=True).items()}
    cost.parameters(network)
    cost.multiply_adds(network, (1, 8, 8))
    assert cost.latency(network, (1, 8, 8), repeats=2, warmup=1).median_ms > 0
    assert 0 <= cost.peak_memory_bytes(network, (1, 8, 8)) < 2**23
    assert [module.training for module in network.modules()] == modes
    for name, tensor in network.state_dict(keep_vars=True).items():
        assert tensor is before[name][0]
        assert torch.equal(tensor, before[name][1]), name


@pytest.mark.parametrize(
    ("network", "shape"),
    [(nn.Linear(2048, 4096), (2048,)), (nn.Upsample(scale_factor=256), (1, 8, 16))],
    ids=["weights", "activations"],
)
def test_peak_memory_of_the_cpu(network, shape):
    """32 MiB, whatever this process held before: a spawned process must not start at its parent's mark."""
    held = torch.ones(2**26)
    del held
    assert cost.peak_memory_bytes(network, shape) == pytest.approx(2**25, abs=2**22)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_cuda():
    network, image = nn.Conv2d(1, 8, 1, bias=False), 4 * 256 * 256
    assert cost.latency(network, (1, 256, 256), device="cuda").device == torch.cuda.get_device_name()
    assert cost.peak_memory_bytes(network, (1, 256, 256), device="cuda") >= 9 * image
    assert network.weight.device.type == "cpu"


def test_the_instruction_set_is_that_of_the_machine_or_its_limit(monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    assert cost.instruction_set() in ("", *cost._INSTRUCTIONS)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2_VNNI")
    assert cost.instruction_set() == "at most AVX2_VNNI"


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: A\n\nmodel\t: 3\n", "A (family 26, model 2)"),
        ("processor\t: 0\nmodel name\t: A\n\nprocessor\t: 1\n", "A"),
    ],
)
def test_processors_that_share_a_name_are_told_apart_by_their_family(monkeypatch, cpuinfo, name):
    monkeypatch.setattr(cost.Path, "exists", lambda path: True)
    monkeypatch.setattr(cost.Path, "read_text", lambda path: cpuinfo)
    assert cost.device_name("cpu") == name
