"""How sure the metrics of an evaluator are: 95 % intervals over cases, or over patients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor

from prox_monai.evaluation.classification import (
    Metric,
    accuracy,
    balanced_accuracy,
    bootstrap_over_patients,
    macro_auc,
    macro_f1,
)
from prox_monai.evaluation.interval import mean_interval
from prox_monai.integrations.monai.ranks import from_all_ranks

METRICS: Mapping[str, Metric] = {
    f"val_{metric.__name__}": metric for metric in (accuracy, balanced_accuracy, macro_auc, macro_f1)
}
"""Those of the bundles' classifiers, by name."""

Intervals = dict[str, list[float] | None]


def case_intervals(details: Mapping[str, Any]) -> Intervals:
    """Return Student's t interval of each metric that has a value per case and class: of the mean of the cases' means.

    Where a value is infinite, as the distance to a structure that was not found, there is none.

    Args:
        details: ``engine.state.metric_details``.
    """
    of_cases = {name: each for name, each in details.items() if isinstance(each, Tensor) and each.ndim == 2}
    return {name: _interval(each.double().nanmean(1)) for name, each in of_cases.items()}


def _interval(cases: Tensor) -> list[float] | None:
    return None if cases.isinf().any() else _finite(mean_interval(cases[~cases.isnan()].tolist()))


def _finite(ends: Sequence[float] | None) -> list[float] | None:
    """An interval with two ends, or none."""
    return None if ends is None or not all(map(math.isfinite, ends)) else list(ends)


class PatientIntervals:
    """Let an evaluator of a classifier keep what it predicts, for intervals by a bootstrap over patients.

    They are in ``engine.state.intervals`` at the end of an epoch, 95 % each. Images of a patient are drawn together,
    see :func:`~prox_monai.evaluation.classification.bootstrap_over_patients`.

    Args:
        metrics: functions of labels ``(N,)`` and probabilities ``(N, classes)``, by the names that they have in the
            evaluator, whose output is decollated: a ``label`` and a ``pred`` of shape ``(classes,)`` per image.
        patient: key of an item of the data, whom it is of.
        resamples: number of draws.
    """

    def __init__(
        self, metrics: Mapping[str, Metric] = METRICS, *, patient: str = "patient", resamples: int = 1000
    ) -> None:
        self.metrics, self.patient, self.resamples = dict(metrics), patient, resamples
        self._seen: list[tuple[int, Tensor, str]] = []

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator, before the handler that reads the intervals."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.keep)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.estimate)

    def begin(self, engine: Engine) -> None:
        """Forget the epoch before."""
        self._seen = []

    def keep(self, engine: Engine) -> None:
        """Keep labels and probabilities of a batch, with whom they are of."""
        for item, predicted in zip(engine.state.batch, engine.state.output, strict=True):
            probabilities = torch.as_tensor(predicted["pred"]).detach().cpu()
            self._seen.append((int(predicted["label"]), probabilities, str(item[self.patient])))

    def estimate(self, engine: Engine) -> None:
        """Write the intervals into the engine's state; of fewer than two patients there are none."""
        labels, probabilities, patients = zip(*from_all_ranks(self._seen), strict=True)
        predictions, truth = torch.stack(probabilities), torch.tensor(labels)
        engine.state.intervals = dict[str, list[float] | None].fromkeys(self.metrics)
        if len(set(patients)) > 1:
            engine.state.intervals = {
                name: _finite(self._ends(truth, predictions, patients, metric)) for name, metric in self.metrics.items()
            }

    def _ends(self, labels: Tensor, predictions: Tensor, patients: Sequence[str], metric: Metric) -> Sequence[float]:
        return bootstrap_over_patients(labels, predictions, patients, metric, resamples=self.resamples)[1:]
