"""What the retinal bundle refuses, before training starts: the cause says what is wrong."""

from __future__ import annotations

import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

if any(find_spec(name) is None for name in ("monai", "ignite", "fire", "tensorboard", "PIL")):
    pytest.skip('needs MONAI and what its bundles need: pip install "prox-monai[monai]"', allow_module_level=True)

from PIL import Image

from prox_monai.evaluation.subnets import read_rows

TRAIN = ("train", "train.json")
EVALUATE = ("train", "train.json", "evaluate.json")
SEARCH = ("train", "train.json", "search.json")
INFER = ("infer", "inference.json")


@pytest.fixture
def data(retinal_data, tmp_path) -> Path:
    """A copy of the data to be damaged."""
    return Path(shutil.copytree(retinal_data, tmp_path / "data"))


def colour(folder: Path) -> None:
    Image.new("RGB", (48, 40)).save(folder / "CNV" / "CNV-1001-1.jpeg")


def sixteen_bits(folder: Path) -> None:
    Image.new("I;16", (48, 40)).save(folder / "CNV" / "CNV-9-1.png")
    (folder / "manifest.csv").unlink()


def cut_off(folder: Path) -> None:
    path = folder / "CNV" / "CNV-1001-1.jpeg"
    path.write_bytes(path.read_bytes()[:300])


def no_class(folder: Path) -> None:
    shutil.rmtree(folder / "DRUSEN")


def empty_class(folder: Path) -> None:
    shutil.rmtree(folder / "DRUSEN")
    (folder / "DRUSEN").mkdir()
    (folder / "manifest.csv").unlink()


def missing_file(folder: Path) -> None:
    (folder / "DME" / "DME-2001-2.jpeg").unlink()


def two_sides(folder: Path) -> None:
    manifest = folder / "manifest.csv"
    head, *rows = manifest.read_text().splitlines()
    rows = [f"{row},{('train', 'test')[number % 2]}" for number, row in enumerate(rows)]
    manifest.write_text("\n".join([f"{head},split", *rows]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (colour, "CNV/CNV-1001-1.jpeg has Pillow's mode RGB, not L (grey, 8 bits); convert it"),
        (sixteen_bits, "CNV/CNV-9-1.png has Pillow's mode I;16, not L (grey, 8 bits); convert it"),
        (cut_off, "CNV/CNV-1001-1.jpeg cannot be read"),
        (no_class, "class folder DRUSEN is missing"),
        (empty_class, "class DRUSEN has no .jpeg, .jpg or .png file"),
        (missing_file, "DME/DME-2001-2.jpeg does not exist"),
        (two_sides, "patient 1001 is on both sides of the split: test, train"),
    ],
)
def test_data_that_are_not_in_order(trained_retinal, data, tmp_path, refusal, damage, message):
    """A trained model that was to be overwritten is still there."""
    damage(data)
    models = Path(shutil.copytree(trained_retinal.override["ckpt_dir"], tmp_path / "models"))
    before = {path: path.stat().st_mtime_ns for path in models.rglob("*")}
    bundle = trained_retinal.but(ckpt_dir=str(models), dataset_dir=str(data))
    assert message in refusal(lambda: bundle.begin(*TRAIN, overwrite=True))
    assert {path: path.stat().st_mtime_ns for path in models.rglob("*")} == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"dataset_dir": "/missing"}, r"dataset_dir must be a folder that holds the folders .*; give --dataset_dir"),
        ({"classes": ["CNV", "DME", "AMD", "NORMAL"]}, r"class folder AMD is missing; folders here: CNV, DME, DRUSEN"),
        ({"fold": 3}, r"fold must be 0 to 2, not 3"),
        ({"epochs": 5}, r"5 epochs cannot cover 6 phases; give at least 6"),
        ({"preset": "ofa"}, r"preset must be one of plus, paper, .*, got 'ofa'"),
        ({"space::width": [1, 3]}, r"width 1 of section 0 is an expansion ratio and must be above 1"),
    ],
)
def test_settings_that_do_not_fit(retinal, refusal, override, message):
    assert re.search(message, refusal(lambda: retinal.begin(*TRAIN, **override)))
    assert not retinal.model.parent.exists()


def test_another_folder(retinal, refusal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for names in (TRAIN, EVALUATE, SEARCH, INFER):
        text = refusal(lambda names=names: retinal.begin(*names, bundle_root="."))
        assert text.startswith("bundle_root must be the folder of the bundle, with configs/metadata.json, got '.' in ")


@pytest.mark.parametrize("names", [EVALUATE, SEARCH, INFER])
def test_no_model(retinal, refusal, names):
    text = refusal(lambda: retinal.begin(*names))
    assert text.endswith("model.pt does not exist; train first, or give --ckpt_dir.")


def test_a_training_that_is_there(trained_retinal, refusal):
    text = refusal(lambda: trained_retinal.begin(*TRAIN))
    assert "holds a training already (" in text
    assert "model.pt): go on with --resume true, begin anew with --overwrite true, or give another --ckpt_dir" in text


@pytest.mark.parametrize("names", [EVALUATE, SEARCH, INFER])
def test_another_size_than_in_training(trained_retinal, refusal, names):
    text = refusal(lambda: trained_retinal.begin(*names, size=[48, 48]))
    assert text.startswith("size is [48, 48], but the model in ")
    assert "was trained with [32, 32]" in text


def test_a_subnet_outside_the_space(trained_retinal, refusal, tmp_path):
    bundle = trained_retinal.but(output_dir=str(tmp_path))
    for call in (
        lambda: bundle.run(*INFER, subnet="d3-w3-k3-r1"),
        lambda: bundle.run(*EVALUATE, subnets="d3-w3-k3-r1"),
    ):
        assert "depth 3 of section 0 is not in the search space (1, 2)" in refusal(call)


def test_a_subnet_without_statistics(trained_retinal, refusal, tmp_path):
    """Another subnet than those of the sweep; or all of them, where the file is gone."""
    text = refusal(lambda: trained_retinal.run(*INFER, subnet="d1-w4-k5-r1"))
    assert text.startswith("subnet d1-w4-k5-r1 has no normalisation statistics of its own in ")
    assert "configs/search.json of a bundle does" in text
    models = Path(shutil.copytree(trained_retinal.override["ckpt_dir"], tmp_path / "models"))
    (models / "subnet_statistics.pth").unlink()
    assert "subnet largest has no normalisation" in refusal(
        lambda: trained_retinal.run(*INFER, ckpt_dir=str(models), output_dir=str(tmp_path))
    )


def test_a_budget_below_the_fastest(trained_retinal, refusal):
    rows = read_rows(Path(trained_retinal.override["ckpt_dir"], "subnets.jsonl"))
    fastest = min(rows, key=lambda row: row["latency_ms"])
    for names in (INFER, SEARCH):
        text = refusal(lambda names=names: trained_retinal.run(*names, max_latency_ms=1e-4))
        assert text.startswith("no known subnet has a latency <= 0.0001 ms; the fastest, ")
        assert f"{fastest['key']}, takes {fastest['latency_ms']:.1f} ms on" in text


def test_images_of_another_kind(trained_retinal, refusal, tmp_path):
    bundle = trained_retinal.but(output_dir=str(tmp_path / "eval"), dataset_dir=str(tmp_path))
    assert "holds no .jpeg, .jpg, .png file, nor do the folders in it" in refusal(lambda: bundle.run(*INFER))
    Image.new("RGB", (48, 40)).save(tmp_path / "scan.png")
    assert "scan.png has Pillow's mode RGB, not L" in refusal(lambda: bundle.run(*INFER))
    assert not (tmp_path / "eval").exists()
