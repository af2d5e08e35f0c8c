"""The extra state of a supernet as bytes, so that a state dict describes itself."""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from torch import Tensor

from prox_monai.space import SearchSpace, SubnetConfig

_BYTES = 4096


@dataclass(frozen=True, slots=True)
class ExtraState:
    """What a supernet is beside its tensors.

    Args:
        space: the subnets that exist.
        active: the one that runs.
        opened_depth: the depth up to which blocks hold something that was learnt.
        kernel_transforms: whether smaller kernels are transforms of the largest.
    """

    space: SearchSpace
    active: SubnetConfig
    opened_depth: int
    kernel_transforms: bool = False

    def encode(self) -> Tensor:
        """Return it as bytes; the length is always the same.

        Raises:
            ValueError: When the space has too many sections for it.
        """
        state = {
            "space": self.space.to_dict(),
            "active": self.active.to_dict(),
            "opened_depth": self.opened_depth,
            "kernel_transforms": self.kernel_transforms,
        }
        encoded = json.dumps(state, separators=(",", ":")).encode()
        if len(encoded) > _BYTES:
            raise ValueError(f"the search space takes {len(encoded)} bytes of {_BYTES}; use fewer sections.")
        return torch.frombuffer(bytearray(encoded.ljust(_BYTES)), dtype=torch.uint8)

    @classmethod
    def decode(cls, tensor: Tensor) -> ExtraState:
        """Read it back.

        Raises:
            ValueError: When the bytes are not a supernet's extra state.
        """
        try:
            state = json.loads(bytes(tensor.cpu().tolist()))
            space, active = SearchSpace.from_dict(state["space"]), SubnetConfig.from_dict(state["active"])
            return cls(space, active, state["opened_depth"], state.get("kernel_transforms", False))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"the extra state is not that of a prox_monai supernet: {error}") from None
