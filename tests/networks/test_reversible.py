from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call

from prox_monai.networks.blocks import InvertedResidual
from prox_monai.networks.reversible import AdditiveCoupling, ReversibleBlocks


def branch(dims, inputs, outputs):
    shape = {"kernel": (3,) * dims, "stride": (1,) * dims, "norm": "instance"}
    return InvertedResidual(dims, inputs, hidden=5, out_channels=outputs, residual=False, **shape)


def blocks(channels=5, couplings=3, dims=2):
    odd, even = channels // 2, channels - channels // 2
    pairs = ((branch(dims, odd, even), branch(dims, even, odd)) for _ in range(couplings))
    return ReversibleBlocks(branch(dims, 2, channels), *(AdditiveCoupling(*pair) for pair in pairs))


def stored(network):
    """The same computation, with the same weights, as an ordinary sequence."""
    return nn.Sequential(*copy.deepcopy(network))


def gradients(network, x, tensors):
    return torch.autograd.grad(network(x).sin().sum(), tensors)


def test_a_coupling_in_closed_form():
    """With identities for branches: even + odd, then odd + (even + odd), of channels that alternate."""
    x = torch.randn(2, 4, 3, 3)
    y = AdditiveCoupling(nn.Identity(), nn.Identity())(x)
    even, odd = x[:, [0, 2]], x[:, [1, 3]]
    torch.testing.assert_close(y[:, [0, 2]], even + odd)
    torch.testing.assert_close(y[:, [1, 3]], even + 2 * odd)


@pytest.mark.parametrize("channels", [2, 5, 6])
@pytest.mark.parametrize("dims", [2, 3])
def test_gradients_are_those_of_stored_activations(channels, dims):
    network = blocks(channels, dims=dims).double()
    plain = stored(network)
    x = torch.randn(2, 2, *(6,) * dims, dtype=torch.float64, requires_grad=True)
    assert torch.equal(network(x), plain(x))
    ours = gradients(network, x, (x, *network.parameters()))
    theirs = gradients(plain, x, (x, *plain.parameters()))
    for mine, yours in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, yours, rtol=1e-9, atol=1e-9)


def test_gradients_by_finite_differences():
    network = blocks(channels=3, couplings=2).double()
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(network, x, fast_mode=True)


def saved_bytes(network, x) -> int:
    """Bytes that the graph of a forward pass holds, weights and the input aside."""
    owned = {tensor.untyped_storage().data_ptr() for tensor in (x, *network.parameters())}
    held = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            held[storage.data_ptr()] = tensor, storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        network(x)
    return sum(size for _, size in held.values())


def test_what_is_stored_does_not_grow_with_depth():
    """Reversible: one tensor for all couplings, whatever their number. Stored: the same again for each coupling."""
    x = torch.randn(1, 2, 32, 32)
    shallow, deep, deeper = (blocks(channels=6, couplings=count) for count in (1, 2, 4))
    assert saved_bytes(shallow, x) == saved_bytes(deep, x) == saved_bytes(deeper, x)
    assert saved_bytes(shallow, x) - saved_bytes(blocks(channels=6, couplings=0), x) == 6 * 32 * 32 * 4
    one, two, four = (saved_bytes(stored(network), x) for network in (shallow, deep, deeper))
    assert four - two == 2 * (two - one)
    assert two - one > 10 * 6 * 32 * 32


@pytest.mark.parametrize("training", [True, False])
def test_without_gradients_or_in_evaluation_it_is_an_ordinary_sequence(training):
    network, x = blocks().train(training), torch.randn(1, 2, 6, 6)
    seen = []
    network[2].register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape))
    with torch.set_grad_enabled(not training):
        output = network(x)
    assert seen == [(1, 5, 6, 6)]
    assert torch.equal(output, stored(network)(x))
    if not training:
        assert gradients(network, x, list(network.parameters()))


