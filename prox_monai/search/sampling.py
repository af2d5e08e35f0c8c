"""Random subnets, always the same."""

from __future__ import annotations

import random
from collections.abc import Collection

from prox_monai.space import SearchSpace, SubnetConfig


def random_subnets(
    space: SearchSpace, count: int, seed: int = 0, without: Collection[SubnetConfig] | None = None
) -> list[SubnetConfig]:
    """Return distinct random subnets, always the same; as many as there are where there are fewer.

    Args:
        space: where they are drawn.
        count: how many.
        seed: of the draw.
        without: subnets that are not wanted.
    """
    unwanted = set(without or ())
    left = space.size() - sum(config in space for config in unwanted)
    if left <= count:
        return [config for config in space if config not in unwanted]
    rng, chosen = random.Random(f"subnets:{seed}"), dict[SubnetConfig, None]()
    while len(chosen) < count:
        config = space.sample(rng)
        if config not in unwanted:
            chosen[config] = None
    return list(chosen)
