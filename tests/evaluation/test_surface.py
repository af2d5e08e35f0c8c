from __future__ import annotations

import math
import sys

import pytest
import torch

from prox_monai.evaluation.surface import surface_scores


def block(start: int, stop: int) -> torch.Tensor:
    mask = torch.zeros(16, 16, 16, dtype=torch.bool)
    mask[start:stop, 4:12, 4:12] = True
    return mask


@pytest.fixture(autouse=True)
def needs_monai():
    pytest.importorskip("monai")


def test_equal_masks():
    assert surface_scores(block(4, 12), block(4, 12), (1, 1, 1), 1.0) == {"nsd": 1.0, "hd95_mm": 0.0}


def test_distances_are_millimetres():
    """One face lies two voxels of 3 mm too far: 6 mm, which a tolerance of 6 mm forgives."""
    shifted = block(4, 14), block(4, 12)
    assert surface_scores(*shifted, (3, 1, 1), 6.0)["nsd"] == 1.0
    scores = surface_scores(*shifted, (3, 1, 1), 1.0)
    assert scores["nsd"] < 0.9
    assert scores["hd95_mm"] == 6.0
    assert surface_scores(*shifted, (1, 1, 1), 1.0)["hd95_mm"] == 2.0


def test_two_dimensions():
    masks = block(4, 12)[:, 8], block(4, 14)[:, 8]
    assert surface_scores(*masks, (1, 1), 1.0)["hd95_mm"] == 2.0


def test_empty_masks():
    empty, some = torch.zeros(16, 16, 16, dtype=torch.bool), block(4, 12)
    assert all(math.isnan(value) for value in surface_scores(empty, empty, (1, 1, 1), 1.0).values())
    for masks in ((empty, some), (some, empty)):
        scores = surface_scores(*masks, (2, 1, 1), 1.0)
        assert scores == {"nsd": 0.0, "hd95_mm": pytest.approx(math.sqrt(30**2 + 15**2 + 15**2))}


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"masks must have one shape, got \(16, 16, 16\) and \(16, 16, 8\)"):
        surface_scores(block(4, 12), block(4, 12)[..., :8], (1, 1, 1), 1.0)


def test_without_monai(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.metrics", None)
    with pytest.raises(ImportError, match=r'surface distances need MONAI: pip install "prox-monai\[monai\]"'):
        surface_scores(block(4, 12), block(4, 12), (1, 1, 1), 1.0)
