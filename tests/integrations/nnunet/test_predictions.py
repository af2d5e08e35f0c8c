"""Nothing that is there is lost."""

from __future__ import annotations

import json

import pytest

from prox_monai.integrations.nnunet.predictions import RECORD, Output

ABOUT = {"subnet": "d1-w1-k3-r1", "weights": "abc", "mirroring": True}
ENDING = ".nii.gz"


def begun(folder, **about) -> Output:
    output = Output(folder, ENDING, ABOUT | about)
    output.prepare()
    return output


def test_finished_cases_are_known_to_the_same_model(tmp_path):
    output = begun(tmp_path / "out")
    output.path("a").write_text("a label map")
    output.add("a", {"seconds": 1.5, "voxels": {"x": 3}})
    output.add("b", {"seconds": 1.0, "voxels": {}})  # whose label map was removed since
    again = begun(tmp_path / "out")
    assert again.finished("a") == {"seconds": 1.5, "voxels": {"x": 3}}
    assert again.finished("b") is None
    assert again.finished("c") is None
    assert Output(tmp_path / "out", ENDING, ABOUT, overwrite=True).finished("a") is None


def test_another_model_is_refused_and_named(tmp_path):
    begun(tmp_path / "out")
    with pytest.raises(
        FileExistsError, match=r"another model \(weights abc, not xyz\); give another folder, or --over"
    ):
        begun(tmp_path / "out", weights="xyz")
    Output(tmp_path / "out", ENDING, ABOUT | {"weights": "xyz"}, overwrite=True)


@pytest.mark.parametrize("name", ["notes.txt", RECORD])
def test_other_content_is_refused(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(FileExistsError, match="holds something else; give another folder, or --overwrite"):
        Output(tmp_path, ENDING, ABOUT)
    assert (tmp_path / name).read_text() == "{}"


def test_overwriting_leaves_what_else_is_there(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    output = Output(tmp_path, ENDING, ABOUT, overwrite=True)
    output.prepare()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert json.loads((tmp_path / RECORD).read_text())["model"] == ABOUT


def test_a_file_of_its_own(tmp_path):
    output = begun(tmp_path / "new" / "case.nii.gz")
    assert output.is_file
    assert output.path("anything") == tmp_path / "new" / "case.nii.gz"
    output.add("anything", {})
    assert list((tmp_path / "new").iterdir()) == []  # no record beside it
    output.path("anything").write_text("a label map")
    with pytest.raises(FileExistsError, match="case.nii.gz exists; give another file, or --overwrite"):
        Output(tmp_path / "new" / "case.nii.gz", ENDING, ABOUT)


def test_a_target_that_is_some_file(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(FileExistsError, match="out exists; give another file"):
        Output(tmp_path / "out", ENDING, ABOUT)


def test_nothing_is_written_before_it_is_prepared(tmp_path):
    Output(tmp_path / "out", ENDING, ABOUT)
    assert not (tmp_path / "out").exists()
