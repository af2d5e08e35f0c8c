"""A subnet as a folder that stock nnU-Net runs, with the same logits."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from prox_monai.integrations.nnunet import export
from prox_monai.integrations.nnunet.calibration import cases_of
from prox_monai.integrations.nnunet.export import export_stock, stock_subnet
from prox_monai.integrations.nnunet.trained import load_trained

BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "prox_monai":
            raise ImportError("prox_monai is not installed here")

sys.meta_path.insert(0, Blocker())
"""


def predictor(folder: Path, folds: tuple[int, ...] = (0,)) -> nnUNetPredictor:
    made = nnUNetPredictor(
        use_mirroring=False, device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False
    )
    made.initialize_from_trained_model_folder(str(folder), folds, "checkpoint_final.pth")
    return made


def at_full_resolution(model) -> list:
    space, rng = model.supernet.space.restrict(resolution=(1.0,)), random.Random(0)
    return [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(3))]


@pytest.mark.parametrize("index", range(5))
def test_logits_are_the_supernets(model, tmp_path, index):
    config = at_full_resolution(model)[index]
    stock = predictor(export_stock([model], config, tmp_path / "stock"))
    stock.network.load_state_dict(stock.list_of_parameters[0])
    stock.network.eval()
    model.supernet.activate(config)
    x = torch.randn(1, 1, 16, 24, 16)
    with torch.no_grad():
        assert torch.equal(stock.network(x), model.supernet(x))
    assert type(stock.network).__name__ == "PlainConvUNet"
    assert sum(p.numel() for p in stock.network.parameters()) == sum(
        p.numel() for p in model.supernet.extract(config).parameters()
    )


def test_logits_of_a_whole_case_are_the_supernets(model, finished, folders, tmp_path):
    """With the sliding window of stock nnU-Net, from a configuration file each."""
    config = model.supernet.space.restrict(resolution=(1.0,)).smallest()
    stock = predictor(export_stock([model], config, tmp_path / "stock"))
    ours = predictor(finished.parent)
    ours.network.load_state_dict(ours.list_of_parameters[0])
    ours.network.activate(config)
    ours.list_of_parameters = [ours.network.state_dict()]
    x = torch.randn(1, 20, 28, 21)
    assert torch.equal(stock.predict_logits_from_preprocessed_data(x), ours.predict_logits_from_preprocessed_data(x))


def test_the_folder_is_stock(model, tmp_path):
    config = model.supernet.space.restrict(resolution=(1.0,)).smallest()
    folder = export_stock([model], config, tmp_path / "stock")
    assert {path.name for path in folder.iterdir()} == {
        "plans.json",
        "dataset.json",
        "dataset_fingerprint.json",
        "fold_0",
    }
    plans = json.loads((folder / "plans.json").read_text())
    assert list(plans["configurations"]) == ["tiny"]
    architecture = plans["configurations"]["tiny"]["architecture"]
    assert architecture["network_class_name"].endswith("unet.PlainConvUNet")
    assert architecture["arch_kwargs"]["features_per_stage"] == [2, 4, 4]
    content = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=True)
    assert content["trainer_name"] == "nnUNetTrainer"
    assert not [name for name in content["network_weights"] if "extra_state" in name]


