"""Invariant 11: recalibrated statistics are population mean and variance, whatever the batch split."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn

from prox_monai.elastic import Supernet
from prox_monai.evaluation.batch_norm import recalibrate
from prox_monai.networks import MobileNetArchitecture, UNetArchitecture
from prox_monai.space import SearchSpace, SubnetConfig
from prox_monai.space.groups import unet_groups

SPLITS = ([12], [1] * 12, [4, 4, 4], [7, 1, 4], [0, 11, 1])


def unet(dims: int) -> nn.Module:
    """A float64 subnet with BatchNorm, whose statistics are anything."""
    architecture = UNetArchitecture(dims, 1, 2, (2, 4), ((1,) * dims, (2,) * dims), norm="batch")
    space = SearchSpace(3, (1, 2), (0.5, 1.0), (3,), groups=unet_groups(2))
    network = Supernet(architecture, space).extract(space.largest()).double()
    for layer in norms(network):
        for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
            nn.init.uniform_(tensor, 0.5, 2)
    return network


def norms(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if hasattr(module, "running_mean")]


def images(dims: int, count: int = 12) -> torch.Tensor:
    return torch.randn(count, 1, *(8,) * dims, dtype=torch.float64) * 3 + 5


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_statistics_are_those_of_the_population(dims, split):
    network, x = unet(dims), images(dims)
    recalibrate(network.eval(), x.split(split))
    inputs = {}
    for layer in norms(network):
        layer.register_forward_pre_hook(lambda module, args: inputs.update({module: args[0]}))
    with torch.no_grad():
        network(x)
    assert len(inputs) == 6
    for layer, values in inputs.items():
        flat = values.transpose(0, 1).flatten(1)
        torch.testing.assert_close(layer.running_mean, flat.mean(1), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(layer.running_var, ((flat.T - flat.mean(1)) ** 2).mean(0), rtol=1e-10, atol=1e-12)
        assert layer.num_batches_tracked == len([size for size in split if size])


def test_evaluation_gives_what_training_gives_on_all_images_at_once():
    network, x = unet(2), images(2)
    at_once = copy.deepcopy(network).train()(x)
    recalibrate(network.eval(), x.split(5))
    torch.testing.assert_close(network(x), at_once, rtol=1e-10, atol=1e-10)


def classifier() -> nn.Module:
    """A float32 network with dropout, in training mode, whose statistics are anything."""
    architecture = MobileNetArchitecture(2, 1, 3, channels=(8, 16), strides=(2, 1), stem=8, first=8, head=16)
    network = architecture.build(SubnetConfig.uniform(2, 2, 3, 3))
    for layer in norms(network):
        for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
            nn.init.uniform_(tensor, 0.5, 2)
    return network.train()


def test_one_batch_gives_what_several_give_in_one_pass():
    at_once, x = classifier(), torch.randn(12, 1, 16, 16) * 3 + 5
    layer_by_layer, passes = copy.deepcopy(at_once), []
    at_once.stem.register_forward_pre_hook(lambda *_: passes.append(1))
    recalibrate(at_once, [x.new_empty(0, 1, 16, 16), x])
    recalibrate(layer_by_layer, x.split(5))
    assert len(passes) == 1
    assert at_once.training
    assert len(norms(at_once)) > 10
    for ours, theirs in zip(norms(at_once), norms(layer_by_layer), strict=True):
        torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=1e-5, atol=1e-5)
        assert (ours.num_batches_tracked, theirs.num_batches_tracked) == (1, 3)
    assert not any(module._forward_pre_hooks for module in norms(at_once))


def test_a_layer_that_runs_twice_takes_its_first_run():
    class Twice(nn.Sequential):
        def forward(self, x):
            return self[0](self[0](x) + 5)

    x = torch.randn(6, 1, 4, 4, dtype=torch.float64) + 3
    for split in (6, 2):
        network = Twice(nn.BatchNorm2d(1)).double()
        recalibrate(network, x.split(split))
        torch.testing.assert_close(network[0].running_mean, x.mean().view(1), rtol=1e-10, atol=0)


def test_images_may_differ_in_size():
    layer = nn.BatchNorm2d(1)
    recalibrate(layer, [torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 6), 4.0)])
    assert layer.running_mean == 3
    assert layer.running_var == 3


def test_a_large_mean_does_not_drown_a_small_variance():
    layer = nn.BatchNorm2d(1)
    x = torch.tensor([-1.0, 1.0]).repeat(32).view(4, 1, 4, 4) / 8 + 8192
    recalibrate(layer, x.split([3, 1]))
    assert layer.running_mean == 8192
    assert layer.running_var == 1 / 64


def test_nothing_else_changes():
    network = unet(2).train()
    network.encoder[0].eval()
    modes = [module.training for module in network.modules()]
    momenta = [layer.momentum for layer in norms(network)]
    parameters = [parameter.detach().clone() for parameter in network.parameters()]
    buffers = [id(buffer) for buffer in network.buffers()]
    recalibrate(network, images(2).split(6))
    assert [module.training for module in network.modules()] == modes
    assert [layer.momentum for layer in norms(network)] == momenta
    assert all(map(torch.equal, network.parameters(), parameters))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert [id(buffer) for buffer in network.buffers()] == buffers
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_dropout_does_not_disturb():
    network = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(1)).train()
    recalibrate(network, [torch.ones(4, 1, 4, 4)])
    assert network[1].running_mean == 1
    assert network[1].running_var == 0


def test_layers_that_keep_no_statistics_or_do_not_run_stay_as_they_are():
    class Idle(nn.Sequential):
        def forward(self, x):
            return self[0](x)

    network = Idle(nn.BatchNorm2d(1, track_running_stats=False), nn.BatchNorm2d(1))
    recalibrate(network, [torch.full((2, 1, 4, 4), 7.0)])
    assert network[0].running_mean is None
    assert network[1].running_mean == 0
    assert network[1].num_batches_tracked == 0


def test_a_network_without_batch_norm_is_not_run():
    class Unused(nn.Module):
        def forward(self, x):
            raise AssertionError("ran")

    recalibrate(Unused(), [torch.ones(1, 1, 2, 2)])


@pytest.mark.parametrize("batches", [1, 2])
def test_modes_and_hooks_are_restored_when_a_pass_fails(batches):
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)).train()
    with pytest.raises(RuntimeError, match="channels"):
        recalibrate(network, [torch.ones(1, 2, 4, 4)] * batches)
    assert network[1].training
    assert not network[1]._forward_pre_hooks


@pytest.mark.parametrize("batches", [[], [torch.empty(0, 1, 8, 8)]])
def test_no_images(batches):
    with pytest.raises(ValueError, match="batches must hold at least one image, got none."):
        recalibrate(nn.BatchNorm2d(1), batches)


def test_images_that_can_be_read_only_once():
    message = "batches must be a sequence that can be read once per layer, got generator."
    with pytest.raises(ValueError, match=re.escape(message)):
        recalibrate(nn.BatchNorm2d(1), (torch.ones(1, 1, 2, 2) for _ in range(2)))
