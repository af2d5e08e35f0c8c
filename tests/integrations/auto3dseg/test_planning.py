"""What statistics make of the configuration, checked against nnU-Net's own plans of the same data."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from monai.bundle import ConfigParser

from prox_monai.integrations.auto3dseg.planning import DataSummary, Device, plan, target_spacing

GPU = Device(cuda=True, memory_gb=8.0, ram_gb=64.0)
CPU = Device(cuda=False, memory_gb=8.0, ram_gb=16.0)
SUMMARY = DataSummary(
    cases=200,
    channels=1,
    labels=(0, 1, 2),
    spacing=(1.0, 1.0, 1.0),
    fine_spacing=(1.0, 1.0, 1.0),
    size=(35.0, 50.0, 36.0),
    filled=1.0,
    foreground={"mean": 80.0, "stdev": 30.0, "percentile_00_5": -20.0, "percentile_99_5": 200.0},
)
DATA = {
    "isotropic": {"size": (28, 36, 20)},
    "two_modalities": {"size": (24, 40, 28), "channels": 2},
    "anisotropic": {"size": (64, 80, 10), "spacing": (0.7, 0.7, 4.0), "modality": "ct"},
    "five_classes": {"size": (24, 40, 18), "spacing": (1.0, 1.2, 1.5), "classes": 5},
}


def changed(**fields) -> DataSummary:
    return dataclasses.replace(SUMMARY, **fields)


@pytest.fixture(scope="module")
def sets(write_cases, analyze, tmp_path_factory):
    """Data sets, with what Auto3DSeg's analysis says of each."""
    root = tmp_path_factory.mktemp("sets")
    written = {name: write_cases(root / name, cases=5, **about) for name, about in DATA.items()}
    stats = {name: analyze(cases, root / f"{name}.yaml") for name, cases in written.items()}
    return {name: (written[name], ConfigParser.load_config_file(str(stats[name]))) for name in DATA}


@pytest.fixture(scope="module")
def nnunet_plans(sets, tmp_path_factory):
    """nnU-Net's own plans of them."""
    if find_spec("nnunetv2") is None:
        pytest.skip('needs nnU-Net: pip install "prox-monai[nnunet]"')
    folders = [str(cases.folder) for cases, _ in sets.values()]
    script = str(Path(__file__).with_name("nnunet_plans.py"))
    command = [sys.executable, script, str(tmp_path_factory.mktemp("nnunet")), *folders]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", DATA)
def test_spacing_strides_and_kernels_are_nnunets(name, sets, nnunet_plans):
    """Of 3d_fullres, whose axes are z, y, x with the coarsest first; images here all fill their box.

    The datalist leaves the last case for testing, while nnU-Net plans with it: sizes differ by a voxel at most.
    """
    cases, stats = sets[name]
    ours = plan(DataSummary.of(stats), modality=cases.modality, device=GPU)
    plans = nnunet_plans[name]
    theirs = plans["configurations"]["3d_fullres"]
    order = [2 - axis for axis in plans["transpose_forward"]]
    arguments = theirs["architecture"]["arch_kwargs"]
    assert [ours.resample_resolution[axis] for axis in order] == pytest.approx(theirs["spacing"], abs=1e-4)
    assert [ours.roi_size[axis] for axis in order] == theirs["patch_size"]
    from prox_monai.integrations.auto3dseg.topology import topology

    levels = topology(ours.resample_resolution, ours.roi_size)
    assert [[stride[axis] for axis in order] for stride in levels.strides] == arguments["strides"]
    assert [[kernel[axis] for axis in order] for kernel in levels.kernels] == arguments["kernel_sizes"]
    assert ours.num_images_per_batch == theirs["batch_size"]


@pytest.mark.parametrize(
    ("name", "channels", "classes", "mode"),
    [
        ("isotropic", 1, 3, "image"),
        ("two_modalities", 2, 3, "image"),
        ("anisotropic", 1, 3, "ct"),
        ("five_classes", 1, 6, "image"),
    ],
)
def test_channels_classes_and_normalisation(name, channels, classes, mode, sets, nnunet_plans):
    cases, stats = sets[name]
    ours = plan(DataSummary.of(stats), modality=cases.modality, device=GPU)
    assert (ours.input_channels, ours.output_classes, ours.normalize_mode) == (channels, classes, mode)
    scheme = {"ct": "CTNormalization", "image": "ZScoreNormalization"}[mode]
    assert nnunet_plans[name]["configurations"]["3d_fullres"]["normalization_schemes"] == [scheme] * channels


