from __future__ import annotations

import pytest
import torch

from prox_monai.elastic import Supernet
from prox_monai.networks import UNetArchitecture
from prox_monai.space import SearchSpace, unet_groups


def test_rings_learn_at_the_share_of_the_core_in_their_kernel():
    architecture = UNetArchitecture(3, 1, 2, channels=(4, 8), strides=((1, 1, 1), (2, 2, 2)))
    space = SearchSpace(3, (1,), (0.5, 1.0), (3, 5, 7), groups=unet_groups(2))
    supernet = Supernet(architecture, space)
    groups = supernet.parameter_groups(0.1)
    assert [group["scale"] for group in groups] == [1, pytest.approx(27 / 125), pytest.approx(27 / 343)]
    taps = [{parameter.shape[-1] for parameter in group["params"]} for group in groups]
    assert taps[1:] == [{125 - 27}, {343 - 125}]
    assert [group["lr"] for group in groups] == [0.1 * group["scale"] for group in groups]
    listed = [parameter for group in groups for parameter in group["params"]]
    assert sorted(map(id, listed)) == sorted(map(id, supernet.parameters()))


def test_at_the_full_rate_all_learn_alike():
    architecture = UNetArchitecture(2, 1, 2, channels=(4, 8), strides=((1, 1), (2, 2)))
    supernet = Supernet(architecture, SearchSpace(3, (1,), (1.0,), (3, 5), groups=unet_groups(2)))
    (group,) = supernet.parameter_groups(0.1, "full")
    assert (group["scale"], group["lr"]) == (1, 0.1)
    assert list(map(id, group["params"])) == list(map(id, supernet.parameters()))
    with pytest.raises(ValueError, match=r"ring_rate must be one of \('core_share', 'full'\), got 'slow'"):
        supernet.parameter_groups(0.1, "slow")


def test_an_optimizer_takes_the_groups():
    architecture = UNetArchitecture(2, 1, 2, channels=(4, 8), strides=((1, 1), (2, 2)))
    supernet = Supernet(architecture, SearchSpace(3, (1,), (1.0,), (3, 5), groups=unet_groups(2)))
    optimizer = torch.optim.AdamW(supernet.parameter_groups(0.1))
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.036])
