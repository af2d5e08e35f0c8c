"""Label maps are those of nnU-Net's own prediction with the same subnet, in the image's own geometry."""

from __future__ import annotations

import dataclasses
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from prox_monai.cli import main
from prox_monai.commands import predict as command
from prox_monai.evaluation.subnets import append_row
from prox_monai.integrations.nnunet.case_predictor import CasePredictor
from prox_monai.integrations.nnunet.choice import Choice
from prox_monai.integrations.nnunet.deploy import deploy
from prox_monai.integrations.nnunet.export import export_stock
from prox_monai.integrations.nnunet.predict import prepare_prediction
from prox_monai.integrations.nnunet.predictions import RECORD

pytestmark = pytest.mark.filterwarnings("default")  # the formats' own, when they are imported
FORMATS = (
    ["torch"]
    + ["bundle"] * (find_spec("monai") is not None)
    + (["onnx", "openvino"] if find_spec("onnxruntime") and find_spec("openvino") else [])
)


@pytest.fixture(scope="session")
def config(varied):
    """A subnet that stock nnU-Net can run."""
    return dataclasses.replace(varied.space.smallest(), resolution=1.0)


@pytest.fixture(scope="session")
def exported(varied, config, tmp_path_factory) -> Path:
    """A folder of exported models, by format."""
    root = tmp_path_factory.mktemp("exported")
    for format in FORMATS:
        deploy(varied, config, format, root / format)
    return root


@pytest.fixture(scope="session")
def images(folders, tmp_path_factory) -> Path:
    """Two cases."""
    folder = tmp_path_factory.mktemp("images")
    for image in sorted((folders.raw / folders.dataset / "imagesTr").iterdir())[:2]:
        shutil.copy(image, folder)
    return folder


@pytest.fixture(scope="session")
def theirs(varied, config, images, tmp_path_factory) -> Path:
    """What nnU-Net's own predictor makes of the images with the same subnet, mirrored and not."""
    root = tmp_path_factory.mktemp("theirs")
    stock = export_stock([varied], config, root / "stock")
    for name, mirror in (("mirrored", True), ("plain", False)):
        predictor = nnUNetPredictor(
            use_mirroring=mirror, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
        )
        predictor.initialize_from_trained_model_folder(str(stock), (0,), "checkpoint_final.pth")
        files = sorted(images.iterdir())
        targets = [str(root / name / path.name.removesuffix("_0000.nii.gz")) for path in files]
        (root / name).mkdir()
        predictor.predict_from_files_sequential([[str(path)] for path in files], targets)
    return root


def array(path: Path) -> np.ndarray:
    return np.asanyarray(nibabel.load(path).dataobj)


def interrupted(*arguments):
    raise KeyboardInterrupt


def predict(folder, source, target, **options) -> list:
    return list(prepare_prediction(folder, source, target, **options).run())


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", ["mirrored", "plain"])
def test_label_maps_are_nnunets(format, kind, exported, images, theirs, tmp_path):
    predicted = predict(exported / format, images, tmp_path / "out", mirror=kind == "mirrored")
    assert len(predicted) == 2
    for each in predicted:
        expected, got = array(theirs / kind / each.path.name), array(each.path)
        assert len(np.unique(expected)) > 1
        assert got.dtype == expected.dtype
        assert (got == expected).mean() >= 0.999
        assert sum(each.voxels.values()) == np.count_nonzero(got)
        assert each.seconds > 0


def test_a_stock_folder_and_a_family_give_the_same(varied, config, theirs, images, finished, tmp_path):
    """The family on disk has other weights than the varied one."""
    stock = predict(theirs / "stock", images, tmp_path / "stock")
    assert all((array(each.path) == array(theirs / "mirrored" / each.path.name)).mean() >= 0.999 for each in stock)
    prediction = prepare_prediction(finished.parent, images, tmp_path / "out", choice=Choice(subnet=config.name))
    assert prediction.deployed.about["subnet"] == config.name
    network = prediction.deployed.network
    network.load_state_dict(varied.supernet.extract(config).state_dict())
    for each in prediction.run():
        assert (array(each.path) == array(theirs / "mirrored" / each.path.name)).mean() >= 0.999


@pytest.mark.parametrize("kind", ["spacing", "flipped", "oblique"])
def test_the_geometry_is_the_images(kind, exported, images, tmp_path):
    angle = np.deg2rad(20)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    matrix = {
        "spacing": np.diag([0.7, 1.3, 2.0]),
        "flipped": np.diag([-1.0, -1.0, 1.0]),
        "oblique": rotation @ np.diag([1.0, 1.0, 1.5]),
    }[kind]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix, [-20, 31, 7]
    source = array(min(images.iterdir()))
    nibabel.save(nibabel.Nifti1Image(source, affine), tmp_path / "image.nii.gz")
    (each,) = predict(exported / "torch", tmp_path / "image.nii.gz", tmp_path / "out")
    label = nibabel.load(each.path)
    assert label.shape == source.shape
    assert np.allclose(label.affine, affine, atol=1e-5)
    assert set(np.unique(array(each.path))) <= {0, 1, 2}


