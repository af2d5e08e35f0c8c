from __future__ import annotations

import sys

import pytest

from prox_monai.search.plots import bucket_picture, loss_picture, pareto_picture

pytest.importorskip("matplotlib")
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread


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
    marks.clear()
    loss_picture({"ours": curve}, tmp_path / "minutes.png", title="made up", over="minutes")
    assert marks == [(0.0, "depth"), (1.0, "depth"), (1.5, "width")]
    assert min(imread(tmp_path / "loss.png").shape[:2]) > 500


def test_without_matplotlib(rows, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pictures need matplotlib: pip install "prox-monai\[search\]"'):
        pareto_picture(rows, tmp_path / "pareto.png", title="none")


def test_pareto_picture_with_what_it_is_compared_to(rows, tmp_path, monkeypatch):
    lines, named, drawn = [], [], Axes.axvline
    monkeypatch.setattr(Axes, "axvline", lambda axes, x, **k: lines.append(x) or drawn(axes, x, **k))
    monkeypatch.setattr(Axes, "plot", lambda axes, x, y, **k: named.append((x, y, k["label"])))
    others = [{"name": "timed", "latency_ms": 30.0, "dice": None}, {"name": "trained", "latency_ms": 9.0, "dice": 0.9}]
    pareto_picture(rows, tmp_path / "pareto.png", title="with two others", buckets=2, others=others)
    assert lines == [12.0, 30.0]
    assert named[-1] == (9.0, 0.9, "trained 0.900")


def test_pareto_picture_points_at_what_is_named(rows, tmp_path, monkeypatch):
    named = []
    monkeypatch.setattr(Axes, "annotate", lambda axes, text, *a, **k: named.append(text))
    pareto_picture(rows, tmp_path / "pareto.png", title="one", named=["middle"])
    assert named == ["middle 0.830"]


def test_long_names_leave_the_axes_their_room(rows, tmp_path, monkeypatch):
    """Else the layout is given up, with a warning, which is an error here."""
    pointed, below, draw, write = [], [], Axes.annotate, Figure.supxlabel
    monkeypatch.setattr(Axes, "annotate", lambda axes, t, *a, **k: pointed.append(t) or draw(axes, t, *a, **k))
    monkeypatch.setattr(Figure, "supxlabel", lambda figure, t, **k: below.append(t) or write(figure, t, **k))
    named = [row | {"name": f"{row['name']}-{'.'.join('12345' * 12)}"} for row in rows if row["dice"] is not None]
    pareto_picture(named, tmp_path / "pareto.png", title="long names", named=[row["name"] for row in named])
    assert imread(tmp_path / "pareto.png").shape[0] > 500
    assert pointed == [f"{letter} {row['dice']:.3f}" for letter, row in zip("ABC", named, strict=True)]
    assert below == ["\n".join(f"{letter}: {row['name']}" for letter, row in zip("ABC", named, strict=True))]
