"""What is said of a description that cannot be used."""

from __future__ import annotations

import json

import pytest

from prox_monai.export.description import FILE, Description, file_digest, read_description


@pytest.fixture
def folder(tmp_path):
    """A described file; the description does not look into it."""
    (tmp_path / "model.onnx").write_bytes(b"weights")
    (tmp_path / "plans.json").write_text("{}")
    Description(
        format="onnx",
        precision="fp32",
        files={name: file_digest(tmp_path / name) for name in ("model.onnx", "plans.json")},
        subnet="d1-w1-k3-r1",
        input_shape=(1, 4, 4),
        outputs=2,
        parameters=3,
        multiply_adds=5,
        preprocessing={"spacing_mm": [1.0, 1.0]},
        labels={"background": 0, "a": 1},
        source={"fold": 0},
        checks={},
        versions={"torch": "2"},
    ).write(tmp_path)
    return tmp_path


def change(folder, **changes) -> None:
    content = json.loads((folder / FILE).read_text())
    (folder / FILE).write_text(json.dumps(content | changes))


def test_it_says_what_the_folder_holds(folder):
    description = read_description(folder)
    assert description.model == "model.onnx"
    assert description.input_shape == (1, 4, 4)
    assert len(description.digest) == 12


def test_the_digest_is_of_all_files(folder):
    first = read_description(folder).digest
    (folder / "plans.json").write_text("{ }")
    change(folder, files={name: file_digest(folder / name) for name in ("model.onnx", "plans.json")})
    assert read_description(folder).digest != first


def test_no_description(tmp_path):
    with pytest.raises(FileNotFoundError, match="prox_monai.json does not exist; .* a folder of prox-monai export"):
        read_description(tmp_path)


def test_a_missing_file(folder):
    (folder / "plans.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"plans.json does not exist, but .*prox_monai.json describes it"):
        read_description(folder)


def test_another_file(folder):
    (folder / "model.onnx").write_bytes(b"other weights")
    with pytest.raises(ValueError, match="model.onnx is not the file that"):
        read_description(folder)


def test_damaged(folder):
    (folder / FILE).write_text((folder / FILE).read_text()[:-20])
    with pytest.raises(ValueError, match="prox_monai.json is damaged"):
        read_description(folder)


@pytest.mark.parametrize("content", ["[]", "{}", '{"kind": "prox_monai/predictions"}'])
def test_something_else(folder, content):
    (folder / FILE).write_text(content)
    with pytest.raises(ValueError, match="is not the description of an exported network"):
        read_description(folder)


def test_of_a_newer_version(folder):
    change(folder, version=2)
    with pytest.raises(ValueError, match="has version 2, this package reads up to 1"):
        read_description(folder)


@pytest.mark.parametrize(("field", "value"), [("format", "tflite"), ("precision", "int4")])
def test_an_unknown_value(folder, field, value):
    change(folder, **{field: value})
    with pytest.raises(ValueError, match=f"{field} in .* must be one of .*, got '{value}'"):
        read_description(folder)


@pytest.mark.parametrize(("field", "value"), [("files", []), ("files", {}), ("input_shape", 3), ("source", None)])
def test_a_value_of_another_kind(folder, field, value):
    change(folder, **{field: value})
    with pytest.raises(ValueError, match=rf"{field} in .* must be a filled (dict|list), got "):
        read_description(folder)


def test_a_kind_alone_is_not_a_description(folder):
    (folder / FILE).write_text('{"kind": "prox_monai/exported"}')
    with pytest.raises(ValueError, match="has missing or unknown fields: .*version"):
        read_description(folder)


def test_missing_and_unknown_fields(folder):
    content = json.loads((folder / FILE).read_text())
    del content["labels"]
    (folder / FILE).write_text(json.dumps(content | {"more": 1}))
    with pytest.raises(ValueError, match="missing or unknown fields: labels, more"):
        read_description(folder)
