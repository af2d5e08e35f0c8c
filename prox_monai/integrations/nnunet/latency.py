"""The latency of a trained model's subnets on this device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqdm import tqdm

from prox_monai.export.runtimes import runtime_maker
from prox_monai.integrations.nnunet.trained import TrainedModel
from prox_monai.search.latency import Conditions, Plan, measure_latencies
from prox_monai.search.predictor import SubnetLatency, read_table


def measured_latency(model: TrainedModel, runtime: str, threads: int, table: str | Path, **sizes: Any) -> SubnetLatency:
    """Measure what a latency table lacks of this device and runtime, and return the latency of any subnet by it.

    Args:
        model: the trained model.
        runtime: a name in :data:`~prox_monai.export.formats.RUNTIMES`.
        threads: of it.
        table: JSON lines; times that it holds are not taken again.
        sizes: ``fit`` and ``held_out`` of :meth:`~prox_monai.search.latency.Plan.of`.

    Raises:
        ImportError: When the runtime is not installed.
        RuntimeError: When this machine measures for this table already.
        ValueError: When the table is damaged, or holds too few networks to fit to.
    """
    make = runtime_maker(runtime, threads)
    here = Conditions.here(runtime, make, threads)
    plan = Plan.of(model.supernet, model.space, model.input_shape, **sizes)
    rows = measure_latencies(model.supernet, plan, model.input_shape, make, here, table)
    for _ in tqdm(rows, total=plan.size, desc=f"latency, {runtime}", disable=None, leave=False):
        pass
    return SubnetLatency(read_table(table, here), model.supernet.architecture, model.input_shape)
