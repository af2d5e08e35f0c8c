from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from prox_monai.data import check_decathlon, read_decathlon, to_nnunet_raw


def test_real_hippocampus(real_data, tmp_path):
    dataset = read_decathlon(real_data / "Task04_Hippocampus")
    check_decathlon(dataset)
    assert dataset.labels == ("background", "Anterior", "Posterior")
    target = to_nnunet_raw(dataset, tmp_path, 4)
    labels = sorted((target / "labelsTr").iterdir())
    assert target.name == "Dataset004_Hippocampus"
    assert len(labels) == len(dataset.cases) == len(list((target / "imagesTr").iterdir()))
    assert {nib.load(path).get_data_dtype().kind for path in labels} == {"u"}


def test_real_brain_tumour(real_data, tmp_path):
    folder = real_data / "Task01_BrainTumour_slabs"
    if not folder.is_dir():
        pytest.skip(f"no Task01_BrainTumour_slabs in {real_data}")
    dataset = read_decathlon(folder)
    check_decathlon(dataset)
    target = to_nnunet_raw(dataset, tmp_path, 1)
    assert target.name == "Dataset001_BrainTumour_slabs"
    image = nib.load(dataset.cases[0][1])
    split = nib.load(target / "imagesTr" / "BRATS_009_0002.nii.gz")
    assert np.array_equal(split.dataobj, np.asarray(image.dataobj)[..., 2])
    assert np.array_equal(split.affine, image.affine)
