"""Probabilities on the image's own grid, of the subnet that was asked for."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from prox_monai.evaluation.subnets import read_rows
from prox_monai.integrations.auto3dseg.infer import InferClass


@pytest.fixture
def config(pipeline) -> Path:
    return pipeline.work / "prox_0" / "configs" / "hyper_parameters.yaml"


@pytest.fixture
def image(pipeline) -> Path:
    return pipeline.cases.folder / "imagesTr" / "case_5.nii.gz"


@pytest.mark.parametrize("form", [str, lambda p: {"image": str(p)}, lambda p: [str(p)]])
def test_forms_of_a_file(form, config, image):
    probabilities = InferClass(config).infer(form(image))
    assert probabilities.shape == (3, *nib.load(image).shape)
    assert torch.allclose(probabilities.sum(0), torch.ones(()), atol=1e-5)
    assert str(probabilities.meta["filename_or_obj"]) == str(image)
    assert np.allclose(probabilities.affine, nib.load(image).affine)


def test_another_orientation_and_spacing_come_back(config, image, tmp_path):
    """The same head, lying otherwise and twice as coarse: the prediction lies in its voxels."""
    loaded = nib.load(image)
    turned = nib.as_closest_canonical(loaded).slicer[::-1, :, ::2]
    nib.save(turned, tmp_path / "turned.nii.gz")
    upright = InferClass(config).infer(image).argmax(0)
    lying = InferClass(config).infer(tmp_path / "turned.nii.gz")
    assert lying.shape[1:] == turned.shape
    agreement = (torch.as_tensor(upright).flip(0)[:, :, ::2] == torch.as_tensor(lying.argmax(0))).float().mean()
    assert agreement > 0.7


def test_a_choice_in_the_file_of_parameters(image, copied):
    path = copied / "prox_0" / "configs" / "hyper_parameters.yaml"
    largest, smallest = (InferClass(path, subnet=name).infer(image) for name in ("largest", "smallest"))
    assert torch.equal(InferClass(path).infer(image), largest)
    path.write_text(path.read_text().replace("subnet: [largest]", "subnet: [smallest]"))
    assert torch.equal(InferClass(path).infer(image), smallest)
    assert not torch.equal(smallest, largest)


def test_a_choice_takes_the_place_of_the_one_in_the_file(copied):
    path = copied / "prox_0" / "configs" / "hyper_parameters.yaml"
    text = path.read_text()
    path.write_text(text.replace("subnet: [largest]", "subnet: [smallest]"))
    chosen = InferClass(path, max_latency_ms=1e6).parameters
    assert (chosen.subnet, chosen.max_latency_ms) == (("largest",), 1e6)
    path.write_text(text.replace("max_latency_ms: 0.0", "max_latency_ms: 5.0"))
    chosen = InferClass(path, subnet="smallest").parameters
    assert (chosen.subnet, chosen.max_latency_ms) == (("smallest",), 0)


def test_a_budget_takes_the_best_within_it(config, pipeline, image):
    rows = read_rows(pipeline.work / "prox_0" / "model" / "subnets.jsonl")
    fastest = min(rows, key=lambda row: row["latency_ms"])
    chosen = InferClass(config, max_latency_ms=fastest["latency_ms"])
    assert torch.equal(chosen.infer(image), InferClass(config, subnet=fastest["key"]).infer(image))
    with pytest.raises(ValueError, match="no known subnet has a latency <= 1e-06 ms; the fastest"):
        InferClass(config, max_latency_ms=1e-6)


def test_several_subnets_are_averaged(config, image):
    one, other, both = (
        InferClass(config, subnet=names).infer(image) for names in ("smallest", "largest", ["smallest", "largest"])
    )
    assert torch.allclose(both, (one + other) / 2, atol=1e-6)
    assert not torch.allclose(one, other)


def test_what_is_for_others_is_left_alone(config):
    host = {"rank": 0, "image_save_func": {"_target_": "SaveImage"}, "n_best": 2, "output_dir": "x", "mode": "mean"}
    assert InferClass(config, **host).parameters.subnet == ("largest",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subnets": "smallest"}, r"unknown option 'subnets' \(did you mean 'subnet'\?\)"),
        ({"max_latency": 3}, "did you mean 'max_latency_ms'"),
        ({"prox_width": 0.5}, "unknown option 'prox_width'; prox predicts with subnet, max_latency_ms"),
        ({"subnet": "smallest", "max_latency_ms": 5}, "max_latency_ms chooses the subnet: give one of both, got 5 and"),
        ({"subnet": "tiniest"}, "tiniest"),
    ],
)
def test_bad_options_are_refused(options, message, config):
    with pytest.raises(ValueError, match=message):
        InferClass(config, **options)


def test_the_row_of_a_subnet_is_of_what_predicts(config, pipeline):
    """The digest in the table is that of the weights, or a budget would know no subnet."""
    rows = (pipeline.work / "prox_0" / "model" / "subnets.jsonl").read_text().splitlines()
    assert len({json.loads(row)["model"] for row in rows}) == 1
    assert InferClass(config, max_latency_ms=1e9).networks
