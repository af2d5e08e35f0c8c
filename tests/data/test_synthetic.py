from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from prox_monai.data import check_decathlon, read_decathlon, write_synthetic_decathlon
from prox_monai.data.synthetic import make_case

SIZE = (36, 50, 36)


def load(path):
    return np.asarray(nib.load(path).dataobj)


def cases_of(seed, count=4, size=SIZE):
    return [make_case(np.random.default_rng((seed, case)), size) for case in range(count)]


def dice(predicted, true):
    return 2 * (predicted & true).sum() / (predicted.sum() + true.sum())


def test_folder_is_a_valid_decathlon_folder_that_says_it_is_synthetic(folder):
    dataset = read_decathlon(folder)
    check_decathlon(dataset)
    assert [identifier for identifier, _, _ in dataset.cases] == [
        "synthetic_001",
        "synthetic_002",
        "synthetic_003",
    ]
    assert dataset.labels == ("background", "head", "tail")
    assert "SYNTHETIC" in json.loads((folder / "dataset.json").read_text())["description"]


def test_files_hold_the_drawn_arrays_at_one_millimetre(folder):
    for case, (_, image_path, label_path) in enumerate(read_decathlon(folder).cases):
        image, label = make_case(np.random.default_rng((0, case)), (12, 16, 12))
        assert np.array_equal(load(image_path), image)
        assert np.array_equal(load(label_path), label)
        assert nib.load(label_path).header.get_zooms() == (1, 1, 1)
        assert (image.dtype, label.dtype) == (np.float32, np.uint8)


def test_seed_decides_the_arrays_and_the_number_of_cases_does_not(folder, tmp_path):
    again = write_synthetic_decathlon(tmp_path / "again", cases=1, size=(12, 16, 12))
    other = write_synthetic_decathlon(tmp_path / "other", cases=1, size=(12, 16, 12), seed=1)
    file = "imagesTr/synthetic_001.nii.gz"
    assert np.array_equal(load(folder / file), load(again / file))
    assert not np.array_equal(load(folder / file), load(other / file))


@pytest.mark.parametrize("size", [(12, 12, 12), SIZE])
def test_every_case_has_both_structures_side_by_side(size):
    for _, label in cases_of(seed=3, count=6, size=size):
        assert set(np.unique(label)) == {0, 1, 2}
        touching = sum(
            ((np.take(label, range(n - 1), axis) * np.take(label, range(1, n), axis)) == 2).sum()
            for axis, n in enumerate(label.shape)
        )
        assert touching > 0


def test_sizes_and_intensities_vary():
    cases = cases_of(seed=0, count=20)
    shapes = np.array([image.shape for image, _ in cases])
    assert (np.abs(shapes - SIZE) <= np.rint(0.1 * np.array(SIZE))).all()
    assert (shapes.std(0) > 0).all()
    maxima = [image.max() for image, _ in cases]
    assert max(maxima) / min(maxima) > 1000
    assert all(image.min() >= 0 for image, _ in cases)


def test_no_intensity_band_finds_the_body():
    for image, label in cases_of(seed=0):
        bounds = np.percentile(image, range(0, 101, 5))
        best = max(
            dice((image >= low) & (image <= high), label > 0)
            for i, low in enumerate(bounds)
            for high in bounds[i + 1 :]
        )
        assert best < 0.5


def test_body_is_darker_than_what_touches_it():
    contrasts = []
    for image, label in cases_of(seed=0):
        body = label > 0
        near = np.zeros_like(body)
        for axis in range(3):
            for step in (-1, 1):
                near |= np.roll(body, step, axis)
        rim = near & ~body
        contrasts.append(image[body].mean() / image[rim].mean())
    assert np.mean(contrasts) < 0.76


def test_refuses_a_folder_that_holds_something(tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is not empty; choose another folder or remove it"):
        write_synthetic_decathlon(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_fills_an_empty_folder(tmp_path):
    assert len(read_decathlon(write_synthetic_decathlon(tmp_path, cases=1, size=(12, 12, 12))).cases) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cases": 0}, "cases must be at least 1, not 0"),
        ({"size": (36, 50)}, r"size must be three axes of at least 12 voxels, not \(36, 50\)"),
        ({"size": (36, 50, 8)}, r"not \(36, 50, 8\)"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_synthetic_decathlon(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()
