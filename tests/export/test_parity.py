"""A difference is found, and said."""

from __future__ import annotations

import pytest
import torch

from prox_monai.export.parity import Parity, check_parity, compare


def test_the_worst_patch_counts(patches):
    def network(x):
        return torch.cat([x[:, :1] * 0, x[:, :1] * 0 + 1], 1)

    def exported(x):  # only the second patch is off, by .25, and changes the label of one voxel
        logits = network(x)
        if torch.equal(x, patches[1]):
            logits[0, 0, 0, 0, 0] = 1.25
        return logits

    parity = compare(network, exported, patches)
    assert parity.patches == 4
    assert parity.max_difference == 1.25
    assert parity.max_logit == 1
    assert parity.agreement == pytest.approx(1 - 1 / patches[0][0, 0].numel())


def test_equal_networks(networks, patches):
    assert compare(networks["plain"], networks["plain"], patches).max_difference == 0


@pytest.mark.parametrize(
    "exported", [lambda x: torch.full((1, 3, 8, 12, 8), float("nan")), lambda x: torch.zeros(1, 2, 8, 12, 8)]
)
def test_what_cannot_be_compared(exported, networks, patches):
    with pytest.raises(RuntimeError, match=r"the plain one gives \[1, 3, 8, 12, 8\]"):
        compare(networks["plain"], exported, patches)


def test_no_patch(networks):
    with pytest.raises(ValueError, match="no patch to compare on"):
        compare(networks["plain"], networks["plain"], [])


@pytest.mark.parametrize(("largest", "allowed"), [(0.5, 1e-4), (10.0, 1e-3)])
def test_a_difference_fails_loudly(largest, allowed):
    check_parity(Parity(20, 0.99 * allowed, largest, 1.0), "fp32 in openvino")
    with pytest.raises(RuntimeError, match=r"logits of fp32 in openvino differ by .* that is 0.0001 of the largest"):
        check_parity(Parity(20, 1.01 * allowed, largest, 1.0), "fp32 in openvino")
    with pytest.raises(RuntimeError, match="differ by nan"):
        check_parity(Parity(20, float("nan"), largest, 1.0), "fp32 in openvino")
