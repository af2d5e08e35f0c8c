"""Nothing that is there is lost."""

from __future__ import annotations

import json

import pytest

from prox_monai.integrations.nnunet.predictions import RECORD, Output

ABOUT = {"subnet": "d1-w1-k3-r1", "weights": "abc", "mirroring": True}
ENDING = ".nii.gz"
IMAGES = {"a": "1", "b": "2"}


def begun(folder, **about) -> Output:
    output = Output(folder, ENDING, ABOUT | about, IMAGES)
    output.prepare()
    return output


def test_finished_cases_are_known_to_the_same_model(tmp_path):
    output = begun(tmp_path / "out")
    output.path("a").write_text("a label map")
    output.add("a", {"seconds": 1.5, "voxels": {"x": 3}})
    output.add("b", {"seconds": 1.0, "voxels": {}})  # whose label map was removed since
    again = begun(tmp_path / "out")
    assert again.finished("a") == {"seconds": 1.5, "voxels": {"x": 3}, "images": "1"}
    assert again.finished("b") is None
    assert again.finished("c") is None
    assert Output(tmp_path / "out", ENDING, ABOUT, IMAGES, overwrite=True).finished("a") is None


@pytest.mark.parametrize("recorded", [True, False])
def test_other_images_of_the_same_name_are_refused(tmp_path, recorded):
    output = begun(tmp_path)
    output.path("a").write_text("a label map")
    for case in IMAGES:
        output.add(case, {})
    others = {"a": "3", "b": "3", "c": "3"}  # of b there is no label map
    if not recorded:
        content = json.loads((tmp_path / RECORD).read_text())
        (tmp_path / RECORD).write_text(json.dumps(content | {"cases": {"a": {}}}))
    with pytest.raises(
        FileExistsError, match=r"of other images under the same names \(a\); give another f.* or --over"
    ):
        Output(tmp_path, ENDING, ABOUT, others)
    again = Output(tmp_path, ENDING, ABOUT, others, overwrite=True)
    again.prepare()
    assert again.finished("a") is None
    again.add("a", {})
    assert Output(tmp_path, ENDING, ABOUT, others).finished("a") == {"images": "3"}


@pytest.mark.parametrize("same", [True, False])
def test_overwriting_names_what_is_left_of_another_model(tmp_path, caplog, same):
    output = begun(tmp_path)
    for case in IMAGES:
        output.path(case).write_text("a label map")
        output.add(case, {})
    about = ABOUT if same else ABOUT | {"weights": "xyz"}
    again = Output(tmp_path, ENDING, about, {"a": "1"}, overwrite=True)
    again.prepare()
    assert again.finished("a") is None
    assert (again.finished("b") is not None) == same
    assert ("also holds images that this model has not predicted: b.nii.gz" in caplog.text) != same


def test_another_model_is_refused_and_named(tmp_path):
    begun(tmp_path / "out")
    with pytest.raises(
        FileExistsError, match=r"another model \(weights abc, not xyz\); give another folder, or --over"
    ):
        begun(tmp_path / "out", weights="xyz")
    Output(tmp_path / "out", ENDING, ABOUT | {"weights": "xyz"}, IMAGES, overwrite=True)


@pytest.mark.parametrize("name", ["notes.txt", RECORD])
def test_other_content_is_refused(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(FileExistsError, match="holds something else; give another folder, or --overwrite"):
        Output(tmp_path, ENDING, ABOUT, IMAGES)
    assert (tmp_path / name).read_text() == "{}"


def test_overwriting_leaves_what_else_is_there(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    output = Output(tmp_path, ENDING, ABOUT, IMAGES, overwrite=True)
    output.prepare()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert json.loads((tmp_path / RECORD).read_text())["model"] == ABOUT


def test_a_file_of_its_own(tmp_path):
    output = begun(tmp_path / "new" / "case.nii.gz")
    assert output.is_file
    assert output.path("anything") == tmp_path / "new" / "case.nii.gz"
    output.add("a", {})
    assert list((tmp_path / "new").iterdir()) == []  # no record beside it
    output.path("anything").write_text("a label map")
    with pytest.raises(FileExistsError, match="case.nii.gz exists; give another file, or --overwrite"):
        Output(tmp_path / "new" / "case.nii.gz", ENDING, ABOUT, IMAGES)


def test_a_target_that_is_some_file(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(FileExistsError, match="out exists; give another file"):
        Output(tmp_path / "out", ENDING, ABOUT, IMAGES)


def test_nothing_is_written_before_it_is_prepared(tmp_path):
    Output(tmp_path / "out", ENDING, ABOUT, IMAGES)
    assert not (tmp_path / "out").exists()


def test_the_description_of_an_exported_model_is_not_overwritten(tmp_path):
    (tmp_path / RECORD).write_text('{"kind": "prox_monai/exported"}')
    for overwrite in (True, False):
        with pytest.raises(FileExistsError):
            Output(tmp_path, ENDING, ABOUT, IMAGES, overwrite=overwrite)
    assert (tmp_path / RECORD).read_text() == '{"kind": "prox_monai/exported"}'
