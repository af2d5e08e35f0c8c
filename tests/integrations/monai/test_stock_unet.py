"""A plain U-Net of this package and nnU-Net's network class compute the same."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

pytest.importorskip("dynamic_network_architectures", reason='needs pip install "prox-monai[nnunet]"')
pytest.importorskip("monai", reason='needs pip install "prox-monai[monai]"')
pytest.importorskip("ignite", reason='needs pip install "prox-monai[monai]"')

from monai.bundle import ConfigParser

from prox_monai.elastic import Supernet
from prox_monai.integrations.monai.stock_unet import stock_definition, stock_state
from prox_monai.networks import UNetArchitecture
from prox_monai.space import SearchSpace, unet_groups

SPACE = SearchSpace(3, (1, 2), (0.5, 1), (3, 5), (1.0,), unet_groups(2))


def build(architecture: UNetArchitecture, name: str) -> tuple[nn.Module, nn.Module]:
    """An extracted subnet, and nnU-Net's network with its tensors."""
    supernet = Supernet(architecture, SPACE)
    for parameter in supernet.parameters():
        nn.init.normal_(parameter)
    config = SPACE.parse(name)
    ours = supernet.eval().extract(config)
    definition = json.loads(json.dumps(stock_definition(architecture, config)))
    parser = ConfigParser({"imports": ["$import torch"], "network_def": definition})
    stock = parser.get_parsed_content("network_def").eval()
    stock.load_state_dict(stock_state(ours))
    return ours, stock


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("name", ["smallest", "largest", "d2.1.2-w.5_1_.5-k5.3.5-r1"])
def test_the_same_output(dims, norm, name):
    architecture = UNetArchitecture(dims, 2, 3, (4, 8), ((1,) * dims, (2,) * dims), norm=norm)
    ours, stock = build(architecture, name)
    x = torch.randn(2, 2, *(8,) * dims)
    assert torch.equal(ours(x), stock(x))


def test_anisotropic_levels():
    kernels, strides = ((1, 3, 3), (3, 3, 3)), ((1, 1, 1), (1, 2, 2))
    architecture = UNetArchitecture(3, 1, 2, (4, 8), strides, planned_kernels=kernels)
    ours, stock = build(architecture, "largest")
    x = torch.randn(1, 1, 4, 8, 8)
    assert torch.equal(ours(x), stock(x))


def test_only_json_and_torch_are_needed():
    definition = stock_definition(UNetArchitecture(2, 1, 2, (4, 8), ((1, 1), (2, 2))), SPACE.largest())
    assert "prox_monai" not in json.dumps(definition)
