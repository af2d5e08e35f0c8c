"""Kernel transformation matrices: smaller kernels are learnt maps of the largest (Cai et al., section 3.3)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from prox_monai.elastic import Freeze, Supernet
from prox_monai.elastic.extra_state import ExtraState
from prox_monai.elastic.reorder import reorder_channels
from prox_monai.networks import UNetArchitecture
from prox_monai.space import Dimension, SearchSpace, SubnetConfig, unet_groups

PLANAR = UNetArchitecture(2, 1, 2, (4, 8), ((1, 1), (2, 2)), norm="batch", deep_supervision=True)
FLAT = UNetArchitecture(3, 1, 2, (4, 8), ((1, 1, 1), (1, 2, 2)), planned_kernels=((1, 3, 3), (3, 3, 3)))
INPUTS = {PLANAR: (2, 1, 8, 12), FLAT: (2, 1, 4, 8, 8)}
GROUPS = unet_groups(2) | {Dimension.DEPTH: (0, 0, 0)}
SPACE = SearchSpace(3, (1, 2), (0.5, 1), (3, 5), (0.5, 1), GROUPS)
SEVEN = replace(SPACE, kernel=(3, 5, 7), resolution=(1,))
WEIGHT = "encoder.0.blocks.1.conv.weight"
KEY = WEIGHT.replace(".", "/")


def shrinking(space=SPACE, architecture=PLANAR, **kwargs) -> Supernet:
    return Supernet(architecture, space, growth="none", kernel_transforms=True, **kwargs)


def centre(weight: torch.Tensor, *kernel: int) -> torch.Tensor:
    for axis, size in enumerate(kernel, start=2):
        weight = weight.narrow(axis, (weight.shape[axis] - size) // 2, size)
    return weight


def transformed(weight: torch.Tensor, matrix: torch.Tensor, *kernel: int) -> torch.Tensor:
    """The definition, written out: tap q of the small kernel is the sum over p of tap p of the centre times M[p, q]."""
    taps = centre(weight, *kernel).flatten(2)
    return torch.einsum("oip,pq->oiq", taps, matrix).reshape(*weight.shape[:2], *kernel)


def of(kernel: int, depth: int = 2, width: float = 1) -> SubnetConfig:
    return SubnetConfig.uniform(3, depth, width, kernel)


@pytest.mark.parametrize("architecture", [PLANAR, FLAT], ids=["2d", "anisotropic"])
def test_fresh_matrices_are_identities(architecture):
    """At first every kernel is the centre of the largest, bitwise."""
    plain = Supernet(architecture, SEVEN, growth="none")
    supernet = shrinking(SEVEN, architecture)
    supernet.load_state_dict(supernet.state_dict() | {n: t for n, t in plain.state_dict().items() if n[0] != "_"})
    for config in SEVEN:
        ours, theirs = (network.extract(config).state_dict() for network in (supernet, plain))
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items()), config


def test_smaller_kernels_are_chained(randomise):
    """W5 = M5(centre of W7), W3 = M3(centre of W5), for every width."""
    supernet = randomise(shrinking(SEVEN)).double()
    five, three = (supernet.transforms[KEY].matrix((k, k)) for k in (5, 3))
    for width in SEVEN.width:
        seven = supernet.extract(of(7, width=width)).get_parameter(WEIGHT)
        wanted = transformed(seven, five, 5, 5)
        torch.testing.assert_close(supernet.extract(of(5, width=width)).get_parameter(WEIGHT), wanted)
        wanted = transformed(wanted, three, 3, 3)
        torch.testing.assert_close(supernet.extract(of(3, width=width)).get_parameter(WEIGHT), wanted)


def test_axes_that_are_planned_flat_have_no_taps_to_mix(randomise):
    supernet = randomise(shrinking(SPACE, FLAT)).double()
    matrix = supernet.transforms[KEY].matrix((1, 3, 3))
    assert matrix.shape == (9, 9)
    assert supernet.transforms["encoder/1/blocks/0/conv/weight"].matrix((3, 3, 3)).shape == (27, 27)
    large, small = (supernet.extract(of(k)).get_parameter(WEIGHT) for k in (5, 3))
    torch.testing.assert_close(small, transformed(large, matrix, 1, 3, 3))


def test_only_weights_with_elastic_kernels_have_matrices():
    names = {name for name, p in PLANAR.build(of(5)).named_parameters() if p.shape[2:] == (5, 5)}
    assert {key.replace("/", ".") for key in shrinking().transforms} == names
    assert not shrinking(SPACE.restrict(kernel=(5,))).transforms
    assert not Supernet(PLANAR, SPACE).transforms


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("architecture", "space"), [(PLANAR, SPACE), (FLAT, SPACE), (PLANAR, SEVEN)])
def test_1_every_subnet_equals_its_extracted_network(randomise, architecture, space, training):
    supernet = randomise(shrinking(space, architecture)).train(training)
    x = torch.randn(INPUTS[architecture])
    with torch.no_grad():
        for config in space:
            supernet.activate(config)
            network = supernet.extract(config)
            ours, theirs = supernet(x), network(x)
            pairs = zip(ours, theirs, strict=True) if isinstance(ours, list) else [(ours, theirs)]
            assert all(torch.equal(a, b) for a, b in pairs), config


def test_1_also_under_autocast(randomise):
    """The matrices are applied in full precision, as they are when a network is extracted."""
    supernet, x = randomise(shrinking()).eval(), torch.randn(INPUTS[PLANAR])
    supernet.activate(SPACE.smallest())
    network = supernet.extract(SPACE.smallest())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(supernet(x)[0], network(x)[0])


def test_gradients_reach_matrix_and_shared_weight(randomise):
    """In closed form: of the sum of c * W3 with W3 = C M, they are C^T c for M and c M^T for the centre C."""
    supernet = randomise(shrinking()).double()
    shells, transforms = supernet.tensors[KEY], supernet.transforms[KEY]
    matrix = transforms.matrix((3, 3))
    extent = shells.grid.extent((0, 0, 0))
    corner = shells.corner(extent).detach().reshape(-1, 9)
    c = torch.randn(corner.shape, dtype=torch.float64)
    (transforms.corner(shells, extent).reshape(-1, 9) * c).sum().backward()
    torch.testing.assert_close(matrix.grad, corner.T @ c)
    torch.testing.assert_close(shells.cell((0, 0, 0)).grad.reshape(-1, 9), c @ matrix.detach().T)


def backward(supernet: Supernet, config: SubnetConfig, *frozen: tuple[int, int]) -> None:
    supernet.zero_grad()
    supernet.activate(config, Freeze(frozenset(frozen)))
    sum(output.square().sum() for output in supernet(torch.randn(INPUTS[PLANAR]))).backward()


def used_taps(supernet: Supernet) -> list[bool]:
    """Which kernel shells of the weight have a gradient, from core to outermost."""
    shells = supernet.tensors[KEY]
    return [shells.cell((0, 0, k)).grad is not None for k in range(len(shells.grid.taps))]


def test_what_a_kernel_does_not_use_has_no_gradient(randomise):
    """A small kernel is put together at the second largest size: the largest ring costs it nothing."""
    supernet = randomise(shrinking(SEVEN))
    three, five = (supernet.transforms[KEY].matrix((k, k)) for k in (3, 5))
    for kernel, taps, matrices in [
        (7, [True, True, True], [False, False]),
        (5, [True, True, False], [False, True]),
        (3, [True, True, False], [True, True]),
    ]:
        backward(supernet, of(kernel))
        assert used_taps(supernet) == taps
        assert [three.grad is not None, five.grad is not None] == matrices


def test_matrices_of_frozen_blocks_are_frozen(randomise):
    supernet = randomise(shrinking())
    backward(supernet, of(3), (0, 1))
    assert supernet.transforms[KEY].matrix((3, 3)).grad is None
    assert not any(used_taps(supernet))
    assert supernet.transforms["encoder/0/blocks/0/conv/weight"].matrix((3, 3)).grad is not None


@pytest.mark.parametrize("growth", ["preserving", "host", "none"])
def test_matrices_learn_at_the_full_rate(growth):
    supernet = Supernet(PLANAR, SPACE, growth=growth, kernel_transforms=True)
    groups = supernet.parameter_groups(0.1)
    assert groups[0]["scale"] == 1
    listed = [parameter for group in groups for parameter in group["params"]]
    assert sorted(map(id, listed)) == sorted(map(id, supernet.parameters()))
    assert {id(p) for p in supernet.transforms.parameters()} <= {id(p) for p in groups[0]["params"]}


def test_a_state_dict_rebuilds_the_matrices(randomise):
    supernet, x = randomise(shrinking(SEVEN)).eval(), torch.randn(INPUTS[PLANAR])
    supernet.activate(of(3))
    loaded = Supernet(PLANAR, SPACE).eval()
    loaded.load_state_dict(supernet.state_dict())
    assert torch.equal(loaded(x)[0], supernet(x)[0])
    same_space = Supernet(PLANAR, SEVEN).eval()
    same_space.load_state_dict(supernet.state_dict())
    assert torch.equal(same_space(x)[0], supernet(x)[0])
    supernet.load_state_dict(Supernet(PLANAR, SEVEN).state_dict())
    assert not supernet.transforms


def test_a_state_of_before_there_were_matrices_has_none():
    encoded = bytes(Supernet(PLANAR, SPACE).get_extra_state().tolist())
    old = encoded.replace(b',"kernel_transforms":false', b"")
    assert len(old) < len(encoded)
    described = ExtraState.decode(torch.tensor(list(old.ljust(len(encoded))), dtype=torch.uint8))
    assert described == ExtraState(SPACE, SPACE.largest(), 1, kernel_transforms=False)


@torch.no_grad()
def test_kept_corners_follow_the_matrices(randomise):
    supernet, x = randomise(shrinking()).eval(), torch.randn(INPUTS[PLANAR])
    supernet.activate(SPACE.smallest())
    before = supernet(x)[0]
    nn.init.normal_(supernet.transforms["encoder/0/blocks/0/conv/weight"].matrix((3, 3)))
    assert not torch.equal(supernet(x)[0], before)


def test_absorbing_a_smaller_kernel_is_refused(randomise):
    supernet, before = randomise(shrinking()), shrinking()
    before.load_state_dict(supernet.state_dict())
    with pytest.raises(ValueError, match=r"encoder.0.blocks.0.conv.weight of d1-w1-k3-r1 .*\(3, 3\) .* of \(5, 5\)"):
        supernet.absorb(of(3, 1), supernet.extract(of(3, 1)))
    assert all(map(torch.equal, supernet.parameters(), before.parameters()))
    supernet.absorb(of(5, 1), PLANAR.build(of(5, 1)))


def test_the_supernet_of_larger_kernels_keeps_their_matrices(randomise):
    whole = randomise(shrinking(SEVEN))
    space = SEVEN.restrict(kernel=(5, 7), depth=(2,))
    smaller = whole.only(space)
    for config in (space.smallest(), space.largest()):
        ours, theirs = (supernet.extract(config).state_dict() for supernet in (whole, smaller))
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert not whole.only(SEVEN.restrict(kernel=(7,))).transforms
    for kernels in ((3, 5), (3, 7)):
        with pytest.raises(ValueError, match=r"kernel must be the largest of \(3, 5, 7\), of which others are transf"):
            whole.only(SEVEN.restrict(kernel=kernels))


def test_growing_is_refused():
    with pytest.raises(ValueError, match=r"with kernel transforms does not grow: its largest network bounds it"):
        shrinking().grow(SEVEN)


@torch.no_grad()
def test_reordered_channels_keep_the_widest_subnets_of_all_kernels(randomise):
    """Matrices mix taps and are shared by the channels, whatever their order."""
    supernet, x = randomise(shrinking()).double().eval(), torch.randn(INPUTS[PLANAR], dtype=torch.float64)
    before = {}
    for config in SPACE.restrict(width=(1,)):
        supernet.activate(config)
        before[config] = supernet(x)[0]
    reorder_channels(supernet)
    for config, wanted in before.items():
        supernet.activate(config)
        assert (supernet(x)[0] - wanted).abs().max() <= 1e-12 * wanted.abs().max()


def test_the_matrices_are_small():
    taps = sum(math.prod(p.shape) for p in shrinking(SPACE, FLAT).transforms.parameters())
    assert taps == 4 * 9**2 + 2 * 27**2
