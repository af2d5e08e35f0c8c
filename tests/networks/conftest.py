"""What the tests of U-Nets of inverted residuals share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from prox_monai.networks import InvertedUNetArchitecture


@pytest.fixture
def inverted() -> Callable[..., InvertedUNetArchitecture]:
    """Make a rule of three levels, one of them with an odd number of channels; in 3-D with an anisotropic level."""

    def make(spatial_dims: int = 2, **fields) -> InvertedUNetArchitecture:
        one, two = (1,) * spatial_dims, (2,) * spatial_dims
        flat = (1,) * (spatial_dims - 2)
        planned = {
            "channels": (6, 7, 10),
            "strides": (one, (*flat, 2, 2), two),
            "planned_kernels": ((*flat, 3, 3), (3,) * spatial_dims, (3,) * spatial_dims),
        }
        return InvertedUNetArchitecture(spatial_dims, 1, 3, **planned | fields)

    return make
