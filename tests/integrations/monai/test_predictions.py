from __future__ import annotations

import csv

import pytest
import torch

pytest.importorskip("ignite", reason='needs pip install "prox-monai[monai]"')

from ignite.engine import Engine
from monai.data import MetaTensor
from monai.handlers import ClassificationSaver, from_engine

from prox_monai.integrations.monai import ClassPredictionSaver


@pytest.fixture
def saved(tmp_path):
    """Saves the predictions of two batches with MONAI's handler, twice."""
    batches = [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], [[0.25, 0.5, 0.25]]

    def predict(engine: Engine, batch: list[dict]) -> list[dict]:
        return [{"pred": item["image"].as_tensor()} for item in batch]

    engine = Engine(predict)
    ClassificationSaver(
        saver=ClassPredictionSaver(tmp_path / "eval", ("first", "a, second", "third")),
        batch_transform=lambda batch: [item["image"].meta for item in batch],
        output_transform=from_engine("pred"),
    ).attach(engine)
    names = iter(("one.png", "two.jpeg", "three.jpeg"))
    data = [
        [{"image": MetaTensor(torch.tensor(row), meta={"filename_or_obj": next(names)})} for row in batch]
        for batch in batches
    ]
    for _ in range(2):
        engine.run(data)
    return tmp_path / "eval" / "predictions.csv"


def test_a_row_per_image(saved):
    with saved.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["file", "first", "a, second", "third", "class"],
        ["one.png", "0.700000", "0.200000", "0.100000", "first"],
        ["two.jpeg", "0.100000", "0.300000", "0.600000", "third"],
        ["three.jpeg", "0.250000", "0.500000", "0.250000", "a, second"],
    ]