def test_it_goes_on_where_it_ended(exported, images, tmp_path, monkeypatch):
    first = predict(exported / "torch", images, tmp_path / "out")
    maps = {each.path: each.path.read_bytes() for each in first}
    first[0].path.unlink()
    again = prepare_prediction(exported / "torch", images, tmp_path / "out")
    assert [case.name for case in again.todo()] == [first[0].case]
    assert [each.case for each in again.run()] == [each.case for each in first]
    assert {path: path.read_bytes() for path in maps} == maps
    monkeypatch.setattr(CasePredictor, "segment", None)  # nothing is left to do
    last = predict(exported / "torch", images, tmp_path / "out")
    assert [each.voxels for each in last] == [each.voxels for each in first]


def test_an_interrupted_case_leaves_nothing(exported, images, tmp_path, monkeypatch):
    prediction = prepare_prediction(exported / "torch", images, tmp_path / "out").run()
    done = next(prediction)

    monkeypatch.setattr(CasePredictor, "segment", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(prediction)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([RECORD, done.path.name])
    assert list(json.loads((tmp_path / "out" / RECORD).read_text())["cases"]) == [done.case]


def test_other_content_is_not_overwritten(exported, images, finished, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds something else"):
        predict(exported / "torch", images, tmp_path / "out")
    predict(exported / "torch", images, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    with pytest.raises(FileExistsError, match="holds predictions of another model"):
        predict(exported / "torch", images, tmp_path / "out", mirror=False)


def test_another_patients_label_map_is_not_handed_out(exported, images, tmp_path):
    """Two images of one name: the second is not taken for the first."""
    first, second = sorted(images.iterdir())
    for folder, image in (("one", first), ("other", second), ("moved", first)):
        (tmp_path / folder).mkdir()
        shutil.copy(image, tmp_path / folder / "case_0000.nii.gz")
    (known,) = predict(exported / "torch", tmp_path / "one", tmp_path / "out")
    before = known.path.read_bytes()
    with pytest.raises(FileExistsError, match=r"out holds label maps of other images under the same names \(case\)"):
        predict(exported / "torch", tmp_path / "other", tmp_path / "out")
    assert known.path.read_bytes() == before
    assert not prepare_prediction(exported / "torch", tmp_path / "moved", tmp_path / "out").todo()
    predict(exported / "torch", tmp_path / "other", tmp_path / "out", overwrite=True)
    assert known.path.read_bytes() != before


def test_folds_that_play_no_part_are_named(theirs, images, tmp_path, caplog):
    prepare_prediction(theirs / "stock", images, tmp_path / "out")
    assert "alone predicts" not in caplog.text
    folder = shutil.copytree(theirs / "stock", tmp_path / "stock")
    shutil.copytree(folder / "fold_0", folder / "fold_1")
    prepare_prediction(folder, images, tmp_path / "out")
    assert "stock holds fold_0, fold_1; fold_0 alone predicts, without the others" in caplog.text


def test_images_are_never_overwritten(exported, images, tmp_path):
    image = shutil.copy(min(images.iterdir()), tmp_path / "image.nii.gz")
    for target in (tmp_path, image):
        with pytest.raises(ValueError, match=r"image.nii.gz would overwrite the image; give another folder"):
            predict(exported / "torch", image, target, overwrite=True)


def test_one_image_into_one_file(exported, images, theirs, tmp_path):
    image = min(images.iterdir())
    target = tmp_path / "deep" / "label.nii.gz"
    predict(exported / "torch", image, target)
    assert np.array_equal(array(target), array(theirs / "mirrored" / image.name.replace("_0000", "")))
    assert list(target.parent.iterdir()) == [target]
    with pytest.raises(FileExistsError, match="label.nii.gz exists"):
        predict(exported / "torch", image, target)
    with pytest.raises(ValueError, match="is one file, but there are 2 cases; give a folder"):
        predict(exported / "torch", images, tmp_path / "other.nii.gz")


def test_bad_images_are_refused_before_anything_is_written(exported, images, tmp_path):
    shutil.copytree(images, tmp_path / "images")
    (tmp_path / "images" / "bad.nii.gz").write_bytes(b"no image")
    with pytest.raises(ValueError, match="bad.nii.gz: cannot be read as an image"):
        predict(exported / "torch", tmp_path / "images", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def table(model, tmp_path) -> Path:
    for name, dice, latency in (("smallest", 0.5, 1.0), ("largest", 0.9, 100.0)):
        config = getattr(model.space, name)()
        row = {"name": name, "key": config.name, "model": model.digest, "config": config.to_dict(), "dice": dice}
        append_row(row | {"latency_ms": latency, "latency": {"device": "cpu", "threads": 1}}, tmp_path / "rows.jsonl")
    return tmp_path / "rows.jsonl"


@pytest.mark.parametrize(
    ("budget", "mirror", "name"),
    # an image of 20 x 28 x 20 voxels has eight windows of 16 x 24 x 16, eight passes each when mirrored
    [(6.5, True, "largest"), (6.3, True, "smallest"), (0.81, False, "largest"), (0.79, False, "smallest")],
)
def test_a_budget_per_case_picks_the_subnet(budget, mirror, name, model, finished, images, table, tmp_path):
    choice = Choice(budget_s=budget, table=table)
    prediction = prepare_prediction(finished.parent, images, tmp_path / "out", choice=choice, mirror=mirror)
    assert prediction.deployed.about["subnet"] == getattr(model.space, name)().name


def test_an_exported_model_leaves_no_choice(exported, images, tmp_path):
    with pytest.raises(ValueError, match="holds one subnet in one form, --fold has no say; leave it out"):
        prepare_prediction(exported / "torch", images, tmp_path / "out", fold=3)
    with pytest.raises(ValueError, match="holds one subnet in one form, --budget-s has no say; give a folder of P"):
        predict(exported / "torch", images, tmp_path / "out", choice=Choice(budget_s=1, table="rows.jsonl"))


@pytest.mark.skipif("openvino" not in FORMATS, reason='needs pip install "prox-monai[export]"')
def test_the_runtime_is_the_one_whose_latencies_decided(finished, images, table, tmp_path):
    table.write_text(table.read_text().replace('"device": "cpu"', '"device": "cpu", "runtime": "openvino"'))
    choice = Choice(max_latency_ms=50, table=table)
    prediction = prepare_prediction(finished.parent, images, tmp_path / "out", choice=choice)
    assert prediction.deployed.about["runtime"].startswith("openvino ")
    options = {"choice": choice, "runtime": "torch"}
    plain = list(prepare_prediction(finished.parent, images, tmp_path / "plain", **options).run())
    for ours, theirs in zip(prediction.run(), plain, strict=True):
        assert (array(ours.path) == array(theirs.path)).mean() > 0.999


def test_int8_has_to_be_exported(finished, images, table, tmp_path):
    table.write_text(table.read_text().replace('"device": "cpu"', '"device": "cpu", "runtime": "openvino-int8"'))
    with pytest.raises(ValueError, match=r"int8 needs calibration: prox-monai export openvino --precision int8 --subn"):
        predict(finished.parent, images, tmp_path / "out", choice=Choice(max_latency_ms=50, table=table))


def test_a_folder_without_a_model(images, tmp_path):
    with pytest.raises(
        FileNotFoundError, match="holds no model: neither prox_monai.json .* nor fold_0/checkpoint_final"
    ):
        predict(tmp_path, images, tmp_path / "out")


def test_the_command(finished, images, table, tmp_path, capsys, monkeypatch):
    model, source, target = (str(path) for path in (finished.parent, images, tmp_path / "out"))
    arguments = ["predict", model, "-i", source, "-o", target, "--threads", "1"]
    choice = ["--max-latency-ms", "50", "--table", str(table)]
    assert main([*arguments, *choice], command.COMMANDS) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("subnet d1-w.5-k3-r.7, weights ")
    assert lines[1].split()[:2] == ["case", "seconds"]
    assert len(lines) == 4
    assert main([*arguments, *choice], command.COMMANDS) == 0
    assert "2 of 2 cases were predicted with this model before" in capsys.readouterr().out
    monkeypatch.setattr(CasePredictor, "write", interrupted)
    assert main([*arguments, *choice, "--overwrite"], command.COMMANDS) == 130
    printed = capsys.readouterr().err
    assert "stopped; the same command begins anew; without --overwrite it goes on after the finished cases" in printed
    fresh = ["predict", model, "-i", source, "-o", str(tmp_path / "fresh")]
    assert main(fresh, command.COMMANDS) == 130
    assert "stopped; the same command goes on after the finished cases" in capsys.readouterr().err
    one = ["predict", model, "-i", str(min(images.iterdir())), "-o", str(tmp_path / "one.nii.gz")]
    assert main(one, command.COMMANDS) == 130
    assert "stopped; nothing was written" in capsys.readouterr().err
    monkeypatch.undo()
    for chosen in ([], ["--subnet", "smallest"]):
        assert main([*arguments, *chosen, "--table", str(table)], command.COMMANDS) == 2
        assert "has no say without a budget; give --max-latency-ms" in capsys.readouterr().err
    assert main([*arguments, *choice], command.COMMANDS) == 0  # both again
    assert main(arguments, command.COMMANDS) == 2
    assert "another model (subnet d1-w.5-k3-r.7, not " in capsys.readouterr().err
