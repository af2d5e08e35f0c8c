"""The extra state of a supernet: search space and active subnet as bytes, so that a state dict describes itself."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from prox_monai.space import SearchSpace, SubnetConfig

_BYTES = 4096


def encode_state(space: SearchSpace, active: SubnetConfig) -> Tensor:
    """Encode a space and the active subnet in it; the length is always the same.

    Raises:
        ValueError: When the space has too many sections for it.
    """
    encoded = json.dumps({"space": space.to_dict(), "active": active.to_dict()}, separators=(",", ":")).encode()
    if len(encoded) > _BYTES:
        raise ValueError(f"the search space takes {len(encoded)} bytes of {_BYTES}; use fewer sections.")
    return torch.frombuffer(bytearray(encoded.ljust(_BYTES)), dtype=torch.uint8)


def describe_state(extra_state: Tensor) -> tuple[SearchSpace, SubnetConfig]:
    """Decode space and active subnet.

    Raises:
        ValueError: When the bytes are not a supernet's extra state.
    """
    try:
        state = json.loads(bytes(extra_state.cpu().tolist()))
        return SearchSpace.from_dict(state["space"]), SubnetConfig.from_dict(state["active"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"the extra state is not that of a prox_monai supernet: {error}") from None