def test_the_report_has_the_intensity_of_the_first_channel(sets):
    """Labels 1 and 2 are 100 and 200 there, 200 and 400 in the second one."""
    assert DataSummary.of(sets["two_modalities"][1]).foreground["mean"] == pytest.approx(150, rel=0.05)


def test_an_anisotropic_set_gets_flat_kernels_first(sets):
    cases, stats = sets["anisotropic"]
    ours = plan(DataSummary.of(stats), modality=cases.modality, device=GPU)
    assert ours.resample_resolution == pytest.approx((0.7, 0.7, 4.0))
    assert ours.roi_size[2] < ours.roi_size[0]


def test_hippocampus_on_a_gpu_and_on_a_cpu():
    """The size of Task04: the patch that nnU-Net plans."""
    gpu, cpu = (plan(SUMMARY, modality="MRI", device=device) for device in (GPU, CPU))
    assert gpu.roi_size == cpu.roi_size == (40, 56, 40)
    assert (gpu.prox_width, gpu.prox_kernel, gpu.prox_resolution) == ((0.25, 0.5, 1.0), (3, 5), (0.6, 0.8, 1.0))
    assert (cpu.prox_width, cpu.prox_kernel, cpu.prox_resolution) == ((0.25, 0.5), (3,), (0.8, 1.0))
    assert (gpu.num_images_per_batch, cpu.num_images_per_batch) == (7, 2)
    assert gpu.num_epochs * gpu.prox_iterations_per_epoch == pytest.approx(24_000, rel=0.01)
    assert cpu.num_epochs * cpu.prox_iterations_per_epoch == pytest.approx(600, rel=0.05)


def test_more_classes_train_longer_and_more_cases_in_longer_epochs():
    few = plan(SUMMARY, modality="mri", device=GPU)
    many = plan(changed(labels=tuple(range(9))), modality="mri", device=GPU)
    steps = [p.num_epochs * p.prox_iterations_per_epoch for p in (few, many)]
    assert steps[1] / steps[0] == pytest.approx(2, rel=0.05)
    wide = changed(size=(240.0, 250.0, 160.0))
    short, long = (plan(dataclasses.replace(wide, cases=n), modality="mri", device=GPU) for n in (100, 400))
    assert (short.prox_iterations_per_epoch, long.prox_iterations_per_epoch) == (50, 200)


def test_less_memory_makes_a_smaller_patch():
    wide = changed(size=(240.0, 250.0, 160.0))
    patches = [
        plan(wide, modality="mri", device=dataclasses.replace(GPU, memory_gb=memory)).roi_size for memory in (8, 2)
    ]
    assert all(small < large for small, large in zip(patches[1], patches[0], strict=True))


def test_fewer_channels_make_a_larger_patch():
    """What the message on too little memory advises."""
    wide, little = changed(size=(240.0, 250.0, 160.0)), dataclasses.replace(GPU, memory_gb=2)
    planned = [plan(wide, modality="mri", device=little, first_channels=first) for first in (32, 8)]
    assert [each.prox_channels for each in planned] == [32, 8]
    assert all(few > many for many, few in zip(*(each.roi_size for each in planned), strict=True))


def test_another_spacing_makes_another_patch():
    ours = plan(SUMMARY, modality="mri", device=GPU, spacing=(2.0, 2.0, 2.0))
    assert ours.resample_resolution == (2.0, 2.0, 2.0)
    assert ours.roi_size == (20, 28, 20)


def test_images_are_kept_in_memory_as_far_as_it_goes():
    large = changed(size=(400.0, 400.0, 300.0))
    rates = [plan(summary, modality="mri", device=CPU).cache_rate for summary in (SUMMARY, large)]
    assert rates[0] == 1.0
    assert 0 < rates[1] < 0.2


