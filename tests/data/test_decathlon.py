from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from prox_monai.data import check_decathlon, read_decathlon, to_nnunet_raw


def load(path):
    return np.asarray(nib.load(path).dataobj)


def save(path, array):
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 2.0, 3.0, 1.0])), path)


def edit(folder, **changes):
    """Change keys of dataset.json; ``None`` removes one."""
    path = folder / "dataset.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def check(folder):
    check_decathlon(read_decathlon(folder))


def test_reads_what_dataset_json_says(folder):
    dataset = read_decathlon(folder)
    assert (dataset.folder, dataset.name, dataset.channel_names) == (folder, "Synthetic", ("synthetic",))
    assert dataset.cases[1] == (
        "synthetic_002",
        folder / "imagesTr" / "synthetic_002.nii.gz",
        folder / "labelsTr" / "synthetic_002.nii.gz",
    )


def test_reads_nnunets_spelling_of_channels_and_labels(folder):
    edit(folder, modality=None, channel_names={"0": "MRI"}, labels={"background": 0, "tail": "2", "head": 1})
    dataset = read_decathlon(folder)
    assert dataset.channel_names == ("MRI",)
    assert dataset.labels == ("background", "head", "tail")


def test_name_defaults_to_the_folder(folder):
    edit(folder, name=None)
    assert read_decathlon(folder).name == "Task99_Synthetic"


def test_resource_files_of_macos_are_ignored(folder):
    before = read_decathlon(folder)
    for name in ("imagesTr", "labelsTr"):
        (folder / name / "._synthetic_001.nii.gz").write_bytes(b"resource fork")
    assert read_decathlon(folder) == before
    check(folder)


def test_cases_without_any_file_are_left_out_and_logged(folder, caplog):
    for name in ("imagesTr", "labelsTr"):
        (folder / name / "synthetic_002.nii.gz").unlink()
    with caplog.at_level(logging.WARNING):
        dataset = read_decathlon(folder)
    check_decathlon(dataset)
    assert [identifier for identifier, _, _ in dataset.cases] == ["synthetic_001", "synthetic_003"]
    assert "1 of 3 listed cases" in caplog.text


def test_not_a_folder(tmp_path):
    with pytest.raises(ValueError, match="absent is not a folder; give one in the Decathlon layout"):
        read_decathlon(tmp_path / "absent")


def test_no_dataset_json(tmp_path):
    with pytest.raises(ValueError, match=r"has no dataset\.json"):
        read_decathlon(tmp_path)


def test_malformed_json(folder):
    (folder / "dataset.json").write_text('{"name": ')
    with pytest.raises(ValueError, match=r"dataset\.json is not valid JSON: .*line 1"):
        read_decathlon(folder)


def test_all_missing_keys_are_named_at_once(folder):
    edit(folder, modality=None, labels=None, training=None)
    with pytest.raises(ValueError, match="problems: 3") as error:
        read_decathlon(folder)
    for line in ("modality is missing (or channel_names)", "labels is missing", "training is missing"):
        assert f"dataset.json: {line}" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"labels": {"0": "background", "2": "tail"}},
            r"labels must name 0, 1, 2 \.\.\. without a gap.*'2': 'tail'",
        ),
        ({"labels": ["background"]}, r"labels must name .* not \['background'\]"),
        (
            {"labels": {"0": "background", "1": "a", "2": "a"}},
            "labels must have different names, not background, a, a",
        ),
        ({"modality": {}}, r"modality must name .* not {}"),
        ({"training": {"0": "a"}}, "training must be a list, not {'0': 'a'}"),
        ({"training": ["a.nii.gz"]}, r"training\[0\] must be .* not 'a\.nii\.gz'"),
        ({"training": [{"image": "a.nii.gz"}]}, r"training\[0\] must be .*\"label\""),
    ],
)
def test_wrong_values_are_named(folder, change, message):
    edit(folder, **change)
    with pytest.raises(ValueError, match=message):
        read_decathlon(folder)


def test_json_that_is_no_object(folder):
    (folder / "dataset.json").write_text("[]")
    with pytest.raises(ValueError, match="must hold an object"):
        read_decathlon(folder)


@pytest.mark.parametrize(("kind", "name"), [("image", "imagesTr"), ("label", "labelsTr")])
def test_missing_file_names_the_case_and_the_path(folder, kind, name):
    path = Path(name) / "synthetic_002.nii.gz"
    (folder / path).unlink()
    with pytest.raises(ValueError, match=f"case synthetic_002: {kind} {path} does not exist"):
        check(folder)


def test_different_shapes(folder):
    save(folder / "labelsTr" / "synthetic_001.nii.gz", np.zeros((5, 6, 7), np.uint8))
    save(folder / "imagesTr" / "synthetic_001.nii.gz", np.zeros((5, 6, 8), np.float32))
    with pytest.raises(ValueError, match=r"synthetic_001: image of \(5, 6, 8\) voxels, label of \(5, 6, 7\)"):
        check(folder)


def test_different_number_of_channels(folder):
    edit(folder, modality={"0": "T1", "1": "T2"})
    with pytest.raises(ValueError, match="case synthetic_003: image has 1 channels; .* declares T1, T2"):
        check(folder)


def test_image_that_is_no_volume(folder):
    save(folder / "imagesTr" / "synthetic_001.nii.gz", np.zeros((5, 6), np.float32))
    with pytest.raises(ValueError, match="case synthetic_001: image has 2 axes"):
        check(folder)


def broken(kind, content):
    """A compressed volume, empty, no archive, cut or damaged in the header, or of an unknown data type."""
    return {
        "empty": b"",
        "no archive": b"no archive",
        "cut": content[:60],
        "damaged": content[:30] + bytes(30) + content[60:],
        "data type": gzip.compress((raw := gzip.decompress(content))[:70] + b"\x07\x07" + raw[72:]),
    }[kind]


