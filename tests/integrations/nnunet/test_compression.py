"""int8, and the ways to bring back what it costs."""

from __future__ import annotations

import copy
import dataclasses
import os
from importlib.util import find_spec

import pytest
import torch
from torch.utils import cpp_extension

from prox_monai.export.exported import load_exported
from prox_monai.export.runtime import RuntimeNetwork
from prox_monai.integrations.nnunet import calibration, compression
from prox_monai.integrations.nnunet import deploy as deploy_module
from prox_monai.integrations.nnunet.calibration import Cases, cases_of
from prox_monai.integrations.nnunet.compression import Compression
from prox_monai.integrations.nnunet.deploy import deploy

pytestmark = pytest.mark.filterwarnings("default")  # the formats' own, when they are imported
if any(find_spec(name) is None for name in ("openvino", "nncf")):
    pytest.skip('needs pip install "prox-monai[export]"', allow_module_level=True)


@pytest.fixture(autouse=True)
def few_patches(monkeypatch):
    monkeypatch.setattr(calibration, "CALIBRATION_PATCHES", 4)


@pytest.fixture
def int8(varied, tmp_path):
    """Export the smallest subnet in int8."""

    def run(**fields):
        cases = cases_of(varied, os.environ)
        wanted = Compression(precision="int8", **fields)
        return deploy(varied, varied.space.smallest(), "openvino", tmp_path / "out", cases=cases, compression=wanted)

    return run


def test_it_is_calibrated_on_training_cases(varied):
    cases = cases_of(varied, os.environ)
    patches = cases.calibration_patches()
    assert len(patches) == len(list(patches)) == 4
    assert all(torch.equal(one, again) for one, again in zip(patches, patches, strict=True))
    assert len(dataclasses.replace(cases, training=()).calibration_patches()) == 0
    assert not set(cases.training) & set(cases.tuning)


def test_after_training(int8, tmp_path):
    description = int8(max_dice_drop=0.5)
    assert description.source["steps"] == ["quantised after training"]
    assert description.checks["dice"]["exported"] == pytest.approx(description.checks["dice"]["plain"], abs=0.5)
    assert description.checks["parity"]["max_difference"] > 1e-4
    assert load_exported(tmp_path / "out")[0].precision == "int8"


def test_too_large_a_drop_names_what_can_be_tried(int8, monkeypatch):
    def dice(self, network, half="tuning"):
        return 0.9 - 0.1 * isinstance(network, RuntimeNetwork)

    monkeypatch.setattr(Cases, "dice", dice)
    message = r"0.1000 below .*Try prox-monai export with --accuracy-aware or --finetune, or a higher --max-dice-drop"
    with pytest.raises(RuntimeError, match=message):
        int8()


@pytest.mark.parametrize(
    ("fields", "tries"),
    [
        ({"precision": "fp16"}, "prox-monai export with --finetune, or a higher --max-dice-drop"),
        ({"precision": "fp16", "finetune": 1}, "a higher --max-dice-drop"),
        ({"precision": "int8", "finetune": 1}, "prox-monai export with --accuracy-aware instead of --finetune, or"),
        (
            {"precision": "int8", "accuracy_aware": True},
            "prox-monai export with --finetune instead of --accuracy-aware, or",
        ),
    ],
)
def test_only_what_was_not_tried_is_named(fields, tries):
    with pytest.raises(RuntimeError, match=f"Try {tries}"):
        Compression(**fields).check(0.1, "it", 1)


def test_with_accuracy_control(int8, caplog):
    with caplog.at_level("INFO", logger="prox_monai"):
        description = int8(accuracy_aware=True, max_dice_drop=0.5)
    assert description.source["steps"] == ["quantised after training, with accuracy control"]
    assert "int8: an attempt has mean Dice" in caplog.text


def test_training_with_quantisation_where_it_drops_too_much(int8, monkeypatch):
    """The drop is above the limit until the network is trained with quantisation in place."""
    monkeypatch.setattr(cpp_extension, "load", None)  # NNCF falls back on torch where nothing can be compiled
    drops = iter([0.1, 0.001, 0.002])  # of one attempt, then of both halves

    def dice(self, network, half="tuning"):
        return 0.9 - (next(drops) if isinstance(network, RuntimeNetwork) else 0)

    monkeypatch.setattr(Cases, "dice", dice)
    description = int8(finetune=2)
    assert description.source["steps"] == ["fine-tuned for 2 steps", "trained for 2 steps with quantisation"]
    assert description.checks["dice"]["exported"] == pytest.approx(0.899)
    assert description.checks["dice_reporting"]["exported"] == pytest.approx(0.898)


def test_no_training_with_quantisation_where_it_does_not(int8, monkeypatch):
    monkeypatch.setattr(Cases, "dice", lambda self, network, half="tuning": 0.9)
    monkeypatch.setattr(compression, "quantize_trainable", None)
    assert int8(finetune=1).source["steps"] == ["fine-tuned for 1 steps", "quantised after training"]


@pytest.mark.parametrize(("int8_dice", "trained"), [(0.902, False), (0.89, True)])
def test_the_drop_is_that_of_the_plain_subnet(int8, monkeypatch, int8_dice, trained):
    """Fine-tuning gained .01 in 32 bits; what int8 takes of that is none of the plain subnet's."""

    def tuned(model, network, steps, distillation):
        network = copy.deepcopy(network)
        network.tuned = True
        return network

    def dice(self, network, half="tuning"):
        return int8_dice if isinstance(network, RuntimeNetwork) else 0.91 if hasattr(network, "tuned") else 0.9

    monkeypatch.setattr(deploy_module, "finetune", tuned)
    monkeypatch.setattr(Cases, "dice", dice)
    monkeypatch.setattr(compression, "quantize_trainable", lambda network, patches: network)
    monkeypatch.setattr(compression, "finetune", lambda model, network, *_, **__: network)
    monkeypatch.setattr(Compression, "check", lambda *arguments: None)
    made = "trained for 1 steps with quantisation" if trained else "quantised after training"
    assert int8(finetune=1).source["steps"] == ["fine-tuned for 1 steps", made]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"precision": "int4"}, "--precision must be one of fp32, fp16, int8, got 'int4'"),
        ({"max_dice_drop": -0.1}, r"--max-dice-drop must be in \[0, 1\], got -0.1"),
        ({"finetune": -1}, "--finetune must be at least 0 steps, got -1"),
        ({"accuracy_aware": True}, "--accuracy-aware is of --precision int8, got 'fp32'"),
        ({"precision": "int8", "accuracy_aware": True, "finetune": 1}, "--accuracy-aware and --finetune are two ways"),
    ],
)
def test_values_that_are_not_allowed(fields, message):
    with pytest.raises(ValueError, match=message):
        Compression(**fields)
