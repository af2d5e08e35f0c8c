"""Windows are those of nnU-Net's own prediction."""

from __future__ import annotations

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from prox_monai.integrations.nnunet.scoring import fold_cases
from prox_monai.integrations.nnunet.windows import patches_of, window_starts


@pytest.mark.parametrize("configuration", ["tiny", "tiny_2d", "tiny_flat"])
@pytest.mark.parametrize("shape", [(16, 24, 16), (20, 28, 21), (41, 70, 33)])
def test_they_are_nnunets(model, configuration, shape):
    planned = model.plans_manager.get_configuration(configuration)
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.configuration_manager = planned
    slicers = predictor._internal_get_sliding_window_slicers(shape)
    theirs = [tuple(part if isinstance(part, int) else part.start for part in slicer[1:]) for slicer in slicers]
    assert window_starts(shape, planned.patch_size) == theirs


def test_a_small_image_is_one_window():
    assert window_starts((10, 30, 9), (16, 24, 16)) == [(0, 0, 0), (0, 6, 0)]


@pytest.mark.parametrize(("configuration", "shape"), [("tiny", (16, 24, 16)), ("tiny_2d", (24, 16))])
def test_patches_are_parts_of_the_cases(model, folders, finished, configuration, shape):
    preprocessed = folders.preprocessed / folders.dataset
    planned = model.plans_manager.get_configuration(configuration)
    cases = fold_cases(preprocessed, 0)
    patches = list(patches_of(planned, preprocessed, cases, 5))
    assert [tuple(patch.shape) for patch in patches] == [(1, 1, *shape)] * 5
    assert all(patch.isfinite().all() and patch.std() > 0.1 for patch in patches)
    again = list(patches_of(planned, preprocessed, cases, 5))
    assert all(torch.equal(one, other) for one, other in zip(patches, again, strict=True))
    assert len(list(patches_of(planned, preprocessed, cases))) == len(cases)


def test_missing_data_are_named(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; run nnUNetv2_preprocess"):
        next(patches_of(model.configuration, tmp_path, ["case"]))
