from __future__ import annotations

import sys

import numpy as np
import pytest

from prox_monai.search.plots import bucket_picture, loss_picture, pareto_picture, prediction_picture

pytest.importorskip("matplotlib")
from matplotlib.axes import Axes
from matplotlib.image import imread


def volume() -> np.ndarray:
    labels = np.zeros((12, 20, 16), np.uint8)
    labels[4:9, 8:12, 5:10], labels[4:9, 12:16, 5:10] = 1, 2
    return labels


def draw(path, image, truth, prediction):
    prediction_picture(image, truth, prediction, path, title="case", source="made up", labels=["head", "tail"])


def test_pareto_picture(rows, tmp_path, monkeypatch):
    named, drawn = [], Axes.annotate
    monkeypatch.setattr(Axes, "annotate", lambda axes, text, *a, **k: named.append(text) or drawn(axes, text, *a, **k))
    pareto_picture(rows, tmp_path / "pareto.png", title="four subnets")
    height, width, _ = imread(tmp_path / "pareto.png").shape
    assert height > 500
    assert width > 800
    assert named == ["smallest 0.790", "middle 0.830", "largest 0.860"]


def test_pareto_picture_of_many_resolutions(rows, tmp_path, monkeypatch):
    drawn, scatter = [], Axes.scatter
    monkeypatch.setattr(Axes, "scatter", lambda axes, x, *a, **k: drawn.extend(x) or scatter(axes, x, *a, **k))
    many = [rows[0] | {"latency_ms": i, "config": rows[0]["config"] | {"resolution": i / 10}} for i in range(1, 8)]
    pareto_picture(many, tmp_path / "pareto.png", title="seven resolutions")
    assert drawn == [1, 2, 3, 4, 5, 6, 7]


def test_pareto_picture_needs_a_dice(rows, tmp_path):
    with pytest.raises(ValueError, match="there is no row with a dice to draw in .*pareto.png"):
        pareto_picture(rows[1:2], tmp_path / "pareto.png", title="none")
    assert not (tmp_path / "pareto.png").exists()


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


def test_bucket_picture(tmp_path, monkeypatch):
    boxes, drawn = [], Axes.boxplot
    monkeypatch.setattr(Axes, "boxplot", lambda axes, x, *a, **k: boxes.append(x) or drawn(axes, x, *a, **k))
    scores = {"ours": [(1.0, 0.8), (2.0, 0.81), (8.0, 0.9)], "theirs": [(1.0, 0.7), (9.0, 0.75)]}
    bucket_picture(scores, tmp_path / "buckets.png", title="made up", buckets=2)
    assert boxes == [[[0.8, 0.81], [0.9]], [[0.7], [0.75]]]
    assert min(imread(tmp_path / "buckets.png").shape[:2]) > 500


def test_bucket_picture_needs_a_latency_per_bucket(tmp_path):
    with pytest.raises(ValueError, match=r"buckets must be in 1 ... 1, got 5"):
        bucket_picture({"ours": [(1.0, 0.8)]}, tmp_path / "buckets.png", title="made up")


def test_loss_picture_marks_the_phases(tmp_path, monkeypatch):
    marks, drawn = [], Axes.text
    monkeypatch.setattr(
        Axes, "text", lambda axes, x, y, text, **k: marks.append((x, text)) or drawn(axes, x, y, text, **k)
    )
    curve = {
        "loss": [0.9, 0.8, 0.85, 0.7],
        "seconds": [30.0] * 4,
        "phase": [0, 0, 1, 2],
        "stage": ["depth", "depth", "depth", "width"],
    }
    loss_picture({"ours": curve, "theirs": curve}, tmp_path / "loss.png", title="made up")
    assert marks == [(0.5, "depth"), (2.5, "depth"), (3.5, "width")] * 2
    assert min(imread(tmp_path / "loss.png").shape[:2]) > 500


def test_without_matplotlib(rows, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pictures need matplotlib: pip install "prox-monai\[search\]"'):
        pareto_picture(rows, tmp_path / "pareto.png", title="none")
