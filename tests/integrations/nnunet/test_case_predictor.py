"""One image through nnU-Net's preprocessing, a network of the test's own, and back."""

from __future__ import annotations

import dataclasses

import nibabel
import numpy as np
import pytest
import torch
from torch import nn

from prox_monai.integrations.nnunet.case_predictor import CasePredictor
from prox_monai.integrations.nnunet.deployed import from_trained
from prox_monai.integrations.nnunet.images import Case

LABELS = {"background": 0, "bright": 1, "brightest": 2}
REGIONS = {"background": 0, "all": [1, 2], "core": 2}


class Thresholds(nn.Module):
    """Logits that are positive where the normalised image is above each threshold."""

    def __init__(self, *thresholds: float, background: bool) -> None:
        super().__init__()
        self.thresholds, self.background = thresholds, background

    def forward(self, x):
        logits = [torch.zeros_like(x)] if self.background else []
        return torch.cat(logits + [(1 + index) * (x - value) for index, value in enumerate(self.thresholds)], 1)


@pytest.fixture
def deployed(model):
    """A predictor of the small model's preprocessing with another network and other labels."""

    def make(network, **dataset):
        made = from_trained(model, model.space.smallest())
        return dataclasses.replace(made, network=network, dataset_json=made.dataset_json | dataset)

    return make


@pytest.fixture
def case(tmp_path) -> Case:
    """An image with a cube of 6 voxels in it, in which one of 3 is brighter still."""
    values = np.random.default_rng(0).normal(100, 1, (20, 28, 20))
    values[4:10, 6:12, 5:11] = 200
    values[5:8, 7:10, 6:9] = 400
    nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    return Case("a", (tmp_path / "a.nii.gz",))


@pytest.mark.parametrize("mirror", [True, False])
def test_labels(deployed, case, mirror, tmp_path):
    made = deployed(Thresholds(0.5, 5.0, background=True), labels=LABELS)
    predicted = CasePredictor(made, mirror=mirror).write(case, tmp_path / "label.nii.gz")
    label = np.asanyarray(nibabel.load(tmp_path / "label.nii.gz").dataobj)
    inside = np.zeros((20, 28, 20), dtype=np.uint8)
    inside[4:10, 6:12, 5:11] = 1
    inside[5:8, 7:10, 6:9] = 2
    assert np.mean(label == inside) > 0.99  # resampling may blur the edges
    assert predicted.voxels == {"bright": np.count_nonzero(label == 1), "brightest": np.count_nonzero(label == 2)}


def test_regions_count_the_numbers_that_are_written_for_them(deployed, case, tmp_path):
    network = Thresholds(0.5, 5.0, background=False)
    made = deployed(network, labels=REGIONS, regions_class_order=[1, 2])
    predicted = CasePredictor(made, mirror=False).write(case, tmp_path / "label.nii.gz")
    label = np.asanyarray(nibabel.load(tmp_path / "label.nii.gz").dataobj)
    assert predicted.voxels == {"all": np.count_nonzero(label == 1), "core": np.count_nonzero(label == 2)}
    assert predicted.voxels["core"] > 0


def test_mirroring_runs_along_the_models_axes(deployed, case):
    class Counted(Thresholds):
        passes = 0

        def forward(self, x):
            self.passes += 1
            return super().forward(x)

    counts = {}
    for mirror in (True, False):
        network = Counted(0.5, 5.0, background=True)
        CasePredictor(deployed(network, labels=LABELS), mirror=mirror).segment(case)
        counts[mirror] = network.passes
    assert counts[True] == 8 * counts[False]


def test_a_failure_leaves_no_file(deployed, case, tmp_path):
    predictor = CasePredictor(deployed(Thresholds(0.5, float("nan"), background=True)), mirror=False)
    predictor._reader.write_seg = None
    with pytest.raises(TypeError):
        predictor.write(case, tmp_path / "label.nii.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]
