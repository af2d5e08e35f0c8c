"""A subnet of a trained bundle as a bundle of its own, run where this package cannot be imported."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import nibabel as nib
import numpy as np
import pytest
import torch

if any(find_spec(name) is None for name in ("monai", "ignite", "fire", "tensorboard")):
    pytest.skip('needs MONAI and what its bundles need: pip install "prox-monai[monai]"', allow_module_level=True)

from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out

from prox_monai.cli import main
from prox_monai.integrations.monai import export
from prox_monai.integrations.monai.export import export_bundle

WITHOUT_PLUGIN = """
import sys
sys.modules["prox_monai"] = None
from monai.bundle import run
device = "$torch.device('cpu')"
run(config_file="configs/inference.json", dataset_dir=sys.argv[1], output_dir=sys.argv[2], device=device)
"""


@pytest.fixture(scope="module")
def bundle(trained_hippocampus, tmp_path_factory) -> Path:
    return trained_hippocampus.copied(tmp_path_factory.mktemp("own") / "bundle")


def label_maps(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(nib.load(path).dataobj) for path in sorted(folder.glob("*.nii.gz"))}


@pytest.mark.parametrize(("subnet", "form"), [("d2-w1-k5-r1", "model.pt"), ("smallest", "model.ts")])
@pytest.mark.parametrize("name", ["hippocampus", "brats"])
def test_it_predicts_the_same_without_this_package(name, request, tmp_path, caplog, subnet, form):
    trained = request.getfixturevalue(f"trained_{name}")
    bundle = trained.copied(tmp_path / "bundle")
    if form == "model.pt":
        pytest.importorskip("dynamic_network_architectures", reason='needs pip install "prox-monai[nnunet]"')
    images = Path(trained.override["dataset_dir"], "imagesTr")
    with caplog.at_level("INFO", "prox_monai"):
        config = export_bundle(bundle, tmp_path / "plain", subnet=subnet, dataset_dir=images)
    assert f"on {len(list(images.iterdir()))} images" in caplog.text
    assert [path.name for path in (tmp_path / "plain" / "models").iterdir()] == [form]
    metadata = json.loads((tmp_path / "plain" / "configs" / "metadata.json").read_text())
    assert metadata["subnet"] == config.to_dict()
    assert "eval_metrics" not in metadata  # those of the family
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [16, 16, 16]  # that of this training
    assert "prox-monai" not in metadata["required_packages_version"]
    assert "prox_monai" not in (tmp_path / "plain" / "configs" / "inference.json").read_text()
    command = [sys.executable, "-c", WITHOUT_PLUGIN, str(images.parent), str(tmp_path / "predicted")]
    done = subprocess.run(command, cwd=tmp_path / "plain", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    trained.run("infer", "inference.json", dataset_dir=str(images), output_dir=str(tmp_path / "own"), subnet=subnet)
    ours, plain = label_maps(tmp_path / "own"), label_maps(tmp_path / "predicted")
    assert ours.keys() == plain.keys()
    assert len(ours) == len(list(images.iterdir()))
    assert any(len(np.unique(labels)) > 1 for labels in ours.values())
    assert all(np.array_equal(ours[name], plain[name]) for name in ours)


@pytest.mark.filterwarnings("ignore:`torch.jit.:FutureWarning")
@pytest.mark.parametrize("subnet", ["d2-w1-k5-r1", "smallest"])
def test_it_passes_the_checks_of_a_bundle(bundle, data_folder, tmp_path, monkeypatch, subnet):
    """As a class of nnU-Net's, and as TorchScript."""
    pytest.importorskip("dynamic_network_architectures", reason='needs pip install "prox-monai[nnunet]"')
    pytest.importorskip("jsonschema")
    export_bundle(bundle, tmp_path / "plain", subnet=subnet)
    monkeypatch.chdir(tmp_path / "plain")  # its bundle_root is .
    config, metadata = "configs/inference.json", "configs/metadata.json"
    workflow = ConfigWorkflow(workflow_type="infer", config_file=config, meta_file=metadata, logging_file=False)
    workflow.initialize()
    assert workflow.check_properties() == []
    verify_net_in_out(net_id="network_def", meta_file=metadata, config_file=config)
    schema = data_folder / "monai_schema" / json.loads(Path(metadata).read_text())["schema"].split("/")[-1]
    verify_metadata(
        meta_file=metadata,
        filepath=shutil.copy(schema, tmp_path / "schema.json"),
        hash_val=hashlib.md5(schema.read_bytes()).hexdigest(),
    )


