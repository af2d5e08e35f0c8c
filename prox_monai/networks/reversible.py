"""Blocks whose input is computed from their output, so that training does not store what lies between.

From Gomez et al., "The Reversible Residual Network" (NeurIPS 2017, arXiv:1707.04585), section 3. Within the sections of
a U-Net: Brügger et al., "A Partially Reversible U-Net" (MICCAI 2019, arXiv:1906.06148); with inverted residuals: Pendse
et al., "Memory Efficient 3D U-Net with Reversible Mobile Inverted Bottlenecks" (BrainLes 2020, arXiv:2104.09648).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn import functional as F

from prox_monai.networks.blocks import InvertedResidual


class AdditiveCoupling(nn.Module):
    """A residual block on two halves of the channels, of which one at a time is changed, by what the other one holds.

    ``even' = even + to_even(odd)``, then ``odd' = odd + to_odd(even')``, which can be undone. The halves are the even
    and the odd channels, for the leading channels of the whole to be leading channels of both: so narrower blocks nest.

    Args:
        to_even: maps ``(B, C // 2, *spatial)`` to ``(B, C - C // 2, *spatial)``; keeps no statistics.
        to_odd: maps ``(B, C - C // 2, *spatial)`` to ``(B, C // 2, *spatial)``; keeps no statistics.
    """

    def __init__(self, to_even: InvertedResidual, to_odd: InvertedResidual) -> None:
        super().__init__()
        self.to_even = to_even
        self.to_odd = to_odd

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, *spatial)`` to the same shape."""
        even, odd = _split(x)
        even = even + self.to_even(odd)
        return _join(even, odd + self.to_odd(even))

    def pass_on(self) -> None:
        """Pass the input on unchanged, until the last normalisations have learnt otherwise."""
        self.to_even.pass_on()
        self.to_odd.pass_on()


class ReversibleBlocks(nn.Sequential):
    """The blocks of a section: a first one of any kind, then couplings, between which training stores nothing.

    In training mode, where gradients are wanted, only what the last coupling gives is kept; backward computes the rest
    again, one coupling after the other. Everywhere else it is an ordinary sequence.

    Args:
        first: maps ``(B, C_in, *spatial)`` to ``(B, C, *spatial / stride)``.
        couplings: blocks of ``C`` channels.
    """

    def __init__(self, first: nn.Module, *couplings: AdditiveCoupling) -> None:
        super().__init__(first, *couplings)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C_in, *spatial)`` to ``(B, C, *spatial / stride)``."""
        first, *couplings = self
        x = first(x)
        branches = [branch for coupling in couplings for branch in (coupling.to_even, coupling.to_odd)]
        # The tensors that stand in the modules now may be others by the time of the backward pass.
        tensors = [tensor for branch in branches for tensor in branch.parameters()]
        wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *tensors))
        if branches and self.training and wanted:
            return _Recomputed.apply(branches, x, *tensors)
        for coupling in couplings:
            x = coupling(x)
        return x


class _Recomputed(torch.autograd.Function):
    """Couplings as one step of the graph; both passes are functions of the tensors that are handed over.

    Branch after branch changes one half, then the halves change places: forward is ``a += branch(b)``, backward
    computes ``branch(b)`` again, with its gradients, and takes it off.
    """

    @staticmethod
    def forward(ctx, branches: Sequence[nn.Module], x: Tensor, *tensors: Tensor) -> Tensor:
        ctx.branches, ctx.names = branches, [[name for name, _ in branch.named_parameters()] for branch in branches]
        ctx.autocast, ctx.dtype = _autocast_as_now(x.device.type), x.dtype
        a, b = _halves(x.to(_dtype_of_sums(x)))
        for branch in branches:
            a += branch(b)
            a, b = b, a
        output = _join(a, b)
        ctx.save_for_backward(output, *tensors)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        output, *tensors = ctx.saved_tensors
        _, x_wanted, *wanted = ctx.needs_input_grad
        gradients: list[Tensor | None] = [None] * len(tensors)
        (a, b), (da, db) = _halves(output), _halves(gradient)
        end = len(tensors)
        for branch, names in zip(reversed(ctx.branches), reversed(ctx.names), strict=True):
            if not (x_wanted or any(wanted[:end])):
                break
            a, b, da, db = b, a, db, da
            mine = slice(end - len(names), end)
            with torch.enable_grad(), ctx.autocast():
                inputs = b.detach().requires_grad_()
                parameters = [t.detach().requires_grad_(w) for t, w in zip(tensors[mine], wanted[mine], strict=True)]
                named = dict(zip(names, parameters, strict=True))
                added = functional_call(branch, named, inputs, tie_weights=False, strict=True)
            learning = [parameter for parameter in parameters if parameter.requires_grad]
            found = iter(torch.autograd.grad(added, (inputs, *learning), da.to(added.dtype)))
            a -= added.detach()
            db += next(found)
            gradients[mine] = [next(found) if want else None for want in wanted[mine]]
            end -= len(names)
        return None, _join(da, db).to(ctx.dtype) if x_wanted else None, *gradients


def _split(x: Tensor) -> tuple[Tensor, Tensor]:
    """The even and the odd channels; of an odd number the even ones are one more."""
    return x[:, 0::2], x[:, 1::2]


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """The even and the odd channels, in memory of their own."""
    even, odd = (half.clone(memory_format=torch.contiguous_format) for half in _split(x))
    return even, odd


def _join(even: Tensor, odd: Tensor) -> Tensor:
    channels, missing = even.shape[1] + odd.shape[1], even.shape[1] - odd.shape[1]
    if missing:
        odd = F.pad(odd, (0, 0) * (odd.ndim - 2) + (0, missing))
    return torch.stack((even, odd), dim=2).flatten(1, 2)[:, :channels]


def _dtype_of_sums(x: Tensor) -> torch.dtype:
    """Where branches compute in half precision, their sums do not: what is taken off must leave what was there."""
    kind = x.device.type
    mixed = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.promote_types(x.dtype, torch.float32) if mixed else x.dtype


def _autocast_as_now(kind: str) -> Callable[[], AbstractContextManager[Any]]:
    """Makes contexts that compute in the precision of the present one, in which forward passes run."""
    if not torch.amp.is_autocast_available(kind):
        return nullcontext
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    return functools.partial(torch.autocast, kind, dtype=dtype, enabled=enabled)