def test_thick_slices_keep_their_thinnest():
    """nnU-Net's rule: of a far coarser axis with few voxels the 10th percentile."""
    thick = changed(spacing=(1.0, 1.0, 8.0), fine_spacing=(0.9, 0.9, 5.0), size=(200.0, 200.0, 80.0))
    assert target_spacing(thick) == (1.0, 1.0, 5.0)
    assert target_spacing(dataclasses.replace(thick, fine_spacing=(0.9, 0.9, 0.5))) == (1.0, 1.0, 1.0)
    assert target_spacing(dataclasses.replace(thick, size=(200.0, 200.0, 800.0))) == (1.0, 1.0, 8.0)


def test_a_ct_is_scaled_by_all_images():
    ours = plan(SUMMARY, modality="CT", device=GPU)
    assert (ours.normalize_mode, ours.intensity) == ("ct", (-20.0, 200.0, 80.0, 30.0))


def test_a_ct_of_several_channels_is_scaled_image_by_image(caplog):
    """The report has the intensity of the first channel alone."""
    ours = plan(changed(channels=2), modality="CT", device=GPU)
    assert (ours.normalize_mode, ours.intensity) == ("image", ())
    assert "2 channels: each is scaled by itself" in caplog.text


def test_images_that_are_mostly_empty_are_scaled_by_what_is_in_them():
    assert plan(changed(filled=0.5), modality="mri", device=GPU).normalize_mode == "nonzero"


@pytest.mark.parametrize(
    ("fields", "names", "message"),
    [
        ({"labels": (0, 1, 3)}, None, "labels must be consecutive, .* they are 0, 1, 3, and no label map has 2"),
        ({"labels": (0, 1)}, ["a", "b"], r"every class must occur in some label map; b \(label 2\) does in none"),
        ({"labels": (0, 1, 2)}, ["a"], "class_names must name the 2 classes of the labels 0, 1, 2, got 1 names"),
        ({"labels": (0,)}, None, "labels must be 0 for the background, then 1, 2, ... for the classes, got 0"),
        ({"labels": (-1, 0, 1)}, None, "labels must be 0 for the background, .* got -1, 0, 1"),
        ({"size": (6.0, 6.0, 6.0)}, None, "a patch of 6x6x6 voxels is too small"),
        (
            {"labels": tuple(range(0, 4000, 2))},
            None,
            "they are 0, 2, 4, 6, 8, 10, 12, 14, 16, 18 and 1990 more, and no .* 17, 19 and 1989 more.$",
        ),
    ],
)
def test_labels_and_sizes_that_cannot_be_trained_are_refused(fields, names, message):
    with pytest.raises(ValueError, match=message):
        plan(changed(**fields), modality="mri", class_names=names, device=GPU)


def test_mixed_channels_are_refused(sets):
    stats = json.loads(json.dumps(sets["isotropic"][1]))
    stats["stats_summary"]["image_stats"]["channels"] |= {"min": 1, "max": 2}
    with pytest.raises(ValueError, match="as many channels all, got 1 to 2"):
        DataSummary.of(stats)


def test_images_without_labels_are_refused(sets):
    stats = json.loads(json.dumps(sets["isotropic"][1]))
    del stats["stats_summary"]["label_stats"]
    with pytest.raises(ValueError, match="must name a label for every training image"):
        DataSummary.of(stats)


def test_labels_between_integers_are_refused(sets):
    stats = json.loads(json.dumps(sets["isotropic"][1]))
    stats["stats_summary"]["label_stats"]["labels"] = [0, 0.5, 1]
    with pytest.raises(ValueError, match="labels must be integers, got 0, 0.5, 1"):
        DataSummary.of(stats)
    stats["stats_summary"]["label_stats"]["labels"] = [label / 2 for label in range(1000)]
    with pytest.raises(ValueError, match="labels must be integers, got 0, 0.5, .* 4, 4.5 and 990 more.$"):
        DataSummary.of(stats)


def test_the_present_device():
    device = Device.present()
    assert 0 < device.memory_gb <= 8
    assert device.ram_gb > 0


def test_memory_is_shared_by_a_process_per_gpu(monkeypatch):
    alone = Device.present().ram_gb * max(1, torch.cuda.device_count())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(total_memory=2**35))
    assert Device.present() == Device(cuda=True, memory_gb=8.0, ram_gb=pytest.approx(alone / 4))
