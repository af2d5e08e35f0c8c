"""A skeleton is built without initialisation, and what is built beside it is not touched."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from prox_monai.elastic.skeleton import build_skeleton
from prox_monai.space import SubnetConfig


class Layer(nn.Linear):
    """A linear layer that counts its initialisations."""

    resets = 0

    def reset_parameters(self):
        self.resets += 1
        super().reset_parameters()


def torch_layer() -> type[Layer]:
    """A layer that passes for one of torch's own."""
    return type("TorchLayer", (Layer,), {"__module__": nn.Linear.__module__})


@dataclass(frozen=True)
class Building:
    """A rule that does no more than call a function."""

    make: object

    def build(self, config):
        return self.make()

    def concatenated(self, config):
        return {}


def build(make) -> nn.Module:
    return build_skeleton(Building(make), SubnetConfig.uniform(1, 1, 1, 3)).network


def test_it_holds_no_data(classifier_type, classifier_space):
    skeleton = build_skeleton(classifier_type(), classifier_space.largest())
    plain = classifier_type().build(classifier_space.largest())
    shapes = {name: extent.shape for name, extent in (skeleton.parameters | skeleton.buffers).items()}
    assert shapes == {name: tuple(tensor.shape) for name, tensor in plain.state_dict().items()}
    assert all(tensor.is_meta for tensor in skeleton.network.state_dict().values())


def test_torch_layers_are_not_initialised_and_can_be_later():
    layer = build(lambda: torch_layer()(2, 3))
    assert layer.resets == 0
    layer.reset_parameters()
    assert layer.resets == 1
    assert "reset_parameters" not in vars(layer)


def test_other_layers_reset_themselves():
    assert build(lambda: Layer(2, 3)).resets == 1


def test_a_failed_build_leaves_nothing_behind():
    layers = []

    def fail():
        layers.append(torch_layer()(2, 3))
        raise OSError("no network")

    with pytest.raises(OSError, match="no network"):
        build(fail)
    assert "reset_parameters" not in vars(layers[0])
    assert torch_layer()(2, 3).resets == 1


def test_layers_of_other_threads_are_initialised():
    others = []

    def meanwhile():
        thread = threading.Thread(target=lambda: others.append(torch_layer()(2, 3)))
        thread.start()
        thread.join()
        return torch_layer()(2, 3)

    build(meanwhile)
    assert others[0].resets == 1
    assert others[0].weight.device == torch.device("cpu")
