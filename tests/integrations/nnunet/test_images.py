"""Images that cannot be predicted are named before any work; all others are cases."""

from __future__ import annotations

import copy
import dataclasses

import nibabel
import numpy as np
import pytest

from prox_monai.integrations.nnunet.deployed import from_trained
from prox_monai.integrations.nnunet.images import Case, check_cases, find_cases, read_case
from prox_monai.integrations.nnunet.windows import window_starts

AFFINE = np.diag([1.0, 1.0, 1.0, 1.0])


@pytest.fixture
def deployed(model):
    return from_trained(model, model.space.smallest())


@pytest.fixture
def write(tmp_path):
    """Write an image of noise, or of given values."""

    def run(name: str, values=None, shape=(20, 28, 20)):
        values = np.random.default_rng(0).normal(100, 20, shape) if values is None else values
        nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), AFFINE), tmp_path / name)
        return tmp_path / name

    return run


def test_cases_of_one_channel_may_be_called_anything(tmp_path, write):
    for name in ("a_0000.nii.gz", "b.nii.gz", "notes.txt", "scan_2023.nii.gz", "scan_2024.nii.gz", "._b.nii.gz"):
        (tmp_path / name).write_bytes(b"")
    assert [case.name for case in find_cases(tmp_path, ".nii.gz", 1)] == ["a", "b", "scan_2023", "scan_2024"]
    assert [case.name for case in find_cases(tmp_path / "scan_2024.nii.gz", ".nii.gz", 1)] == ["scan_2024"]
    assert [case.name for case in find_cases(tmp_path / "a_0000.nii.gz", ".nii.gz", 1)] == ["a"]


def test_a_case_is_known_by_the_content_of_its_files(tmp_path):
    for name, content in (("a_0000", b"1"), ("a_0001", b"2"), ("b_0000", b"2"), ("b_0001", b"1"), ("c_0000", b"1")):
        (tmp_path / f"{name}.nii.gz").write_bytes(content)
    digests = {case.name: case.digest for case in find_cases(tmp_path, ".nii.gz", 2)}
    assert len(set(digests.values())) == 3
    again = Case("anything", (tmp_path / "a_0000.nii.gz", tmp_path / "b_0000.nii.gz"))
    assert again.digest == digests["a"]


def test_channels_are_in_order(tmp_path):
    for name in ("a_0001.nii.gz", "a_0000.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz"):
        (tmp_path / name).write_bytes(b"")
    cases = find_cases(tmp_path, ".nii.gz", 2)
    assert [[path.name for path in case.files] for case in cases] == [
        ["a_0000.nii.gz", "a_0001.nii.gz"],
        ["b_0000.nii.gz", "b_0001.nii.gz"],
    ]
    assert find_cases(tmp_path / "b_0000.nii.gz", ".nii.gz", 2) == cases[1:]


@pytest.mark.parametrize(
    ("names", "channels"),
    [
        (["a_0001"], 2),
        (["a_0000", "a_0002"], 1),
        (["a_0000", "a_0001"], 1),
        (["a", "a_0000"], 1),
        (["a", "a_0000", "a_0001"], 2),
    ],
)
def test_wrong_channels_are_named(tmp_path, names, channels):
    for name in names:
        (tmp_path / f"{name}.nii.gz").write_bytes(b"")
    wanted = ", ".join(["a_0000.nii.gz", "a_0001.nii.gz"][:channels])
    has = ", ".join(f"{name}.nii.gz" for name in names)
    with pytest.raises(ValueError, match=f"problems: 1\n  a: has {has}; wanted {wanted}$"):
        find_cases(tmp_path, ".nii.gz", channels)


def test_no_image(tmp_path):
    (tmp_path / "image.png").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"holds no image \*.nii.gz"):
        find_cases(tmp_path, ".nii.gz", 1)
    with pytest.raises(FileNotFoundError, match="absent does not exist; give an image or a folder"):
        find_cases(tmp_path / "absent", ".nii.gz", 1)
    with pytest.raises(ValueError, match="image.png must end in .nii.gz"):
        find_cases(tmp_path / "image.png", ".nii.gz", 1)


def bad_images() -> dict[str, tuple[object, str]]:
    noise = np.random.default_rng(0).normal(100, 20, (20, 28, 20))
    broken = noise.copy()
    broken[3, 4, 5:7] = [np.nan, np.inf]
    return {
        "4-d": (np.stack([noise] * 3, -1), r"a.nii.gz: has 4 dimensions, its size is \[20, 28, 20, 3\]; wanted 3"),
        "not-finite": (broken, "a.nii.gz: holds 2 values that are not finite"),
        "constant": (np.full((20, 28, 20), 7.0), "a: channel 0 is constant, every voxel is 7"),
        "zero": (np.zeros((20, 28, 20)), "a: channel 0 is constant, every voxel is 0"),
        "empty": (np.zeros((20, 0, 20)), "a.nii.gz: is empty, its size is"),
    }