def test_torchscript_holds_the_configuration_of_inference(bundle, tmp_path):
    """MONAI Deploy takes its transforms from it."""
    export_bundle(bundle, tmp_path / "plain", subnet="smallest")
    with ZipFile(tmp_path / "plain" / "models" / "model.ts") as archive:
        extra = {Path(name).name: archive.read(name) for name in archive.namelist() if "/extra/" in name}
    assert extra.keys() == {"metadata.json", "inference.json"}
    written = json.loads((tmp_path / "plain" / "configs" / "inference.json").read_text())
    assert json.loads(extra["inference.json"]) == written
    assert {"preprocessing", "inferer", "postprocessing"} <= written.keys()
    assert b"prox" not in extra["inference.json"]


def test_settings_of_the_training_are_left_out(bundle, tmp_path):
    """Those that inference does not have: what they refer to is not there, either."""
    settings = {"preset": "plus", "epochs": 6, "save_interval": "@val_interval", "overlap": 0.25}
    settings["dataset_dir"] = "/data/prox_study/images"  # a place may be called anything
    (tmp_path / "quick.json").write_text(json.dumps(settings))
    export_bundle(bundle, tmp_path / "plain", subnet="smallest", configs=[tmp_path / "quick.json"])
    shipped, plain = (json.loads((f / "configs" / "inference.json").read_text()) for f in (bundle, tmp_path / "plain"))
    assert plain.keys() < shipped.keys()
    assert plain["overlap"] == 0.25


def test_the_command_takes_the_best_subnet_within_a_budget(bundle, tmp_path, capsys):
    pytest.importorskip("dynamic_network_architectures", reason='needs pip install "prox-monai[nnunet]"')
    options = ["export", "bundle", str(bundle), "--output", str(tmp_path / "plain")]
    assert main([*options, "--max-latency-ms", "1e6"]) == 0
    rows = [json.loads(line) for line in (bundle / "models" / "subnets.jsonl").read_text().splitlines()]
    assert max(rows, key=lambda row: row["score"])["key"] in capsys.readouterr().out
    assert main([*options, "--subnet", "largest"]) == 2
    assert "plain exists and is not empty; choose another folder or remove it" in capsys.readouterr().err


def test_bad_input(bundle, tmp_path):
    for options, message in (
        ({"subnet": "d9"}, "there is no subnet 'd9'"),
        ({"max_latency_ms": 1e-6}, r"no known subnet has a latency <= 1e-06 ms; the fastest"),
        ({"ckpt_dir": tmp_path}, "model.pt does not exist; train first"),
        ({"dataset_dir": tmp_path}, f"dataset_dir {re.escape(str(tmp_path))} holds no"),
    ):
        with pytest.raises(ValueError, match=message):
            export_bundle(bundle, tmp_path / "plain", **options)
    with pytest.raises(ValueError, match="bundle_root must be the folder of the bundle"):
        export_bundle(tmp_path, tmp_path / "plain")
    assert not (tmp_path / "plain").exists()


def test_nnunets_network_class_is_named_where_it_is_missing(bundle, tmp_path, monkeypatch):
    def version(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr(export, "version", version)
    with pytest.raises(ImportError, match=r'dynamic_network_architectures: pip install "prox-monai\[monai\]"'):
        export_bundle(bundle, tmp_path / "plain", subnet="d2-w1-k5-r1")
    assert not (tmp_path / "plain").exists()


def test_a_network_that_came_out_differently_is_not_left_behind(bundle, tmp_path, monkeypatch):
    pytest.importorskip("dynamic_network_architectures", reason='needs pip install "prox-monai[nnunet]"')

    def disturbed(network):
        return {name: tensor + 0.01 * torch.rand_like(tensor) for name, tensor in right(network).items()}

    right = export.stock_state
    monkeypatch.setattr(export, "stock_state", disturbed)
    with pytest.raises(RuntimeError, match="the logits of the exported network differ by .* Nothing was written"):
        export_bundle(bundle, tmp_path / "plain", subnet="d2-w1-k5-r1")
    assert not (tmp_path / "plain").exists()
