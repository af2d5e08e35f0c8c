"""Checks that name the file, and regions that become labels again."""

from __future__ import annotations

from importlib.util import find_spec

import nibabel as nib
import numpy as np
import pytest
import torch

if find_spec("monai") is None or find_spec("ignite") is None:
    pytest.skip('needs MONAI and ignite: pip install "prox-monai[monai]"', allow_module_level=True)

from monai.transforms import Compose, ConvertToMultiChannelBasedOnBratsClassesd, LoadImaged, MapLabelValued

from prox_monai.integrations.monai.transforms import CheckChannelsd, CheckLabelsd, RegionsToLabelsd


@pytest.fixture
def loaded(tmp_path):
    """Loads a volume of some values, channel first."""

    def load(values) -> dict[str, torch.Tensor]:
        path = tmp_path / "volume.nii.gz"
        nib.save(nib.Nifti1Image(np.asarray(values), np.eye(4)), path)
        return LoadImaged(["image"], ensure_channel_first=True)({"image": str(path)})

    return load


def test_the_right_number_of_channels_passes(loaded):
    data = loaded(np.zeros((2, 3, 4), np.float32))
    assert CheckChannelsd("image", 1)(data)["image"] is data["image"]
    assert CheckChannelsd("image", 4)({"image": torch.zeros(4, 2, 2)}).keys() == {"image"}


def test_another_number_of_channels_is_refused(loaded, tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path / 'volume.nii.gz'} has 4 channels, not 1"):
        CheckChannelsd("image", 1)(loaded(np.zeros((2, 3, 4, 4), np.float32)))
    with pytest.raises(ValueError, match="image has 1 channels, not 4"):
        CheckChannelsd("image", 4)({"image": torch.zeros(1, 2, 2)})


def test_labels_pass(loaded):
    for kind in (np.uint8, np.float32, np.int16):
        data = loaded(np.arange(3, dtype=kind).reshape(1, 1, 3))
        assert CheckLabelsd("image", 3)(data)["image"] is data["image"]


@pytest.mark.parametrize(("other", "said"), [(3, "3"), (-1, "-1"), (0.5, "0.5"), (np.nan, "nan")])
def test_other_labels_are_refused(loaded, tmp_path, other, said):
    with pytest.raises(ValueError, match=f"{tmp_path / 'volume.nii.gz'} has the label {said}, not 0 to 2"):
        CheckLabelsd("image", 3)(loaded(np.array([[[0, 1, other]]], np.float32)))


def test_the_later_label_wins():
    regions = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0]])[:, None]
    for kind in (torch.float32, torch.int64, torch.bool):
        data = {"pred": regions.to(kind), "other": 1}
        result = RegionsToLabelsd("pred", [0, 1, 2], [5, 6, 7])(data)
        assert result["pred"].tolist() == [[[5, 6, 7, 6, 0]]]
        assert result["other"] == 1
        assert data["pred"].shape == (3, 1, 5)
        assert RegionsToLabelsd("pred", [2, 1, 0], [7, 6, 5])(data)["pred"].tolist() == [[[5, 5, 5, 6, 0]]]


def test_regions_and_labels_must_be_as_many():
    with pytest.raises(ValueError, match="labels must be 3, one per region, got 2"):
        RegionsToLabelsd("pred", [0, 1, 2], [1, 2])


def test_regions_of_brain_tumours_map_back_to_the_decathlons_labels(loaded):
    """MONAI reads BraTS' coding: 1 core, 2 edema, 4 enhancing; the Decathlon's is 1 edema, 2 core, 3 enhancing."""
    data = loaded(np.array([[[0, 1, 2, 3]]], np.uint8))
    regions = Compose(
        [MapLabelValued("image", [1, 2, 3], [2, 1, 4]), ConvertToMultiChannelBasedOnBratsClassesd("image")]
    )(data)["image"]
    members = [torch.nonzero(region.flatten()).flatten().tolist() for region in regions]
    assert members == [[2, 3], [1, 2, 3], [3]]  # tumour core, whole tumour, enhancing tumour
    tumour_core, whole, enhancing = range(3)
    back = RegionsToLabelsd("image", [whole, tumour_core, enhancing], [1, 2, 3])({"image": regions})["image"]
    assert back.flatten().tolist() == [0, 1, 2, 3]
    assert back.shape == data["image"].shape
    assert torch.equal(back.affine, data["image"].affine)
