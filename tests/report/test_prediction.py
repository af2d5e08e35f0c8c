from __future__ import annotations

import numpy as np
import pytest

from prox_monai.report.prediction import prediction_picture

pytest.importorskip("matplotlib")
from matplotlib.image import imread


def volume() -> np.ndarray:
    labels = np.zeros((12, 20, 16), np.uint8)
    labels[4:9, 8:12, 5:10], labels[4:9, 12:16, 5:10] = 1, 2
    return labels


def draw(path, image, truth, prediction):
    prediction_picture(image, truth, prediction, path, title="case", source="made up", labels=["head", "tail"])


def test_prediction_picture(tmp_path):
    image, truth = np.random.default_rng(0).random((12, 20, 16)), volume()
    draw(tmp_path / "right.png", image, truth, truth)
    draw(tmp_path / "wrong.png", image, truth, np.roll(truth, 2, 1))
    right, wrong = imread(tmp_path / "right.png"), imread(tmp_path / "wrong.png")
    assert min(right.shape[:2]) > 700
    assert right.shape == wrong.shape
    third = right.shape[1] // 3
    changed = (right != wrong).any((0, 2))
    assert changed[2 * third :].any()
    assert not changed[: 2 * third - 20].any()


def test_prediction_picture_of_an_empty_case(tmp_path):
    empty = np.zeros((12, 20, 16), np.uint8)
    draw(tmp_path / "empty.png", empty + 1.0, empty, empty)
    assert (tmp_path / "empty.png").stat().st_size > 5000


def test_prediction_picture_wants_one_shape(tmp_path):
    truth = volume()
    with pytest.raises(ValueError, match=r"must have one shape, got \(12, 20, 16\), \(12, 20, 16\) and \(6, 20, 16\)"):
        draw(tmp_path / "x.png", truth, truth, truth[::2])
