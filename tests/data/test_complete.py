from __future__ import annotations

import pytest

from prox_monai.data.complete import complete_file, complete_folder


def test_it_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "new" / "folder"
    with complete_folder(target) as partial:
        partial.mkdir()
        (partial / "file").touch()
        assert not target.exists()
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("file")] == [(target / "file").relative_to(tmp_path)]
    assert list(target.parent.iterdir()) == [target]


def test_it_replaces_when_told_to(tmp_path):
    target = tmp_path / "replaced"  # any name will do
    target.mkdir()
    (target / "old").touch()
    with complete_folder(target, replace=True) as partial:
        partial.mkdir()
        (partial / "new").touch()
        assert (target / "old").exists()
    assert list(tmp_path.rglob("*")) == [target, target / "new"]


def test_what_cannot_be_put_in_its_place_leaves_what_was_there(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").touch()

    def make_nothing() -> None:
        with complete_folder(target, replace=True):
            pass

    with pytest.raises(FileNotFoundError):
        make_nothing()
    assert list(tmp_path.rglob("*")) == [target, target / "old"]


@pytest.mark.parametrize("replace", [False, True])
def test_an_error_leaves_what_was_there(tmp_path, replace):
    target = tmp_path / "folder"
    target.mkdir()

    def fail() -> None:
        with complete_folder(target, replace=replace) as partial:
            partial.mkdir()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.rglob("*")) == [target]


def test_a_file_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "file.nii.gz"
    with complete_file(target) as partial:
        partial.write_text("new")
        assert not target.exists()
        assert partial.name.endswith("file.nii.gz")  # some writers go by the ending
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def break_off(target) -> None:
    with complete_file(target) as partial:
        partial.write_text("half")
        raise OSError("disk full")


def test_a_file_that_is_not_finished_leaves_the_old_one(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(OSError, match="disk full"):
        break_off(target)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
