"""Every exported form gives what the plain subnet gives, or is not written."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from prox_monai.cli import main
from prox_monai.commands import export
from prox_monai.evaluation.cost import device_name
from prox_monai.export.exported import load_exported
from prox_monai.export.runtime import RuntimeNetwork
from prox_monai.integrations.nnunet import deploy as module
from prox_monai.integrations.nnunet.calibration import Cases, cases_of
from prox_monai.integrations.nnunet.compression import Compression
from prox_monai.integrations.nnunet.deploy import deploy

pytestmark = pytest.mark.filterwarnings("default")  # the formats' own, when they are imported
if any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf")):
    pytest.skip('needs pip install "prox-monai[export]"', allow_module_level=True)


@pytest.fixture(scope="session")
def cases(varied) -> Cases:
    return cases_of(varied, os.environ)


def _worse(drop: float):
    return lambda self, network, half="tuning": 0.9 - drop * isinstance(network, RuntimeNetwork)


@pytest.fixture
def worse_by(monkeypatch):
    """Let every exported network lose that much Dice."""

    def set_drop(drop: float) -> None:
        monkeypatch.setattr(Cases, "dice", _worse(drop))

    return set_drop


@pytest.mark.parametrize("format", ["onnx", "openvino", "torch"])
@pytest.mark.parametrize("which", ["smallest", "largest"])
def test_logits_are_the_plain_subnets(format, which, varied, cases, tmp_path):
    config = getattr(varied.space, which)()  # the smallest works at .7 of the resolution
    description = deploy(varied, config, format, tmp_path / "out", cases=cases)
    parity = description.checks["parity"]
    assert parity["max_difference"] <= 1e-4 * max(1, parity["max_logit"])
    assert parity["max_logit"] > 0.1
    assert (parity["patches"], parity["patches_of"]) == (20, "unseen cases")
    again, network = load_exported(tmp_path / "out")
    assert again == description
    x = torch.randn(1, *varied.input_shape)
    with torch.no_grad():
        assert torch.allclose(network(x), varied.supernet.extract(config)(x), atol=1e-3)


def test_the_description_is_complete(varied, tmp_path):
    config = varied.space.smallest()
    description = deploy(varied, config, "torch", tmp_path / "out")
    plans = json.loads((tmp_path / "out" / "plans.json").read_text())
    configuration = varied.configuration.configuration
    assert description.subnet == config.name
    assert description.preprocessing["spacing_mm"] == configuration["spacing"]
    assert description.preprocessing["patch"] == configuration["patch_size"]
    assert description.preprocessing["normalization"] == configuration["normalization_schemes"]
    intensities = plans["foreground_intensity_properties_per_channel"]
    assert description.preprocessing["intensities_of_foreground"] == intensities
    assert description.labels == varied.dataset_json["labels"]
    assert description.parameters == sum(p.numel() for p in varied.supernet.extract(config).parameters())
    assert description.multiply_adds == varied.multiply_adds()(config)
    assert description.source["checkpoint"] == varied.digest
    assert description.checks["parity"]["patches_of"] == "random numbers"  # no cases were given
    assert set(description.files) == {"model.pt2", "plans.json", "dataset.json"}
    assert description.checks["latency_ms"]["plain"] > 0
    assert description.checks["megabytes"]["plain"] == description.parameters * 4 / 1e6


def test_another_network_is_not_written(varied, tmp_path, monkeypatch):
    other = varied.supernet.extract(varied.space.largest())
    write = module.write_network
    monkeypatch.setattr(module, "write_network", lambda network, *arguments: write(other, *arguments))
    with pytest.raises(RuntimeError, match=r"logits of fp32 in torch differ by .* Nothing was written"):
        deploy(varied, varied.space.smallest(), "torch", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_16_bits_are_compared_by_dice(format, varied, cases, tmp_path):
    compression = Compression(precision="fp16", max_dice_drop=0.05)
    description = deploy(
        varied, varied.space.smallest(), format, tmp_path / "out", cases=cases, compression=compression
    )
    dice = description.checks["dice"]
    assert abs(dice["plain"] - dice["exported"]) < 0.05
    assert (dice["half"], dice["cases"]) == ("tuning", len(cases.tuning))
    told = description.checks["dice_reporting"]
    assert (told["half"], told["cases"]) == ("reporting", len(cases.reporting))
    assert told["plain"] == pytest.approx(cases.dice(varied.supernet.extract(varied.space.smallest()), "reporting"))
    assert description.checks["megabytes"]["exported"] < 0.2
    assert load_exported(tmp_path / "out")[0].precision == "fp16"


def test_too_large_a_drop_is_refused(varied, cases, worse_by, tmp_path):
    worse_by(0.006)
    message = (
        r"of fp16 in openvino is 0.0060 below .* on 1 cases of the tuning half \(allowed: 0.005\)\. Nothing was written"
    )
    with pytest.raises(RuntimeError, match=message):
        deploy(
            varied,
            varied.space.smallest(),
            "openvino",
            tmp_path / "out",
            cases=cases,
            compression=Compression(precision="fp16"),
        )
    assert list(tmp_path.iterdir()) == []


def test_the_limit_is_an_option(varied, cases, worse_by, tmp_path):
    worse_by(0.006)
    compression = Compression(precision="fp16", max_dice_drop=0.01)
    description = deploy(
        varied, varied.space.smallest(), "onnx", tmp_path / "out", cases=cases, compression=compression
    )
    assert description.checks["dice"]["exported"] == pytest.approx(0.894)


def test_what_is_there_is_not_overwritten(varied, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is not empty; choose another folder"):
        deploy(varied, varied.space.smallest(), "torch", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_export_is_replaced_when_asked(varied, tmp_path):
    old, new = varied.space.smallest(), varied.space.largest()
    deploy(varied, old, "torch", tmp_path / "out")
    with pytest.raises(FileExistsError, match="exists and is not empty; choose another folder"):
        deploy(varied, new, "torch", tmp_path / "out")
    assert load_exported(tmp_path / "out")[0].subnet == old.name
    deploy(varied, new, "torch", tmp_path / "out", overwrite=True)
    assert load_exported(tmp_path / "out")[0].subnet == new.name
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_only_an_export_is_replaced(varied, tmp_path):
    folder = tmp_path / "out"
    for beside in ("nothing", "an export"):
        if beside == "an export":
            deploy(varied, varied.space.smallest(), "torch", folder)
        folder.mkdir(exist_ok=True)
        (folder / "model.txt").write_text("mine")
        before = sorted(folder.iterdir())
        with pytest.raises(FileExistsError, match="holds something else than an export; choose another folder"):
            deploy(varied, varied.space.largest(), "torch", folder, overwrite=True)
        assert sorted(folder.iterdir()) == before
        (folder / "model.txt").unlink()


@pytest.mark.parametrize("name", ["model.pt2", "prox_monai.json"])
def test_a_damaged_export_is_replaced(varied, tmp_path, name):
    folder = tmp_path / "out"
    deploy(varied, varied.space.smallest(), "torch", folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:100])
    deploy(varied, varied.space.smallest(), "torch", folder, overwrite=True)
    assert load_exported(folder)[0].subnet == varied.space.smallest().name


def test_dice_needs_cases(varied, tmp_path):
    with pytest.raises(ValueError, match="fp16, int8 and fine-tuning are compared by Dice, which needs"):
        deploy(varied, varied.space.smallest(), "onnx", tmp_path / "out", compression=Compression(precision="fp16"))


def test_what_writes_is_asked_for_before_fine_tuning(varied, cases, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setattr("prox_monai.integrations.nnunet.deploy.finetune", None)
    with pytest.raises(ImportError, match="onnx in fp32 needs an extra"):
        deploy(varied, varied.space.smallest(), "onnx", tmp_path, cases=cases, compression=Compression(finetune=2))


def test_formats_and_precisions(varied, cases, tmp_path):
    with pytest.raises(ValueError, match="precision of onnx must be one of fp32, fp16, got 'int8'"):
        deploy(
            varied,
            varied.space.smallest(),
            "onnx",
            tmp_path / "out",
            cases=cases,
            compression=Compression(precision="int8"),
        )


def test_the_command(finished, tmp_path, capsys):
    arguments = ["export", "openvino", str(finished.parent), "--subnet", "smallest", "--output", str(tmp_path / "out")]
    assert main(arguments, export.COMMANDS) == 0
    printed = capsys.readouterr().out
    assert "d1-w.5-k3-r.7 is in" in printed
    assert "logits     differ by" in printed
    assert f"prox-monai predict {tmp_path / 'out'} -i IMAGES -o PREDICTIONS" in printed
    assert load_exported(tmp_path / "out")[0].checks["parity"]["patches_of"] == "unseen cases"
    assert main(arguments, export.COMMANDS) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"], export.COMMANDS) == 0


def test_the_command_without_the_data(finished, tmp_path, monkeypatch, capsys, caplog):
    """In 32 bits random patches do; Dice needs the cases."""
    monkeypatch.delenv("nnUNet_preprocessed")
    arguments = ["export", "torch", str(finished.parent), "--subnet", "smallest", "--output", str(tmp_path / "out")]
    assert main(arguments, export.COMMANDS) == 0
    assert "compared on random numbers, not on cases: nnUNet_preprocessed is not set" in caplog.text
    printed = capsys.readouterr().out
    assert "patches of random numbers" in printed
    arguments = ["export", "openvino", *arguments[2:-1], str(tmp_path / "int8"), "--precision", "int8"]
    assert main(arguments, export.COMMANDS) == 2
    assert "nnUNet_preprocessed is not set" in capsys.readouterr().err


@pytest.fixture
def table(model, tmp_path) -> Path:
    """The smallest subnet takes a ten thousandth of a millisecond in int8, on three threads."""
    config = model.space.smallest()
    row = {"name": "a", "key": config.name, "model": model.digest, "config": config.to_dict(), "dice": 0.5}
    latency = {"device": f"{device_name('cpu')}, cpu", "threads": 3, "runtime": "openvino-int8"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row | {"latency_ms": 1e-4, "latency": latency}) + "\n")
    return tmp_path / "rows.jsonl"


def test_latencies_of_something_else_are_warned_of(finished, table, tmp_path, caplog):
    arguments = ["--max-latency-ms", "2e-4", "--table", str(table), "--output", str(tmp_path / "out"), "--threads", "1"]
    assert main(["export", "torch", str(finished.parent), *arguments], export.COMMANDS) == 0
    about = "the table's latencies are of openvino-int8, threads: 3"
    assert f"{about}; torch in fp32 takes another time, the limit may not hold" in caplog.text
    assert f"{about}; here it is compared with threads: 1 (--threads)" in caplog.text
    assert "(torch, threads: 1), above the limit of 0.0002 ms; by the table 0.00 ms (openvino-int8, thr" in caplog.text


def test_latencies_of_the_same_are_not(finished, table, tmp_path, caplog):
    table.write_text(table.read_text().replace("openvino-int8", "torch").replace('"threads": 3', '"threads": 1'))
    arguments = ["--max-latency-ms", "1e5", "--table", str(table), "--output", str(tmp_path / "out"), "--threads", "1"]
    assert main(["export", "torch", str(finished.parent), *arguments], export.COMMANDS) == 0
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_both_halves_are_printed():
    dice = {"half": "tuning", "plain": 0.9, "exported": 0.8999, "cases": 3}
    checks = {
        "parity": {"max_difference": 0.1, "agreement": 1.0, "patches": 20, "patches_of": "unseen cases"},
        "latency_ms": {"plain": 2.0, "exported": 1.0},
        "megabytes": {"plain": 2.0, "exported": 1.0},
        "runtime": {"name": "openvino"},
        "device": "cpu",
        "threads": 1,
        "dice": dice,
        "dice_reporting": dice | {"half": "reporting", "exported": 0.7, "cases": 2},
    }
    lines = export._summary("a", checks, "out").splitlines()
    assert lines[-2] == "  mean Dice  0.8999 instead of 0.9000 on 3 cases of the tuning half, where the limit holds"
    assert lines[-1] == "  mean Dice  0.7000 instead of 0.9000 on 2 cases of the reporting half"


def test_a_budget_needs_a_table(finished, tmp_path, capsys):
    arguments = ["export", "onnx", str(finished.parent), "--max-latency-ms", "5", "--output", str(tmp_path / "out")]
    assert main(arguments, export.COMMANDS) == 2
    assert "max_latency_ms needs a table" in capsys.readouterr().err
    arguments[3:5] = ["--subnet", "smallest", "--table", "rows.jsonl"]
    assert main(arguments, export.COMMANDS) == 2
    assert "--table rows.jsonl has no say without a budget" in capsys.readouterr().err
