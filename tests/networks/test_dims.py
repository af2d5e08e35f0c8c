from __future__ import annotations

import pytest
from torch import nn

from prox_monai.networks import dims


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("conv", "Conv"),
        ("transposed_conv", "ConvTranspose"),
        ("instance_norm", "InstanceNorm"),
        ("batch_norm", "BatchNorm"),
    ],
)
def test_class_of_each_dimension(name, stem):
    select = getattr(dims, name)
    assert select(2) is getattr(nn, f"{stem}2d")
    assert select(3) is getattr(nn, f"{stem}3d")
    with pytest.raises(ValueError, match="spatial_dims must be 2 or 3, got 1"):
        select(1)
