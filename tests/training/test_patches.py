from __future__ import annotations

import itertools
import random

import pytest
import torch

from prox_monai.elastic import scaled_size
from prox_monai.training.patches import cropped, growing_sizes, random_origin, size_at

HIPPOCAMPUS = (40, 56, 40)
STRIDE = (8, 8, 8)


def test_a_patch_grows_along_the_axis_that_is_shortest_for_its_share():
    assert growing_sizes(HIPPOCAMPUS, STRIDE) == (
        (24, 32, 24),
        (24, 40, 24),
        (32, 40, 24),
        (32, 40, 32),
        (32, 48, 32),
        (40, 48, 32),
        (40, 48, 40),
        (40, 56, 40),
    )


def test_parts_have_nearly_the_scale_of_the_whole():
    """At .8, 24 of 40 voxels would become 16, which is .67 of them, as at .6."""
    assert growing_sizes(HIPPOCAMPUS, STRIDE, (0.8, 1)) == (
        (32, 40, 32),
        (32, 48, 32),
        (40, 48, 32),
        (40, 48, 40),
        (40, 56, 40),
    )


@pytest.mark.parametrize(
    ("size", "stride", "resolutions"),
    [
        (HIPPOCAMPUS, STRIDE, (0.6, 0.8, 1)),
        ((128, 128, 128), (32, 32, 32), (0.6,)),
        ((20, 320, 256), (4, 64, 64), (0.8,)),
        ((64,), (4,), (1,)),
    ],
)
def test_every_size_holds_the_centre_and_two_voxels_at_the_bottleneck(size, stride, resolutions):
    sizes = growing_sizes(size, stride, resolutions)
    assert sizes[-1] == size
    assert len(set(sizes)) == len(sizes)
    for patch, larger in itertools.pairwise(sizes):
        grown = [b - a for a, b in zip(patch, larger, strict=True)]
        assert sorted(grown)[:-1] == [0] * (len(size) - 1)
    for patch in sizes:
        assert all(2 * n >= whole for n, whole in zip(patch, size, strict=True))
        for resolution in resolutions:
            whole = scaled_size(size, stride, resolution)
            for axis, n in enumerate(scaled_size(patch, stride, resolution)):
                assert n >= 2 * stride[axis] or n == whole[axis]
                assert n / patch[axis] == pytest.approx(whole[axis] / size[axis], rel=0.1)


def test_a_patch_too_small_to_grow_stays_as_it_is():
    assert growing_sizes((16, 16), (16, 16)) == ((16, 16),)
    assert growing_sizes((32, 32), (16, 16), (0.6,)) == ((32, 32),)


def test_each_size_lasts_as_long_and_the_last_epoch_is_full():
    sizes = growing_sizes(HIPPOCAMPUS, STRIDE)
    lasting = [size_at(sizes, epoch, 80) for epoch in range(80)]
    assert lasting == [size for size in sizes for _ in range(10)]
    assert [size_at(sizes, epoch, 3) for epoch in range(3)] == [sizes[2], sizes[5], sizes[7]]
    assert size_at(sizes[-1:], 0, 1) == HIPPOCAMPUS


def test_origins_are_aligned_and_all_that_hold_the_centre_are_drawn():
    rng = random.Random(0)
    drawn = {random_origin(rng, (40, 56), (24, 32), (8, 8)) for _ in range(200)}
    assert drawn == {(x, y) for x in (0, 8, 16) for y in (0, 8, 16, 24)}
    assert {random_origin(rng, (40, 56), (40, 56), (8, 8)) for _ in range(20)} == {(0, 0)}
    narrow = {random_origin(rng, (64,), (32,), (8,)) for _ in range(200)}
    assert narrow == {(8,), (16,), (24,), (32,)}  # not 0, whose patch ends before voxel 32


def test_targets_at_fractions_of_the_size_are_cut_to_the_same_place():
    x = torch.arange(16 * 24.0).reshape(1, 1, 16, 24)
    coarse = x[..., ::2, ::4]
    image, (fine, low) = (cropped(value, (16, 24), (8, 8), (8, 16)) for value in (x, [x, coarse]))
    assert torch.equal(image, x[..., 8:16, 8:24])
    assert torch.equal(fine, image)
    assert torch.equal(low, image[..., ::2, ::4])
    assert torch.equal(cropped(x[0], (16, 24), (8, 8), (8, 16)), image[0])


@pytest.mark.parametrize("shape", [(4,), (4, 24), (4, 1, 5, 24)])
def test_targets_that_are_no_images_are_refused(shape):
    with pytest.raises(ValueError, match=r"patch must be 'full' where targets are not images .* shape \[4"):
        cropped(torch.zeros(shape), (16, 24), (8, 8), (8, 16))