def test_frozen_tensors_get_no_gradient_and_the_others_the_same():
    network, x = blocks(), torch.randn(2, 2, 6, 6)
    network[2].to_even.requires_grad_(False)
    network[3].to_odd.project.requires_grad_(False)
    plain = stored(network)
    for each in (network, plain):
        each(x).square().sum().backward()
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None) == (not ours.requires_grad)
        if ours.requires_grad:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)


def test_backward_stops_where_nothing_learns():
    """Before the first block that learns nothing is computed again."""
    network, x = blocks(), torch.randn(1, 2, 6, 6)
    network[:2].requires_grad_(False)
    network[2].to_even.requires_grad_(False)
    runs = dict.fromkeys(("1.to_odd", "2.to_even", "2.to_odd", "3.to_odd"), 0)
    for name in runs:
        hook = lambda *_, name=name: runs.update({name: runs[name] + 1})  # noqa: E731
        network.get_submodule(name).register_forward_hook(hook)
    network(x).sum().backward()
    assert runs == {"1.to_odd": 1, "2.to_even": 1, "2.to_odd": 2, "3.to_odd": 2}


def test_where_nothing_learns_there_is_no_graph():
    network = blocks().requires_grad_(False)
    assert not network(torch.randn(1, 2, 6, 6)).requires_grad


def test_backward_is_of_the_tensors_that_forward_ran_on():
    """They stand in for the modules' own while forward runs only, as a supernet's do."""
    network, x = blocks(), torch.randn(1, 2, 6, 6)
    others = {name: torch.randn_like(tensor).requires_grad_() for name, tensor in network.named_parameters()}
    plain = stored(network)
    ours, theirs = (functional_call(each, others, x) for each in (network, plain))
    assert torch.equal(ours, theirs)
    found = (torch.autograd.grad(output.sin().sum(), list(others.values())) for output in (ours, theirs))
    for mine, yours in zip(*found, strict=True):
        torch.testing.assert_close(mine, yours, rtol=1e-3, atol=1e-3)


def test_two_forward_passes_before_one_backward():
    network = blocks().double()
    x, y = torch.randn(2, 1, 2, 6, 6, dtype=torch.float64)
    tensors = list(network.parameters())
    together = torch.autograd.grad((network(x) * network(y)).sum(), tensors)
    plain = stored(network)
    expected = torch.autograd.grad((plain(x) * plain(y)).sum(), list(plain.parameters()))
    for mine, yours in zip(together, expected, strict=True):
        torch.testing.assert_close(mine, yours, rtol=1e-9, atol=1e-9)


def test_what_comes_in_is_left_as_it_is():
    """One image of two channels: its halves are contiguous already."""
    network = ReversibleBlocks(nn.Identity(), AdditiveCoupling(branch(2, 1, 1), branch(2, 1, 1)))
    x = torch.randn(1, 2, 6, 6)
    before = x.clone()
    network(x).sum().backward()
    assert torch.equal(x, before)


def test_under_autocast_it_is_computed_again_as_it_was():
    """Branches in half precision, their sums not: as good as what stores its activations."""
    network, x = blocks(couplings=12), torch.randn(2, 2, 8, 8)
    plain, kinds = stored(network), []
    network[3].to_odd.expand[0].register_forward_hook(lambda _module, _inputs, output: kinds.append(output.dtype))
    exact = gradients(network, x, list(network.parameters()))
    assert kinds == [torch.float32] * 2
    half = []
    for each in (network, plain):
        with torch.autocast("cpu", torch.bfloat16):
            output = each(x)
        half.append(torch.autograd.grad(output.sin().sum(), list(each.parameters())))
    assert kinds == [torch.float32] * 2 + [torch.bfloat16] * 2
    ours, theirs = (sum((a - b).square().sum() for a, b in zip(found, exact, strict=True)) for found in half)
    assert ours < 1.5 * theirs


def test_passing_on_is_exact():
    network, x = blocks(), torch.randn(2, 2, 6, 6)
    for coupling in network[1:]:
        coupling.pass_on()
    assert torch.equal(network(x), network[0](x))
