"""The picture of what a search scored."""

from __future__ import annotations

import textwrap
from pathlib import Path

from prox_monai.export.runtimes import runtime_maker
from prox_monai.integrations.nnunet.planned import planned_costs
from prox_monai.integrations.nnunet.search import Found
from prox_monai.integrations.nnunet.trained import TrainedModel
from prox_monai.search.latency import Conditions, MakeRuntime
from prox_monai.search.plots import pareto_picture
from prox_monai.search.predictor import SubnetLatency

_NAMED = 5  # subnets at most
_BUCKETS = 5  # as figure 4 of the paper
_TITLE = 70  # characters in a line


def draw_found(
    found: Found, model: TrainedModel, latency: SubnetLatency | None, path: Path, chosen: str | None = None
) -> None:
    """Draw Dice against the cost that was weighed, in buckets, with the network that nnU-Net plans where it is known.

    Args:
        found: by a search.
        model: the trained model.
        latency: of subnets, if it was known; the planned network is timed where it is of this device.
        path: the PNG to write.
        chosen: canonical name of a subnet that is pointed at; if not given, the front is, where it is short.
    """
    cost = "memory_bytes" if found.cost == "memory_mb" else found.cost
    conditions = latency and latency.predictor.conditions
    planned = planned_costs(model, conditions and _maker_here(conditions))
    keys = {row["key"] for row in found.reporting} if chosen is None else {chosen}
    named = {row["name"] for row in found.tuning if row["key"] in keys}
    about = f"{len(found.tuning)} subnets on the tuning half of fold {model.fold}"
    pareto_picture(
        found.tuning,
        path,
        title=f"{about}\n{textwrap.fill(str(conditions), _TITLE)}" if conditions else about,
        cost=cost,
        named=named if len(named) <= _NAMED else (),
        buckets=_BUCKETS,
        others=[planned] if planned[cost] is not None else [],
    )


def _maker_here(conditions: Conditions) -> MakeRuntime | None:
    """Make the runtime of a table, where the table is of this device; else there is nothing to compare with."""
    make = runtime_maker(conditions.runtime, conditions.threads)
    try:
        return make if Conditions.here(conditions.runtime, make, conditions.threads) == conditions else None
    except ImportError:  # another device may have runtimes that are not here
        return None
