"""A short training of an extracted subnet."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from prox_monai.integrations.nnunet import finetune as module
from prox_monai.integrations.nnunet.finetune import finetune
from prox_monai.training.distillation import Distillation, output_distance


@pytest.fixture
def network(varied):
    return varied.supernet.extract(varied.space.smallest()).eval()


def test_it_learns_from_the_largest(varied, network, monkeypatch):
    """With the teacher's term alone, the outputs come nearer to the largest subnet's."""
    monkeypatch.setattr(module, "LEARNING_RATE", 0.02)
    teacher = varied.supernet.extract(varied.space.largest())
    trained = finetune(varied, network, 8, Distillation(weight=1.0))
    x = torch.randn(2, *varied.input_shape)
    with torch.no_grad():
        before, after = (float(output_distance(n(x), teacher(x), "mse")) for n in (network, trained))
    assert after < 0.9 * before


def test_nothing_else_changes(varied, network, folders):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    shared = {name: tensor.clone() for name, tensor in varied.supernet.state_dict().items()}
    environment, files = dict(os.environ), set(Path(folders.results).rglob("*"))
    trained = finetune(varied, network, 2, Distillation(weight=0.5))
    assert not trained.training
    assert any(not torch.equal(before[name], tensor) for name, tensor in trained.state_dict().items())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(torch.equal(shared[name], tensor) for name, tensor in varied.supernet.state_dict().items())
    assert dict(os.environ) == environment
    assert set(Path(folders.results).rglob("*")) == files


def test_it_is_repeatable(varied, network):
    first, second = (finetune(varied, network, 2, Distillation(weight=0.5)).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())


def test_a_loss_that_is_not_finite_is_named(varied, network):
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="the loss is not finite in step 0 of fine-tuning"):
        finetune(varied, network, 2, Distillation(weight=0.5))
