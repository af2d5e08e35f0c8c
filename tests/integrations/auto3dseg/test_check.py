"""What is wrong with an input, before MONAI's analysis."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from prox_monai.integrations.auto3dseg import check_input


@pytest.fixture
def own(write_cases, tmp_path):
    """A data set of the test's own."""
    return write_cases(tmp_path / "data", channels=1)


def rewrite(path: Path, change) -> None:
    loaded = nib.load(path)
    nib.save(nib.Nifti1Image(change(np.asanyarray(loaded.dataobj)), loaded.affine), path)


def rewrite_labels(cases, change) -> None:
    for path in (cases.folder / "labelsTr").iterdir():
        rewrite(path, change)


def test_what_is_in_order(own, tmp_path):
    check_input(own.source)
    check_input({**own.source, "class_names": ["one", "two"]})
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(own.source))
    check_input(tmp_path / "task.yaml")


def refused(source, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_input(source)
    return str(caught.value)


def test_missing_files(own):
    for name in ("labelsTr/case_1.nii.gz", "imagesTr/case_2.nii.gz"):
        (own.folder / name).unlink()
    text = refused(own.source, "datalist.json cannot be used, problems: 2")
    assert re.search("label .*case_1.nii.gz does not exist", text)
    assert re.search("image .*case_2.nii.gz does not exist", text)


def test_mixed_channels(own):
    rewrite(own.folder / "imagesTr" / "case_3.nii.gz", lambda image: np.stack([image, image], -1))
    refused(own.source, r"as many channels all, they have 1 \(.*case_0.nii.gz\), 2 \(.*case_3.nii.gz\)")


def test_labels_that_are_not_consecutive(own):
    rewrite_labels(own, lambda label: np.where(label == 2, 3, label).astype(np.uint8))
    refused(own.source, "labels must be consecutive, .* they are 0, 1, 3, and no label map has 2")


def test_a_class_that_never_occurs(own):
    refused({**own.source, "class_names": ["a", "b", "c"]}, r"every class must occur in some label map; c \(label 3\)")


def test_labels_between_integers(own):
    rewrite(own.folder / "labelsTr" / "case_1.nii.gz", lambda label: label * np.float32(0.5))
    refused(own.source, "case_1.nii.gz has values that are no integers")


def test_a_label_of_another_size(own):
    rewrite(own.folder / "labelsTr" / "case_1.nii.gz", lambda label: np.pad(label, ((0, 9), (0, 0), (0, 0))))
    refused(own.source, r"case_1.nii.gz has \(\d+, \d+, \d+\) voxels, its image")


def test_nan_in_a_label(own):
    rewrite(own.folder / "labelsTr" / "case_1.nii.gz", lambda label: np.where(label == 2, np.nan, label))
    refused(own.source, "case_1.nii.gz has values that are no integers")


def test_cases_under_validation(own, tmp_path):
    def moved(content):
        content["validation"] = [content["training"].pop()]
        for case in content["training"]:
            del case["fold"]

    changed = own.change(tmp_path / "moved.json", moved)
    check_input(changed.source)
    (own.folder / "labelsTr" / "case_4.nii.gz").unlink()
    refused(changed.source, "label .*case_4.nii.gz does not exist")


def test_every_file_of_an_image(own, tmp_path):
    name = own.folder / "imagesTr" / "case_0.nii.gz"
    nib.save(nib.load(name), own.folder / "imagesTr" / "second.nii.gz")
    rewrite(own.folder / "imagesTr" / "second.nii.gz", lambda image: np.pad(image, ((0, 9), (0, 0), (0, 0))))
    files = ["imagesTr/case_0.nii.gz", "imagesTr/second.nii.gz"]
    changed = own.change(tmp_path / "two.json", lambda content: content["training"][0].update(image=files))
    refused(changed.source, r"case_0.nii.gz has .* voxels, its image .*second.nii.gz")


@pytest.mark.parametrize("key", ["datalist", "dataroot"])
def test_an_input_without_a_key(key, own):
    source = {name: value for name, value in own.source.items() if name != key}
    refused(source, f"the input must name modality, datalist and dataroot, it lacks {key}")


def test_a_datalist_without_training(own, tmp_path):
    changed = own.change(tmp_path / "other.json", lambda content: content.update(train=content.pop("training")))
    refused(changed.source, r"other.json must have the key 'training', a list of cases, got testing, train")


def test_a_datalist_that_is_a_list(own, tmp_path):
    path = tmp_path / "list.json"
    path.write_text(json.dumps(json.loads(own.datalist.read_text())["training"]))
    message = "list.json must have the key 'training', a list of cases, got a list"
    refused({**own.source, "datalist": str(path)}, message)


def test_a_label_in_several_files(own, tmp_path):
    def several(content):
        content["training"][1]["label"] = ["labelsTr/case_0.nii.gz", "labelsTr/case_1.nii.gz"]

    text = refused(own.change(tmp_path / "several.json", several).source, "several.json cannot be used, problems: 1")
    assert re.search(r"label of case 2 \(.*case_1.nii.gz\) must be one file, got \['.*case_0.nii.gz', ", text)


def test_two_axes(own):
    rewrite(own.folder / "imagesTr" / "case_1.nii.gz", lambda image: image[..., 0])
    refused(own.source, "case_1.nii.gz must have three spatial axes")


def test_one_case(own, tmp_path):
    one = own.change(tmp_path / "one.json", lambda content: content.update(training=content["training"][:1]))
    refused(one.source, "one.json must have at least two training cases, one of them to validate, got 1")


def test_overlapping_classes(own):
    refused({**own.source, "sigmoid": True}, "sigmoid must be false for prox")
