"""A bundle's label maps are nnU-Net's, where neither this package nor nnU-Net can be imported."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

if any(find_spec(name) is None for name in ("monai", "ignite", "fire")):
    pytest.skip('needs pip install "prox-monai[monai]"', allow_module_level=True)

from monai.bundle import ConfigParser, verify_net_in_out

from prox_monai.cli import main
from prox_monai.commands import monai as command
from prox_monai.commands import predict as predict_command
from prox_monai.elastic import Supernet
from prox_monai.export.exported import load_exported
from prox_monai.integrations.nnunet import bundle as module
from prox_monai.integrations.nnunet.bundle import BUNDLE_FILES, write_bundle
from prox_monai.integrations.nnunet.bundle_config import inference_config
from prox_monai.integrations.nnunet.calibration import cases_of
from prox_monai.integrations.nnunet.case_predictor import CasePredictor
from prox_monai.integrations.nnunet.deploy import deploy
from prox_monai.integrations.nnunet.deployed import from_trained
from prox_monai.integrations.nnunet.images import Case, read_case
from prox_monai.integrations.nnunet.planning import architecture_of

pytestmark = pytest.mark.filterwarnings("default")  # MONAI's own
WITHOUT_NNUNET = """
import sys
sys.modules["prox_monai"] = sys.modules["nnunetv2"] = None
from monai.bundle import run
device = "$torch.device('cpu')"
run(config_file="configs/inference.json", dataset_dir=sys.argv[1], output_dir=sys.argv[2], device=device)
"""
CT = {"mean": 60.0, "std": 25.0, "percentile_00_5": 20.0, "percentile_99_5": 110.0}


@pytest.fixture(scope="session")
def variant(varied):
    """A model with other plans and labels, and random weights of which every subnet finds a bit of everything."""

    def make(name="tiny", channels=1, labels=None, transpose=None, **configuration):
        plans, dataset_json = copy.deepcopy(varied.plans), copy.deepcopy(varied.dataset_json)
        plans["configurations"][name] |= configuration
        plans["transpose_forward"] = transpose or plans["transpose_forward"]
        plans["transpose_backward"] = [plans["transpose_forward"].index(axis) for axis in range(3)]
        plans["foreground_intensity_properties_per_channel"] = {str(channel): CT for channel in range(channels)}
        dataset_json["channel_names"] = {str(channel): f"channel {channel}" for channel in range(channels)}
        dataset_json |= labels or {}
        model = dataclasses.replace(varied, plans=plans, dataset_json=dataset_json, configuration_name=name)
        outputs = model.labels.num_segmentation_heads
        supernet = Supernet(architecture_of(model.configuration, channels, outputs, False), varied.space).eval()
        torch.manual_seed(0)
        for parameter in supernet.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        return dataclasses.replace(model, supernet=supernet)

    return make


def volume(size: tuple[int, ...], seed: int) -> np.ndarray:
    """A smooth image with structure, zero at its borders and in a hole, as after skull stripping."""
    image = gaussian_filter(np.random.default_rng(seed).normal(size=size), 1.5) * 400 + 60
    image[:3], image[:, -2:], image[8:10, 9:11, 9] = 0, 0, 0
    return image.astype(np.float32)


def write_images(folder: Path, channels: int, spacing=(1.0, 1.0, 1.0), size=(22, 26, 25), affine=None) -> Case:
    folder.mkdir(parents=True)
    files = []
    for channel in range(channels):
        image = nibabel.Nifti1Image(volume(size, channel), np.diag([*spacing, 1.0]) if affine is None else affine)
        files.append(folder / f"a_{channel:04d}.nii.gz")
        nibabel.save(image, files[-1])
    return Case("a", tuple(files))


def preprocessed_by_nnunet(model, case: Case) -> np.ndarray:
    """In the order of axes that MONAI has."""
    image, properties = read_case(case, from_trained(model, model.space.largest()))
    preprocessor = model.configuration.preprocessor_class(verbose=False)
    array = preprocessor.run_case_npy(
        image, None, properties, model.plans_manager, model.configuration, model.dataset_json
    )[0]
    axes = [2 - axis for axis in model.plans["transpose_forward"]]
    return array.transpose(0, *(axes.index(axis) + 1 for axis in range(3)))


def preprocessed_by_bundle(model, case: Case) -> np.ndarray:
    parser = ConfigParser(inference_config(model))
    image = parser.get_parsed_content("preprocessing")({"image": [str(file) for file in case.files]})["image"]
    return image.numpy()


def masked(*schemes: str) -> dict:
    """Normalisation schemes within what is not zero."""
    return {"normalization_schemes": list(schemes), "use_mask_for_norm": [True] * len(schemes)}


@pytest.mark.parametrize(
    ("channels", "changes"),
    [
        (1, {}),
        (1, masked("ZScoreNormalization")),
        (2, masked("ZScoreNormalization", "CTNormalization")),
        (
            2,
            {
                "normalization_schemes": ["RescaleTo01Normalization", "NoNormalization"],
                "use_mask_for_norm": [False] * 2,
            },
        ),
        (1, {"transpose": [1, 2, 0]}),
    ],
    ids=["z-score", "masked", "masked and CT", "0 to 1 and none", "transposed"],
)
def test_images_of_the_plans_spacing_are_preprocessed_as_by_nnunet(channels, changes, variant, tmp_path):
    model = variant(channels=channels, **changes)
    spacing = model.configuration.spacing
    axes = [2 - axis for axis in model.plans["transpose_forward"]]
    case = write_images(tmp_path / "in", channels, [spacing[axes.index(axis)] for axis in range(3)])
    expected, got = preprocessed_by_nnunet(model, case), preprocessed_by_bundle(model, case)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("spacing", "planned"),
    [((1.3, 0.8, 1.1), [1.0, 1.0, 1.0]), ((1.0, 1.0, 5.0), [4.0, 0.9, 0.9])],
    ids=["alike", "much longer than wide"],
)
def test_other_spacings_are_resampled_nearly_as_by_nnunet(spacing, planned, variant, tmp_path):
    """MONAI keeps the size of the planned voxels exactly, nnU-Net that of the image."""
    model = variant(spacing=planned)
    case = write_images(tmp_path / "in", 1, spacing)
    expected, got = preprocessed_by_nnunet(model, case), preprocessed_by_bundle(model, case)
    assert got.shape == expected.shape
    assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] > 0.97


REGIONS = {
    "labels": {"background": 0, "whole": [1, 2], "core": [2]},
    "regions_class_order": [1, 2],
}


@pytest.mark.parametrize(
    ("name", "channels", "changes", "spacing"),
    [
        ("tiny", 1, {}, (1.0, 1.0, 1.0)),
        ("tiny", 2, {"labels": REGIONS, **masked("ZScoreNormalization", "ZScoreNormalization")}, (1.0, 1.0, 1.0)),
        ("tiny_flat", 1, {"transpose": [1, 0, 2]}, (1.0, 1.0, 1.0)),
        ("tiny_2d", 1, {}, (1.0, 1.0, 1.0)),
        ("tiny", 1, {"spacing": [1.2, 1.0, 0.9]}, (1.1, 1.0, 1.0)),
    ],
    ids=["3d", "regions of two channels", "transposed", "2d", "resampled"],
)
def test_label_maps_are_nnunets(name, channels, changes, spacing, variant, tmp_path):
    """Of an image that is larger than a window, turned and oblique in space."""
    model = variant(name, channels, **changes)
    config = model.space.smallest()  # at .7 of the resolution
    turned = np.array([[0, -1, 0, 5], [0.96, 0, 0.28, 1], [-0.28, 0, 0.96, 2], [0, 0, 0, 1]])
    case = write_images(tmp_path / "in", channels, affine=np.diag([*spacing, 1.0]) @ turned)
    CasePredictor(from_trained(model, config), mirror=False).write(case, tmp_path / "expected.nii.gz")
    (tmp_path / "bundle").mkdir()
    network = model.supernet.extract(config).eval()
    assert write_bundle(model, config, network, tmp_path / "bundle") == BUNDLE_FILES
    module._predict_by_bundle(tmp_path / "bundle", [case.files], tmp_path / "out")
    same_label_map(tmp_path / "out" / "a_0000_seg.nii.gz", tmp_path / "expected.nii.gz")


def same_label_map(path: Path, expected: Path) -> None:
    """The two lay their windows at the same places, with nearly the same weights."""
    ours, theirs = nibabel.load(path), nibabel.load(expected)
    assert np.allclose(ours.affine, theirs.affine, atol=1e-5)
    assert ours.get_data_dtype() == np.uint8
    got, wanted = np.asarray(ours.dataobj), np.asarray(theirs.dataobj)
    assert len(np.unique(wanted)) > 1
    assert (got == wanted).mean() > 0.98


def test_it_runs_where_neither_this_package_nor_nnunet_can_be_imported(varied, folders, tmp_path):
    images = folders.raw / folders.dataset / "imagesTr"
    deploy(varied, varied.space.smallest(), "bundle", tmp_path / "bundle")
    command = [sys.executable, "-c", WITHOUT_NNUNET, str(images), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=tmp_path / "bundle", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    predicted = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert predicted == [path.name.replace("_0000", "_0000_seg") for path in sorted(images.iterdir())]


def test_metadata_and_monais_own_check(varied, tmp_path):
    config = varied.space.smallest()
    description = deploy(varied, config, "bundle", tmp_path / "bundle")
    assert set(description.files) == {*BUNDLE_FILES, "plans.json", "dataset.json"}
    metadata = json.loads((tmp_path / "bundle" / "configs" / "metadata.json").read_text())
    image = metadata["network_data_format"]["inputs"]["image"]
    assert image["spatial_shape"] == varied.configuration.patch_size[::-1]
    assert metadata["subnet"] == config.to_dict()
    assert not {"prox-monai", "nnunetv2"} & set(metadata["required_packages_version"])
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(tmp_path / "bundle" / "configs" / "metadata.json"),
        config_file=str(tmp_path / "bundle" / "configs" / "inference.json"),
        bundle_root=str(tmp_path / "bundle"),
        device="cpu",
    )


def test_label_maps_of_raw_cases_are_compared(varied, tmp_path, monkeypatch, caplog):
    cases, config = cases_of(varied, os.environ), varied.space.smallest()
    dice = deploy(varied, config, "bundle", tmp_path / "out", cases=cases).checks["label_maps"]
    assert (dice["half"], dice["cases"]) == ("tuning", len(cases.tuning))
    assert 0 < dice["plain"] < 1
    assert dice["exported"] == pytest.approx(dice["plain"], abs=0.005)
    means = iter([0.9, 0.8])
    monkeypatch.setattr(module, "mean_dice", lambda scores: next(means))
    with pytest.raises(
        RuntimeError, match=r"of the bundle is 0.1000 below .* \(allowed: 0.005\)\. Nothing was written"
    ):
        deploy(varied, config, "bundle", tmp_path / "refused", cases=cases)
    assert not (tmp_path / "refused").exists()
    deploy(varied, config, "bundle", tmp_path / "other", cases=dataclasses.replace(cases, raw=None))
    assert "label maps are not compared: the raw data set, with its images, is not in nnUNet_raw" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"normalization_schemes": ["Mine"]},
            "normalization of a bundle must be among ZScoreNormalization, .* got Mine",
        ),
        ({"name": "tiny_cascade"}, "tiny_cascade needs the label maps of another model"),
    ],
)
def test_what_a_bundle_cannot_do(changes, message, variant, tmp_path):
    model = variant(**changes)
    with pytest.raises(ValueError, match=message):
        deploy(model, model.space.smallest(), "bundle", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_images_that_a_bundle_cannot_read(variant, tmp_path):
    model = variant(labels={"file_ending": ".mha"})
    with pytest.raises(ValueError, match="a bundle reads NIfTI files, not .mha; choose another format"):
        deploy(model, model.space.smallest(), "bundle", tmp_path / "out")
    model.plans["image_reader_writer"] = "NaturalImage2DIO"
    with pytest.raises(ValueError, match="a bundle reads volumes as SimpleITKIO, .* do, not as NaturalImage2DIO"):
        deploy(model, model.space.smallest(), "bundle", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_commands(finished, folders, tmp_path, capsys):
    arguments = ["export", "bundle", str(finished.parent), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--subnet", "smallest"], command.COMMANDS) == 0
    printed = capsys.readouterr().out
    assert "d1-w.5-k3-r.7 is in" in printed
    assert f"cd {tmp_path / 'out'} && python -m monai.bundle run --config_file configs/inference.json" in printed
    assert main([*arguments, "--overwrite"], command.COMMANDS) == 0
    assert load_exported(tmp_path / "out")[0].subnet == "d2-w1-k5-r1"
    assert main([*arguments, "--config", "quick.json"], command.COMMANDS) == 2
    assert "--config is of a trained bundle, which has a folder configs; " in capsys.readouterr().err
    assert main(["export", "bundle", str(tmp_path / "out"), "--fold", "1", "--output", "x"], command.COMMANDS) == 2
    assert "out holds one subnet, exported already; give what was trained" in capsys.readouterr().err
    (tmp_path / "trained" / "configs").mkdir(parents=True)
    assert main(["export", "bundle", str(tmp_path / "trained"), "--fold", "1", "--output", "x"], command.COMMANDS) == 2
    assert "--fold is of a model folder of ProXTrainer; " in capsys.readouterr().err
    images = folders.raw / folders.dataset / "imagesTr"
    predict = ["predict", str(tmp_path / "out"), "-i", str(images), "-o", str(tmp_path / "predicted")]
    assert main(predict, predict_command.COMMANDS) == 0
    assert "runtime torchscript" in capsys.readouterr().out
    assert len(list((tmp_path / "predicted").glob("*.nii.gz"))) == len(list(images.iterdir()))


def test_somebody_elses_file_in_a_bundle_is_kept(varied, tmp_path):
    deploy(varied, varied.space.smallest(), "bundle", tmp_path / "out")
    (tmp_path / "out" / "docs" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds something else than an export"):
        deploy(varied, varied.space.smallest(), "bundle", tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "docs" / "mine.txt").read_text() == "mine"