@pytest.mark.parametrize("kind", ["empty", "no archive", "cut", "damaged", "data type"])
def test_unreadable_file(folder, kind):
    path = folder / "imagesTr" / "synthetic_001.nii.gz"
    path.write_bytes(broken(kind, path.read_bytes()))
    with pytest.raises(ValueError, match=r"case synthetic_001: image imagesTr/synthetic_001\.nii\.gz cannot be read"):
        check(folder)


def test_no_cases(folder):
    edit(folder, training=[])
    with pytest.raises(ValueError, match="training: no listed case"):
        check(folder)


def test_a_case_listed_twice(folder):
    entry = {"image": "imagesTr/synthetic_001.nii.gz", "label": "labelsTr/synthetic_001.nii.gz"}
    edit(folder, training=[entry, entry])
    with pytest.raises(ValueError, match="case synthetic_001 is listed 2 times"):
        check(folder)


def test_all_problems_are_counted_and_ten_listed(folder):
    label = "labelsTr/synthetic_001.nii.gz"
    edit(folder, training=[{"image": f"imagesTr/absent_{i}.nii.gz", "label": label} for i in range(13)])
    with pytest.raises(ValueError, match="problems: 13") as error:
        check(folder)
    assert str(error.value).count("does not exist") == 10
    assert "and 3 more" in str(error.value)


def test_raw_folder_of_single_channel_images(folder, tmp_path):
    target = to_nnunet_raw(read_decathlon(folder), tmp_path / "raw", 4)
    assert target == tmp_path / "raw" / "Dataset004_Synthetic"
    assert json.loads((target / "dataset.json").read_text()) == {
        "name": "Synthetic",
        "channel_names": {"0": "synthetic"},
        "labels": {"background": 0, "head": 1, "tail": 2},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    image, label = (
        target / "imagesTr" / "synthetic_002_0000.nii.gz",
        target / "labelsTr" / "synthetic_002.nii.gz",
    )
    assert image.resolve() == folder / "imagesTr" / "synthetic_002.nii.gz"
    assert label.resolve() == folder / "labelsTr" / "synthetic_002.nii.gz"
    assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == ["Dataset004_Synthetic"]
    assert len(list(target.glob("*/*"))) == 6


def test_channels_are_split(folder, tmp_path):
    image = np.arange(5 * 6 * 7 * 2, dtype=np.int16).reshape(5, 6, 7, 2)
    save(folder / "imagesTr" / "two.nii.gz", image)
    save(folder / "labelsTr" / "two.nii.gz", np.ones((5, 6, 7), np.uint8))
    entry = {"image": "imagesTr/two.nii.gz", "label": "labelsTr/two.nii.gz"}
    edit(folder, training=[entry], modality={"0": "T1", "1": "T2"})
    check(folder)
    target = to_nnunet_raw(read_decathlon(folder), tmp_path / "raw", 4)
    for channel in range(2):
        volume = nib.load(target / "imagesTr" / f"two_{channel:04d}.nii.gz")
        assert np.array_equal(volume.dataobj, image[..., channel])
        assert volume.header.get_zooms() == (1, 2, 3)
    assert sorted(path.name for path in (target / "imagesTr").iterdir()) == [
        "two_0000.nii.gz",
        "two_0001.nii.gz",
    ]


def test_uncompressed_files_are_compressed(folder, tmp_path):
    for name, dtype in (("imagesTr", np.float32), ("labelsTr", np.uint8)):
        save(folder / name / "plain.nii", np.ones((5, 6, 7), dtype))
    edit(folder, training=[{"image": "imagesTr/plain.nii", "label": "labelsTr/plain.nii"}])
    target = to_nnunet_raw(read_decathlon(folder), tmp_path / "raw", 4)
    assert load(target / "imagesTr" / "plain_0000.nii.gz").shape == (5, 6, 7)
    assert load(target / "labelsTr" / "plain.nii.gz").dtype == np.uint8


def test_float_labels_become_uint8(folder, tmp_path):
    path = folder / "labelsTr" / "synthetic_001.nii.gz"
    before = load(path)
    save(path, before.astype(np.float32))
    target = to_nnunet_raw(read_decathlon(folder), tmp_path / "raw", 4)
    after = nib.load(target / "labelsTr" / "synthetic_001.nii.gz")
    assert after.get_data_dtype() == np.uint8
    assert np.array_equal(after.dataobj, before)
    assert np.array_equal(after.affine, nib.load(path).affine)


@pytest.mark.parametrize("value", [1.5, 7.0, np.nan])
def test_float_label_with_an_undeclared_value_leaves_nothing_behind(folder, tmp_path, value):
    save(folder / "labelsTr" / "synthetic_002.nii.gz", np.full((5, 6, 7), value, np.float32))
    with pytest.raises(ValueError, match=rf"synthetic_002\.nii\.gz has the value {value:g}, not 0 to 2 as declared"):
        to_nnunet_raw(read_decathlon(folder), tmp_path / "raw", 4)
    assert list((tmp_path / "raw").iterdir()) == []


def test_existing_number_is_refused(folder, tmp_path):
    kept = tmp_path / "raw" / "Dataset004_Other" / "kept.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    with pytest.raises(FileExistsError, match="Dataset004_Other exists and is not overwritten"):
        to_nnunet_raw(read_decathlon(folder), tmp_path / "raw", 4)
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["Dataset004_Other"]


@pytest.mark.parametrize("number", [0, 1000])
def test_number_out_of_range(folder, tmp_path, number):
    with pytest.raises(ValueError, match=f"dataset_id must be 1 to 999, not {number}"):
        to_nnunet_raw(read_decathlon(folder), tmp_path / "raw", number)
