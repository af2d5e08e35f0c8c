from __future__ import annotations

import pytest

from prox_monai.data.json_file import read_json


def test_what_a_file_holds(tmp_path):
    path = tmp_path / "plans.json"
    path.write_text('{"labels": {"a": 1}, "more": 2}')
    assert read_json(path, "labels") == {"labels": {"a": 1}, "more": 2}
    path.write_text("[1, 2]")
    assert read_json(path) == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"plans.json is damaged: Expecting property name"),
        (b"\xff", r"plans.json is damaged: "),
        (b"[]", r"plans.json must hold an object with labels, channels, got list"),
        (b'{"labels": 1}', r"plans.json lacks channels\."),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content, message):
    (tmp_path / "plans.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_json(tmp_path / "plans.json", "labels", "channels")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"plans\.json"):
        read_json(tmp_path / "plans.json")
