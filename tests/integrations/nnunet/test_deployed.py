"""What a folder holds, and what opens from it."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch

from prox_monai.integrations.nnunet.deploy import deploy
from prox_monai.integrations.nnunet.deployed import from_exported, from_stock, from_trained, kind_of
from prox_monai.integrations.nnunet.export import export_stock
from prox_monai.integrations.nnunet.trained import load_trained


@pytest.fixture(scope="session")
def config(varied):
    return dataclasses.replace(varied.space.smallest(), resolution=1.0)


@pytest.fixture(scope="session")
def root(varied, config, tmp_path_factory):
    """An exported model and a stock one."""
    root = tmp_path_factory.mktemp("deployed")
    deploy(varied, config, "torch", root / "exported")
    export_stock([varied], config, root / "stock")
    return root


def test_kinds(root, finished, tmp_path):
    assert kind_of(root / "exported") == "exported"
    assert kind_of(root / "stock") == "stock"
    assert kind_of(finished.parent) == "family"
    with pytest.raises(FileNotFoundError, match="holds no model: neither prox_monai.json of prox-monai export, nor"):
        kind_of(tmp_path)
    with pytest.raises(FileNotFoundError, match="nor fold_3/checkpoint_final.pth of nnU-Net"):
        kind_of(finished.parent, 3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("plans.json", "{", "plans.json is damaged"),
        ("plans.json", "[]", "plans.json must hold an object with plans_name, configurations, got list"),
        ("dataset.json", "{}", "dataset.json lacks labels, file_ending"),
    ],
)
def test_a_damaged_file_of_a_model_is_named(root, finished, tmp_path, name, content, message):
    for read, folder in ((from_stock, root / "stock"), (load_trained, finished.parent)):
        copy = shutil.copytree(folder, tmp_path / folder.name)
        (copy / name).write_text(content)
        with pytest.raises(ValueError, match=message):
            read(copy)


def test_all_of_them_are_the_same_subnet(root, varied, config):
    opened = [from_exported(root / "exported"), from_stock(root / "stock"), from_trained(varied, config)]
    x = torch.randn(1, *varied.input_shape)
    with torch.no_grad():
        logits = [each.network(x) for each in opened]
    assert torch.allclose(logits[0], logits[2], atol=1e-5)
    assert torch.equal(logits[1], logits[2])
    for each in opened:
        assert each.configuration.patch_size == varied.configuration.patch_size
        assert each.labels.foreground_labels == [1, 2]
        assert (each.channels, each.file_ending) == (1, ".nii.gz")
        assert each.mirroring_axes == (0, 1, 2)
        assert set(each.about) == {"subnet", "weights", "runtime", "precision", "device"}


def test_changed_plans_are_refused(root, tmp_path):
    """They are a part of what the exported model is: with other plans it sees other images."""
    folder = shutil.copytree(root / "exported", tmp_path / "exported")
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["spacing"] = [9.0, 9.0, 9.0]
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(ValueError, match="plans.json is not the file that"):
        from_exported(folder)


@pytest.mark.parametrize(
    ("where", "field", "value"),
    [
        ("preprocessing", "spacing_mm", [9.0, 9.0, 9.0]),
        ("preprocessing", "normalization", ["CTNormalization"]),
        ("preprocessing", "mirroring_axes", [3]),
        ("description", "labels", {"background": 0, "liver": 1}),
    ],
)
def test_a_changed_description_is_refused(root, tmp_path, where, field, value):
    folder = shutil.copytree(root / "exported", tmp_path / "exported")
    path = folder / "prox_monai.json"
    content = json.loads(path.read_text())
    (content["preprocessing"] if where == "preprocessing" else content)[field] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"the description says (preprocessing\.)?{field} "):
        from_exported(folder)


def test_a_subnet_that_was_not_trained_is_refused(varied, config):
    wider = dataclasses.replace(config, resolution=0.5)
    with pytest.raises(ValueError, match="resolution"):
        from_trained(varied, wider)


@pytest.mark.parametrize("runtime", ["openvino-int8", "tensorrt"])
def test_a_runtime_that_does_not_compute_in_32_bits(varied, config, runtime):
    with pytest.raises(ValueError, match=f"must be one of torch, onnxruntime, openvino, got '{runtime}'"):
        from_trained(varied, config, runtime)
