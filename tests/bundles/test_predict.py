"""``prox-monai predict`` with a trained bundle, and with a subnet of one: what the bundle's own inference writes."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

if any(find_spec(name) is None for name in ("monai", "ignite", "fire", "tensorboard")):
    pytest.skip('needs MONAI and what its bundles need: pip install "prox-monai[monai]"', allow_module_level=True)

from monai.bundle import run

from prox_monai.cli import main
from prox_monai.commands import predict
from prox_monai.integrations.monai import inference
from prox_monai.integrations.monai.export import export_bundle

pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")


def command(bundle: Path, source: Path, target: Path, *options: str) -> int:
    return main(["predict", str(bundle), "-i", str(source), "-o", str(target), *options], predict.COMMANDS)


@pytest.fixture(scope="module")
def bundle(trained_hippocampus, tmp_path_factory) -> Path:
    return trained_hippocampus.copied(tmp_path_factory.mktemp("own") / "bundle")


@pytest.fixture(scope="module")
def images(trained_hippocampus) -> Path:
    return Path(trained_hippocampus.override["dataset_dir"], "imagesTr")


def label_maps(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(nib.load(path).dataobj) for path in sorted(folder.iterdir())}


def test_label_maps_are_those_of_the_bundle(bundle, images, tmp_path, capsys):
    run(
        config_file=str(bundle / "configs" / "inference.json"),
        bundle_root=str(bundle),
        dataset_dir=str(images),
        output_dir=str(tmp_path / "theirs"),
        subnet="smallest",
    )
    assert command(bundle, images, tmp_path / "ours", "--subnet", "smallest") == 0
    ours, theirs = label_maps(tmp_path / "ours"), label_maps(tmp_path / "theirs")
    assert len(ours) == len(list(images.iterdir()))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert f"Files in {tmp_path / 'ours'}: {len(ours)}, the first is {min(ours)}." in capsys.readouterr().out


def test_one_image_by_a_subnet_of_its_own(bundle, images, tmp_path, capsys):
    export_bundle(bundle, tmp_path / "plain", subnet="smallest")
    first = min(images.iterdir())
    assert command(bundle, first, tmp_path / "d1-w.5-k3-r.5", "--subnet", "smallest") == 0  # dots make no file
    assert command(tmp_path / "plain", first, tmp_path / "alone", "--threads", "1") == 0
    (family,), (alone,) = (label_maps(tmp_path / name).values() for name in ("d1-w.5-k3-r.5", "alone"))
    assert (family == alone).mean() > 0.999
    assert command(tmp_path / "plain", first, tmp_path / "other", "--subnet", "largest") == 2
    assert "holds one subnet, subnet has no say; give a trained bundle" in capsys.readouterr().err


def test_classes_are_a_table(trained_retinal, tmp_path, capsys):
    bundle = trained_retinal.copied(tmp_path / "bundle")
    images = tmp_path / "images"
    images.mkdir()
    for image in sorted(Path(trained_retinal.override["dataset_dir"]).rglob("*.jpeg"))[:3]:
        shutil.copy(image, images)
    assert command(bundle, images, tmp_path / "out") == 0
    (table,) = (tmp_path / "out").iterdir()
    assert f"Files in {tmp_path / 'out'}: 1, the first is {table.name}." in capsys.readouterr().out
    assert len(table.read_text().splitlines()) in (3, 4)


def test_nothing_is_overwritten_unless_asked(bundle, images, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert command(bundle, images, tmp_path) == 2
    assert "exists and is not empty; give another folder, or --overwrite" in capsys.readouterr().err
    assert command(bundle, min(images.iterdir()), tmp_path, "--overwrite") == 0
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget-s", "1"], "--budget-s has no say in a bundle's own inference"),
        (["--runtime", "torch"], "--runtime has no say in a bundle's own inference"),
        (["--no-mirroring"], "--no-mirroring has no say in a bundle's own inference"),
        (["--fold", "3"], "--fold has no say in a bundle's own inference"),
        (["--subnet", "d9-w1-k3-r1"], "d9-w1-k3-r1"),
        (["--max-latency-ms", "1e-9"], "no known subnet has a latency <= 1e-09 ms"),
        (["--config", "nowhere.json"], "nowhere.json"),
    ],
)
def test_wrong_options(bundle, images, tmp_path, capsys, options, message):
    assert command(bundle, images, tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_wrong_images(bundle, images, tmp_path, capsys):
    assert command(bundle, min(images.iterdir()), tmp_path / "one.nii.gz") == 2
    assert "one.nii.gz looks like a file, but a bundle names its files itself; give a folder" in capsys.readouterr().err
    assert command(bundle, tmp_path / "nowhere", tmp_path / "out") == 2
    assert "nowhere does not exist; give an image, or a folder of images" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert command(bundle, tmp_path / "empty", tmp_path / "out") == 2
    assert "holds no NIfTI file" in capsys.readouterr().err


def spoilt(image: nib.Nifti1Image, kind: str) -> nib.Nifti1Image:
    array = np.asarray(image.dataobj, dtype=np.float32).copy()
    if kind == "nan":
        array[3, 4, 5] = np.nan
    if kind == "constant":
        array[:] = 7
    if kind == "4d":
        array = np.stack([array] * 5, axis=-1)
    return nib.Nifti1Image(array, image.affine)


def test_images_that_cannot_be_predicted_are_all_named_at_once(bundle, images, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name in ("nan", "constant", "4d"):
        nib.save(spoilt(nib.load(min(images.iterdir())), name), tmp_path / "in" / f"{name}.nii.gz")
    (tmp_path / "in" / "text.nii.gz").write_text("no image")
    shutil.copy(min(images.iterdir()), tmp_path / "in" / "good.nii.gz")
    export_bundle(bundle, tmp_path / "plain", subnet="smallest")
    for model in (bundle, tmp_path / "plain"):
        assert command(model, tmp_path / "in", tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert "in cannot be used, problems: 4" in error
        for line in (
            "4d.nii.gz: has 5 channels, the model takes 1",
            "constant.nii.gz: channel 0 is constant",
            "nan.nii.gz: holds 1 values that are not finite",
            "text.nii.gz: cannot be read as an image",
        ):
            assert line in error
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "plain"]


def test_nothing_is_left_of_what_was_broken_off(bundle, images, tmp_path, capsys, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(inference, "_moved", interrupted)
    assert command(bundle, images, tmp_path / "out") == 130
    assert "stopped; nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_of_others(bundle, images, tmp_path, capsys):
    shutil.copytree(bundle, tmp_path / "theirs", symlinks=True)
    path = tmp_path / "theirs" / "configs" / "inference.json"
    content = json.loads(path.read_text())
    content.pop("initialize")
    path.write_text(json.dumps(content))
    assert command(tmp_path / "theirs", images, tmp_path / "out") == 2
    assert "inference.json has no initialize; run it by python -m monai.bundle" in capsys.readouterr().err


def test_a_bundle_that_is_not_trained(trained_hippocampus, images, tmp_path, capsys):
    bundle = trained_hippocampus.copied(tmp_path / "bundle")
    (bundle / "models").unlink()
    assert command(bundle, images, tmp_path / "out") == 2
    assert "does not exist; train first, or give --ckpt_dir" in capsys.readouterr().err
