"""What a state dict carries, and what is kept between forward passes in evaluation mode."""

from __future__ import annotations

import copy
import io

import pytest
import torch

from prox_monai.elastic import Supernet
from prox_monai.elastic.extra_state import ExtraState
from prox_monai.elastic.shells import ShellTensor
from prox_monai.networks import UNetArchitecture
from prox_monai.space import SearchSpace, unet_groups

ARCHITECTURE = UNetArchitecture(2, 1, 2, (4, 8), ((1, 1), (2, 2)), norm="batch")
SPACE = SearchSpace(3, (1, 2), (0.5, 1), (3, 5), (0.5, 1), unet_groups(2))
OTHER = SearchSpace(3, (1,), (0.25, 1), (3, 7), (1,), unet_groups(2))


def equal(a: Supernet, b: Supernet) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_state_dict_round_trip(randomise):
    supernet = randomise(Supernet(ARCHITECTURE, SPACE))
    supernet.activate(SPACE.smallest())
    other = Supernet(ARCHITECTURE, SPACE)
    other.load_state_dict(supernet.state_dict())
    assert equal(supernet, other)
    assert other.active == SPACE.smallest()


def test_a_state_dict_rebuilds_a_supernet_of_another_space(randomise):
    """What nnU-Net does at prediction: it builds from plans alone, then loads strictly."""
    supernet = randomise(Supernet(ARCHITECTURE, SPACE)).double()
    supernet.activate(SPACE.smallest())
    loaded = Supernet(ARCHITECTURE, OTHER).double().eval()
    loaded.load_state_dict(supernet.state_dict(), strict=True)
    assert (loaded.space, loaded.active, loaded.training) == (SPACE, SPACE.smallest(), False)
    assert equal(supernet, loaded)
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    assert torch.equal(loaded(x), supernet.eval()(x))


def test_a_state_dict_is_tensors_only(randomise):
    file = io.BytesIO()
    supernet = randomise(Supernet(ARCHITECTURE, SPACE))
    torch.save(supernet.state_dict(), file)
    file.seek(0)
    loaded = Supernet(ARCHITECTURE, OTHER)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert equal(supernet, loaded)


def test_extra_state_has_a_fixed_length_and_describes_itself():
    states = []
    for space in (SPACE, OTHER):
        supernet = Supernet(ARCHITECTURE, space)
        supernet.activate(space.smallest())
        states.append(supernet.get_extra_state())
        described = ExtraState.decode(states[-1])
        assert described == ExtraState(space, space.smallest(), space.depth[0])
    assert states[0].shape == states[1].shape
    assert states[0].dtype == torch.uint8


@pytest.mark.parametrize("state", [torch.zeros(10, dtype=torch.uint8), torch.rand(4), {"active": 1}])
def test_other_extra_states_are_refused(state):
    with pytest.raises(ValueError, match=r"not that of a prox_monai supernet"):
        ExtraState.decode(state)


def test_a_space_too_large_for_the_extra_state_is_refused():
    supernet = Supernet(ARCHITECTURE, SPACE)
    supernet.space = SearchSpace(2000, (1,), (1,), (3,))
    with pytest.raises(ValueError, match=r"bytes of 4096"):
        supernet.get_extra_state()


def test_missing_tensors_are_refused():
    state = Supernet(ARCHITECTURE, SPACE).state_dict()
    del state[next(name for name in state if name != "_extra_state")]
    with pytest.raises(RuntimeError, match=r"Missing key"):
        Supernet(ARCHITECTURE, SPACE).load_state_dict(state)


def test_copies_are_independent(randomise):
    supernet = randomise(Supernet(ARCHITECTURE, SPACE)).eval()
    x = torch.rand(2, 1, 8, 8)
    before = supernet(x)
    other = copy.deepcopy(supernet)
    randomise(other)
    other.activate(SPACE.smallest())
    assert torch.equal(supernet(x), before)
    assert not torch.equal(other(x), before)


def test_a_copy_is_made_when_weights_have_changed_since_an_evaluation(randomise):
    """An average of weights is such a copy; what the evaluation put together are views of weights that were."""
    supernet, x = randomise(Supernet(ARCHITECTURE, SPACE)).eval(), torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        before = supernet(x)
        for parameter in supernet.parameters():
            parameter.mul_(2)
        other = copy.deepcopy(supernet)
        assert equal(other, supernet)
        assert torch.equal(other(x), supernet(x))
        assert not torch.equal(other(x), before)


@pytest.fixture
def assembled(monkeypatch):
    """Counts the corners that are put together."""
    calls = []
    original = ShellTensor.corner

    def counting(self, *args, **kwargs):
        calls.append(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(ShellTensor, "corner", counting)
    return calls


@torch.no_grad()
def test_corners_are_put_together_once_in_evaluation(randomise, assembled):
    supernet = randomise(Supernet(ARCHITECTURE, SPACE)).eval()
    x = torch.randn(2, 1, 8, 8)
    first = supernet(x)
    count = len(assembled)
    assert torch.equal(supernet(x), first)
    assert len(assembled) == count > 0
    supernet.activate(SPACE.smallest())
    assert not torch.equal(supernet(x), first)


def fused_step_in_evaluation_mode(supernet, x):
    optimizer = torch.optim.AdamW(supernet.parameters(), lr=0.1, fused=True)
    with torch.enable_grad():
        supernet(x).square().mean().backward()
    optimizer.step()


def training_step(supernet, x):
    optimizer = torch.optim.AdamW(supernet.train().parameters(), lr=0.1, fused=True)
    with torch.enable_grad():
        supernet(x).square().mean().backward()
    optimizer.step()
    supernet.eval()


def validation_before_a_fused_step(supernet, x):
    optimizer = torch.optim.AdamW(supernet.parameters(), lr=0.1, fused=True)
    with torch.enable_grad():
        supernet(x).square().mean().backward()
    supernet(x)
    optimizer.step()


def change_without_a_version_then_a_change_of_mode(supernet, x):
    for parameter in supernet.parameters():
        parameter.data.add_(1)
    supernet.train().eval()


def loading(supernet, x):
    supernet.load_state_dict({n: t if n == "_extra_state" else t + 1 for n, t in supernet.state_dict().items()})


def absorbing(supernet, x):
    supernet.absorb(SPACE.largest(), Supernet(ARCHITECTURE, SPACE).extract(SPACE.largest()))


@pytest.mark.parametrize(
    "change",
    [
        fused_step_in_evaluation_mode,
        training_step,
        validation_before_a_fused_step,
        loading,
        absorbing,
        change_without_a_version_then_a_change_of_mode,
    ],
)
@torch.no_grad()
def test_kept_corners_follow_the_tensors(randomise, change):
    supernet = randomise(Supernet(ARCHITECTURE, SPACE)).eval()
    x = torch.randn(2, 1, 8, 8)
    before = supernet(x)
    change(supernet, x)
    assert not torch.equal(supernet(x), before)
    assert torch.equal(supernet(x), supernet.extract(SPACE.largest())(x))