@pytest.mark.parametrize("kind", ["4-d", "not-finite", "constant", "zero", "empty"])
def test_what_cannot_be_predicted(kind, deployed, write, tmp_path):
    values, message = bad_images()[kind]
    write("a.nii.gz", values)
    with pytest.raises(ValueError, match=message):
        check_cases(find_cases(tmp_path, ".nii.gz", 1), deployed)


def test_colours(deployed, tmp_path):
    image = np.zeros((20, 28, 20), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(image, AFFINE), tmp_path / "a.nii.gz")
    with pytest.raises(ValueError, match=r"a.nii.gz: holds colours \(R, G, B\); wanted one number per voxel"):
        check_cases(find_cases(tmp_path, ".nii.gz", 1), deployed)


def test_channels_that_lie_apart_are_told(deployed, write, tmp_path, caplog):
    """What nnU-Net's reader finds wrong and lets through."""
    write("a_0000.nii.gz")
    moved = AFFINE.copy()
    moved[:3, 3] += 5
    noise = np.random.default_rng(1).normal(100, 20, (20, 28, 20)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(noise, moved), tmp_path / "a_0001.nii.gz")
    two = {**deployed.dataset_json, "channel_names": {"0": "T1", "1": "T2"}}
    (case,) = find_cases(tmp_path, ".nii.gz", 2)
    image, _ = read_case(case, dataclasses.replace(deployed, dataset_json=two))
    assert len(image) == 2
    assert "a: nnU-Net's reader says: " in caplog.text
    assert "origin" in caplog.text


@pytest.mark.parametrize(("patch", "allowed"), [([24, 16], True), ([16, 24, 16], False)])
def test_a_flat_image_is_for_a_flat_network(patch, allowed, deployed, write):
    plans = copy.deepcopy(deployed.plans)
    plans["configurations"]["tiny"]["patch_size"] = patch
    case = Case("a", (write("a.nii.gz", shape=(20, 28)),))
    flat = dataclasses.replace(deployed, plans=plans)
    if allowed:
        assert check_cases([case], flat) == 0
    else:
        with pytest.raises(ValueError, match=r"has 2 dimensions, its size is \[20, 28\]; wanted 3"):
            check_cases([case], flat)


@pytest.mark.parametrize("content", [b"", b"this is no image", b"\x1f\x8b truncated"])
def test_a_file_that_is_no_image(content, deployed, tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(ValueError, match="problems: 1\n  a.nii.gz: cannot be read as an image: ."):
        check_cases(find_cases(tmp_path, ".nii.gz", 1), deployed)


def test_a_cut_off_file(deployed, write):
    path = write("a.nii.gz")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"a.nii.gz: cannot be read as an image: .*end"):
        check_cases([Case("a", (path,))], deployed)


def test_another_number_of_channels(deployed, write):
    case = Case("a", (write("a_0000.nii.gz"), write("a_0001.nii.gz")))
    with pytest.raises(ValueError, match="a: has 2 channels, the model takes 1: wanted a_0000.nii.gz$"):
        check_cases([case], deployed)


def test_channels_that_lack_are_named(deployed, write, tmp_path):
    write("a_0000.nii.gz")
    dataset = deployed.dataset_json | {"channel_names": {"0": "T1", "1": "T2"}}
    (case,) = find_cases(tmp_path, ".nii.gz", 2)
    with pytest.raises(ValueError, match="a: has 1 channels, the model takes 2: wanted a_0000.nii.gz, a_0001.nii.gz"):
        check_cases([case], dataclasses.replace(deployed, dataset_json=dataset))


def test_channels_of_different_sizes(deployed, write):
    case = Case("a", (write("a_0000.nii.gz"), write("a_0001.nii.gz", shape=(20, 28, 21))))
    with pytest.raises(ValueError, match="a: cannot be read as an image: .*same shape"):
        check_cases([case], deployed)


def test_all_problems_are_named(deployed, write, tmp_path):
    write("a.nii.gz")
    write("b.nii.gz", np.zeros((9, 9, 9)))
    (tmp_path / "c.nii.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="problems: 2\n  b: .*constant.*\n  c.nii.gz: cannot be read"):
        check_cases(find_cases(tmp_path, ".nii.gz", 1), deployed)


def test_windows_of_the_largest_case(deployed, write, tmp_path):
    """The cropped image counts, at the model's spacing."""
    write("a.nii.gz", shape=(20, 28, 20))
    larger = np.zeros((90, 90, 90))
    larger[5:45, 10:60, 20:50] = np.random.default_rng(0).normal(100, 20, (40, 50, 30))
    write("b.nii.gz", larger)
    spacing, patch = deployed.configuration.spacing, deployed.configuration.patch_size
    shape = [round(n / s) for n, s in zip((30, 50, 40), spacing, strict=True)]  # nnU-Net's axes are z, y, x
    shape = [shape[axis] for axis in deployed.plans_manager.transpose_forward]
    assert check_cases(find_cases(tmp_path, ".nii.gz", 1), deployed, count_windows=True) == len(
        window_starts(shape, patch)
    )