def test_it_predicts_where_this_package_is_not_installed(model, folders, tmp_path, monkeypatch):
    config = model.supernet.space.restrict(resolution=(1.0,)).largest()
    folder = export_stock([model], config, tmp_path / "stock")
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "sitecustomize.py").write_text(BLOCKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "blocked"))
    for name in ("nnUNet_extTrainer", "nnUNet_results", "nnUNet_preprocessed", "nnUNet_raw"):
        monkeypatch.delenv(name, raising=False)
    absent = subprocess.run([sys.executable, "-c", "import prox_monai"], capture_output=True, text=True)
    assert "prox_monai is not installed here" in absent.stderr
    image = next((folders.raw / folders.dataset / "imagesTr").iterdir())
    (tmp_path / "images").mkdir()
    shutil.copy(image, tmp_path / "images" / image.name)
    command = [
        "nnUNetv2_predict_from_modelfolder",
        "-i",
        tmp_path / "images",
        "-o",
        tmp_path / "out",
        "-m",
        folder,
    ]
    options = ["-f", "0", "-device", "cpu", "--disable_tta", "--save_probabilities", "-npp", "1", "-nps", "1"]
    ended = subprocess.run([*map(str, command), *options], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    probabilities = np.load(next((tmp_path / "out").glob("*.npz")))["probabilities"]
    assert np.allclose(probabilities, in_process(folder, tmp_path), rtol=0, atol=1e-6)  # threads differ


def in_process(folder: Path, tmp_path: Path) -> np.ndarray:
    made = predictor(folder)
    images = [[str(path)] for path in (tmp_path / "images").iterdir()]
    made.predict_from_files_sequential(images, [str(tmp_path / "again")], save_probabilities=True)
    return np.load(tmp_path / "again.npz")["probabilities"]


def test_aliases_stand_for_subnets_of_resolution_one(model):
    space = model.supernet.space
    assert stock_subnet(model, "smallest") == space.restrict(resolution=(1.0,)).smallest()
    assert stock_subnet(model, "largest") == space.largest()
    assert stock_subnet(model, "middle").resolution == 1


def test_another_resolution_is_refused_unless_approximate(model):
    with pytest.raises(
        ValueError,
        match=r"d1-w1-k3-r.7 works at resolution 0.7, which stock nnU-Net cannot do.*--approximate",
    ):
        stock_subnet(model, "d1-w1-k3-r.7")
    assert stock_subnet(model, "d1-w1-k3-r.7", approximate=True).resolution == 0.7


def test_approximate_runs_the_same_weights_at_resolution_one(model, tmp_path):
    config = stock_subnet(model, "d1-w1-k3-r.7", approximate=True)
    stock = predictor(export_stock([model], config, tmp_path / "stock"))
    model.supernet.activate(stock_subnet(model, "d1-w1-k3-r1"))
    stock.network.load_state_dict(stock.list_of_parameters[0])
    x = torch.randn(1, 1, 16, 24, 16)
    with torch.no_grad():
        assert torch.equal(stock.network.eval()(x), model.supernet(x))


def test_an_unknown_subnet_is_refused_with_those_that_exist(model):
    with pytest.raises(
        ValueError, match=r"there is no subnet 'd3-w1-k3-r1'.*depth \(1, 2\).*smallest, largest, and middle"
    ):
        stock_subnet(model, "d3-w1-k3-r1")


def test_what_is_there_is_not_overwritten(model, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is not empty; choose another folder or remove it"):
        export_stock([model], model.supernet.space.largest(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_a_subnet_that_is_not_in_the_space_leaves_no_folder(model, tmp_path):
    config = model.supernet.space.largest()
    other = type(config).uniform(5, 3, 1.0, 3)
    with pytest.raises(ValueError, match="depth 3"):
        export_stock([model], other, tmp_path / "stock")
    assert not (tmp_path / "stock").exists()


@pytest.mark.parametrize("source", ["unseen cases", "random numbers"])
def test_what_nnunet_reads_back_is_compared(model, folders, tmp_path, caplog, source):
    cases = cases_of(model, {"nnUNet_preprocessed": str(folders.preprocessed)}) if source == "unseen cases" else None
    with caplog.at_level("INFO", "prox_monai"):
        export_stock([model], model.space.largest(), tmp_path / "stock", cases=cases)
    assert f"fold 0: logits differ by 0 at most from the supernet's, on 20 patches of {source}" in caplog.text


def test_what_nnunet_would_read_differently_is_not_left_behind(model, tmp_path, monkeypatch):
    def disturbed(model, config, plans):
        content = written(model, config, plans)
        content["network_weights"] = {name: 1.1 * weight for name, weight in content["network_weights"].items()}
        return content

    written = export._stock_checkpoint
    monkeypatch.setattr(export, "_stock_checkpoint", disturbed)
    with pytest.raises(RuntimeError, match=r"the logits of the stock folder, fold 0, differ by .* Nothing was written"):
        export_stock([model], model.space.largest(), tmp_path / "stock")
    assert list(tmp_path.iterdir()) == []


def test_what_was_broken_off_leaves_no_folder(model, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(export, "write_atomically", fail)
    with pytest.raises(OSError, match="disk full"):
        export_stock([model], model.supernet.space.largest(), tmp_path / "stock")
    assert list(tmp_path.iterdir()) == []


def test_several_folds_in_one_folder(model, tmp_path):
    other = dataclasses.replace(model, fold=1, supernet=copy.deepcopy(model.supernet))
    with torch.no_grad():
        for parameter in other.supernet.parameters():
            parameter.mul_(1.5)
    config = model.supernet.space.largest()
    (tmp_path / "stock").mkdir()
    folder = export_stock([model, other], config, tmp_path / "stock")
    stock = predictor(folder, (0, 1))
    for weights, fold in zip(stock.list_of_parameters, (model, other), strict=True):
        expected = fold.extract_at_full_resolution(config).state_dict()
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize("field", ["plans", "configuration_name", "space"])
def test_folds_that_differ_are_refused(model, tmp_path, field):
    changes = {"plans": {}, "configuration_name": "2d", "space": model.space.restrict(resolution=(1.0,))}
    other = dataclasses.replace(model, fold=1, **{field: changes[field]})
    with pytest.raises(ValueError, match=rf"fold 1 has another {field} than fold 0; export it on its own"):
        export_stock([model, other], model.supernet.space.largest(), tmp_path / "stock")
    assert not (tmp_path / "stock").exists()


def test_a_folder_that_is_no_model_is_refused(tmp_path, stock):
    with pytest.raises(
        FileNotFoundError, match="plans.json does not exist; .* should be a model folder of ProXTrainer"
    ):
        load_trained(tmp_path)
    with pytest.raises(ValueError, match="is not a checkpoint of ProXTrainer|holds pickled objects"):
        load_trained(stock.parents[1])


def test_a_phase_checkpoint_offers_what_was_trained(finished):
    """Names stand for subnets of the phase; what was never trained is not exported."""
    model = load_trained(finished.parent, checkpoint="checkpoint_phase0.pth")
    assert model.multiply_adds().find("largest") == model.space.largest() == model.space.smallest()
    with pytest.raises(ValueError, match=r"there is no subnet 'd2-w1-k5-r1': depth 2 .* \(1,\)"):
        stock_subnet(model, "d2-w1-k5-r1")
