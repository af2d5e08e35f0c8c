"""Rows say how sure their figures are."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

if find_spec("monai") is None or find_spec("ignite") is None:
    pytest.skip('needs MONAI and ignite: pip install "prox-monai[monai]"', allow_module_level=True)

from ignite.engine import Engine, State

from prox_monai.evaluation.classification import balanced_accuracy, bootstrap_over_patients, macro_f1
from prox_monai.evaluation.interval import mean_interval
from prox_monai.evaluation.subnets import read_rows
from prox_monai.integrations.monai import PatientIntervals
from prox_monai.integrations.monai.choice import SubnetChoice
from prox_monai.integrations.monai.intervals import case_intervals
from prox_monai.integrations.monai.sampling import SubnetSamplingHandler

NAN, INF = float("nan"), float("inf")


def test_of_the_mean_over_cases():
    details = torch.tensor([[0.5, 0.7], [0.8, NAN], [NAN, NAN], [0.7, 0.9]])
    got = case_intervals({"dice": details, "hd95_mm": torch.tensor([[1.0], [INF], [2.0]]), "recall": torch.ones(3)})
    assert got.keys() == {"dice", "hd95_mm"}
    assert got["dice"] == pytest.approx(mean_interval([0.6, 0.8, 0.8]))
    assert got["hd95_mm"] is None
    assert case_intervals({"dice": details[:1]})["dice"] is None  # of one case


def test_a_row_has_the_interval_of_its_score(plain_family, evaluation, table, caplog):
    supernet = plain_family.supernet()
    sampling = SubnetSamplingHandler(supernet, (1, 8, 8), choice=SubnetChoice("smallest"), table=table)
    made = evaluation(plain_family, [sampling], network=supernet)
    with caplog.at_level("INFO"):
        made.evaluator.run()
    (row,) = read_rows(table)
    cases = made.evaluator.state.metric_details["dice"].double().nanmean(1).tolist()
    assert row["score_interval"] == row["intervals"]["dice"] == pytest.approx(mean_interval(cases))
    low, high = row["score_interval"]
    assert low < row["score"] < high
    assert f"{low:.3f} to {high:.3f}" in caplog.text


def classified(batches: int = 4) -> list[list[tuple[int, torch.Tensor, str]]]:
    noise = torch.Generator().manual_seed(0)
    items = [
        (int(torch.randint(3, (), generator=noise)), torch.rand(3, generator=noise), f"patient {number // 3}")
        for number in range(batches * 5)
    ]
    return [items[5 * batch : 5 * batch + 5] for batch in range(batches)]


def test_a_classifiers_are_by_a_bootstrap_over_patients():
    batches = classified()

    def update(engine: Engine, batch) -> list[dict]:
        engine.state.batch = [{"patient": patient} for _, _, patient in batch]
        return [{"label": torch.tensor(label), "pred": scores} for label, scores, _ in batch]

    engine = Engine(update)
    metrics = {"val_balanced_accuracy": balanced_accuracy, "val_macro_f1": macro_f1}
    PatientIntervals(metrics | {"never": lambda labels, scores: NAN}, resamples=50).attach(engine)
    engine.run(batches, max_epochs=2)  # each epoch for itself
    labels, scores, patients = zip(*(item for batch in batches for item in batch), strict=True)
    assert engine.state.intervals.pop("never") is None
    for name, metric in metrics.items():
        low, high = engine.state.intervals[name]
        expected = bootstrap_over_patients(torch.tensor(labels), torch.stack(scores), patients, metric, resamples=50)
        assert (low, high) == pytest.approx(expected[1:])
        assert low < high


def test_of_one_patient_there_is_none():
    engine = Engine(lambda engine, batch: [{"label": torch.tensor(0), "pred": torch.rand(3)}])
    PatientIntervals({"val_accuracy": balanced_accuracy}).attach(engine)
    engine.state.batch = []
    engine.add_event_handler("ITERATION_STARTED", lambda engine: setattr(engine.state, "batch", [{"patient": "a"}]))
    engine.run([0, 1])
    assert engine.state.intervals == {"val_accuracy": None}


def test_metrics_that_the_table_knows_are_columns(plain_family, table, caplog):
    """And what is not a number is none."""
    supernet = plain_family.supernet()
    handler = SubnetSamplingHandler(supernet, (1, 8, 8), choice=SubnetChoice("smallest"), table=table)
    engine = Engine(lambda engine, batch: None)
    engine.network, engine.data_loader = supernet, [0, 1]
    engine.state = State(key_metric_name="val_balanced_accuracy", device=torch.device("cpu"), metric_details={})
    handler.started(engine)
    handler.epoch_started(engine)
    engine.state.metrics = {"val_balanced_accuracy": 0.5, "val_macro_auc": 0.75, "hd95_mm": INF, "val_recall": [1, NAN]}
    engine.state.intervals = {"val_balanced_accuracy": [0.25, 0.75], "val_macro_auc": None}
    handler.epoch_completed(engine)
    (row,) = read_rows(table)
    assert (row["macro_auc"], row["hd95_mm"], row["metrics"]["val_recall"]) == (0.75, None, [1.0, None])
    assert row["intervals"] == {"val_balanced_accuracy": row["score_interval"], "val_macro_auc": None}
    with caplog.at_level("INFO"):
        handler.completed(engine)
    assert "AUC" in caplog.text
    assert "0.250 to 0.750" in caplog.text
