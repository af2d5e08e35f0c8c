"""A program of ``torch.export`` is checked before torch, which may unpickle, reads it."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from prox_monai.export.program_archive import check_program_archive
from prox_monai.export.torch_export import FILE, TorchRuntime, write_torch


class Payload:
    """What runs a command where it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.InstanceNorm2d(2), nn.LeakyReLU()).eval()
    return folder / write_torch(network, (1, 8, 8), folder)


@pytest.fixture
def changed(plain, tmp_path) -> Callable[..., Path]:
    """Copy the archive with some members replaced or added; names begin below the archive's own folder."""

    def change(**members: bytes) -> Path:
        path = tmp_path / FILE
        with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w") as new:
            top = old.namelist()[0].partition("/")[0]
            wanted = {f"{top}/{name}": content for name, content in members.items()}
            for name in old.namelist():
                new.writestr(name, wanted.pop(name, old.read(name)))
            for name, content in wanted.items():
                new.writestr(name, content)
        return path

    return change


def refused(path: Path, monkeypatch, message: str) -> None:
    monkeypatch.chdir(path.parent)
    with pytest.raises(ValueError, match=message):
        TorchRuntime(path)
    assert not Path("ran").exists()


def test_a_program_that_was_written_here_runs(plain):
    check_program_archive(plain)
    assert TorchRuntime(plain)(torch.zeros(1, 1, 8, 8)).shape == (1, 2, 8, 8)


def test_a_copy_is_read_whatever_its_name(plain, tmp_path):
    shutil.copyfile(plain, tmp_path / "other.pt2")
    check_program_archive(tmp_path / "other.pt2")


def test_an_object_that_torch_would_unpickle_is_refused(changed, monkeypatch):
    config = {
        "config": {"x": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}}
    }
    members = {
        "data/constants/model_constants_config.json": json.dumps(config).encode(),
        "data/constants/opaque_obj_0": pickle.dumps(Payload()),
    }
    refused(changed(**members), monkeypatch, "unpickle")
    del members["data/constants/opaque_obj_0"]
    refused(changed(**members), monkeypatch, "model_constants_config.json wants x unpickled")


def test_a_pickled_weight_is_refused(plain, changed, monkeypatch):
    name = "data/weights/model_weights_config.json"
    with zipfile.ZipFile(plain) as archive:
        config = json.loads(archive.read(next(path for path in archive.namelist() if path.endswith(name))))
    next(iter(config["config"].values()))["use_pickle"] = True
    refused(changed(**{name: json.dumps(config).encode()}), monkeypatch, "wants .* unpickled")


def test_inputs_that_are_more_than_tensors_are_refused(changed, monkeypatch):
    buffer = io.BytesIO()
    torch.save(Payload(), buffer)
    refused(changed(**{"data/sample_inputs/model.pt": buffer.getvalue()}), monkeypatch, "holds more than tensors")


GRAPH = "models/model.json"
RUN = "__import__('os').system('touch ran')"


def graph_of(plain: Path) -> dict:
    with zipfile.ZipFile(plain) as archive:
        return json.loads(archive.read(next(path for path in archive.namelist() if path.endswith(GRAPH))))


def with_guard(program):
    program["guards_code"] = [RUN]


def with_range(program):
    program["range_constraints"] = {"s0": {"min_val": 0, "max_val": 1}}


def with_expression(program):
    values = program["graph_module"]["graph"]["tensor_values"]
    next(iter(values.values()))["sizes"][0] = {"as_expr": {"expr_str": RUN, "hint": None}}


def with_symbol(program):
    program["graph_module"]["graph"]["sym_int_values"] = {"s0": {"as_int": 1}}


def with_argument(program):
    (called,) = (call for call in program["graph_module"]["module_call_graph"] if call["fqn"] == "")
    called["signature"]["forward_arg_names"] = [f"x={RUN}"]


def with_call(program):
    program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.hub.load"


def with_structure(program):
    (called,) = (call for call in program["graph_module"]["module_call_graph"] if call["fqn"] == "")
    spec = {"type": "collections.defaultdict", "context": "{}", "children_spec": []}
    called["signature"]["in_spec"] = json.dumps([1, spec])


def with_text(program):
    program["graph_module"]["graph"]["nodes"][0]["metadata"]["stack_trace"] = f"\n{RUN}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_guard, "has no use for 'guards_code'"),
        (with_range, "has no use for 'range_constraints'"),
        (with_expression, "has no use for 'as_expr'"),
        (with_symbol, "has no use for 'sym_int_values'"),
        (with_argument, "has no use for .*touch ran.*torch might run"),
        (with_call, "calls 'torch.hub.load', which is none of torch's operators"),
        (with_structure, "puts values into 'collections.defaultdict'"),
        (with_text, "has no use for .*touch ran"),
    ],
)
def test_a_graph_that_torch_would_run_is_refused(plain, changed, monkeypatch, change, message):
    program = graph_of(plain)
    change(program)
    refused(changed(**{GRAPH: json.dumps(program).encode()}), monkeypatch, message)


def test_no_path_of_this_machine_is_written(plain):
    assert str(Path(__file__).parents[2]) not in json.dumps(graph_of(plain))


def test_members_that_no_network_needs_are_refused(changed, monkeypatch):
    refused(changed(**{"data/aotinductor/model/lib.so": b""}), monkeypatch, "has no use for .*lib.so")


def test_a_name_that_is_there_twice_is_refused(plain, changed, monkeypatch):
    path = changed()
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(archive.namelist()[0], b"")
    refused(path, monkeypatch, "holds a name twice")


@pytest.mark.parametrize("content", [b"{}", b"[]", b'{"config": {"x": {}}}', b'{"config": [1]}', b"{"])
def test_a_damaged_description_is_no_program(changed, monkeypatch, content):
    path = changed(**{"data/weights/model_weights_config.json": content})
    refused(path, monkeypatch, "is not a program of torch.export")


def test_another_file_is_no_program(tmp_path):
    (tmp_path / FILE).write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match="is not a program of torch.export"):
        check_program_archive(tmp_path / FILE)
