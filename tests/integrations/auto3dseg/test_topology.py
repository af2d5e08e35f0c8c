"""Strides, kernels, patch and batch size are nnU-Net's."""

from __future__ import annotations

import itertools
from importlib.util import find_spec

import pytest

from prox_monai.integrations.auto3dseg.topology import (
    batch_size,
    channels_per_level,
    map_values,
    plan_patch,
    topology,
)

needs_nnunet = pytest.mark.skipif(
    find_spec("nnunetv2") is None, reason='needs nnU-Net: pip install "prox-monai[nnunet]"'
)

SPACINGS = ((1.0, 1.0, 1.0), (3.6, 0.6, 0.6), (0.7, 0.7, 5.0), (1.0, 1.5, 2.5), (8.0, 1.5, 1.5), (0.5, 4.0, 1.1))
SHAPES = ((36, 50, 35), (20, 320, 320), (12, 9, 64), (240, 240, 155), (8, 8, 8), (500, 480, 30), (128, 96, 11))


def test_isotropic():
    planned = topology((1, 1, 1), (36, 50, 35))
    assert planned.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert planned.kernels == ((3, 3, 3),) * 4
    assert planned.patch == (40, 56, 40)
    assert planned.stride == (8, 8, 8)


def test_a_coarse_axis_waits_until_the_others_are_as_coarse():
    planned = topology((3.6, 0.6, 0.6), (16, 64, 64))
    assert planned.strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2))
    assert planned.kernels == ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
    assert planned.patch == (16, 64, 64)


def test_a_patch_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="a patch of 7x7x7 voxels is too small: the images must have two axes of at"):
        topology((1, 1, 1), (7, 7, 7))
    with pytest.raises(ValueError, match="a patch of 11x4x4 voxels is too small"):
        topology((1, 1, 1), (11, 4, 4))


def test_channels_double_up_to_320():
    assert channels_per_level(32, 6) == (32, 64, 128, 256, 320, 320)


def test_too_little_memory_is_refused():
    with pytest.raises(ValueError, match="memory of 0.0 GB is too little for a patch of .* fewer prox_channels"):
        plan_patch((1, 1, 1), (64, 64, 64), first_channels=32, classes=2, memory_gb=0.001)


def test_the_batch_is_a_twentieth_of_the_data_at_most_and_two_at_least():
    planned = topology((1, 1, 1), (16, 16, 16))
    budget = {"first_channels": 32, "classes": 2, "memory_gb": 8.0}
    assert batch_size(planned, **budget, voxels=16**3 * 100) == 5
    assert batch_size(planned, **budget, voxels=16**3 * 10) == 2
    assert batch_size(planned, **budget, voxels=1e12) > 100


@needs_nnunet
@pytest.mark.parametrize(("spacing", "shape"), list(itertools.product(SPACINGS, SHAPES)))
def test_levels_are_nnunets(spacing, shape):
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

    _, strides, kernels, patch, stride = get_pool_and_conv_props(spacing, shape, 4, 999999)
    if len(strides) == 1:
        with pytest.raises(ValueError, match="is too small"):
            topology(spacing, shape)
        return
    planned = topology(spacing, shape)
    assert planned.strides == tuple(map(tuple, strides))
    assert planned.kernels == tuple(map(tuple, kernels))
    assert planned.patch == tuple(map(int, patch))
    assert planned.stride == tuple(map(int, stride))


@needs_nnunet
@pytest.mark.parametrize("patch", [(40, 56, 40), (16, 64, 64), (128, 128, 128)])
def test_values_of_feature_maps_are_nnunets_count(patch):
    import torch
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    planned = topology((1, 1, 1), patch)
    levels = len(planned.strides)
    with torch.device("meta"):
        network = PlainConvUNet(
            1,
            levels,
            channels_per_level(32, levels),
            torch.nn.Conv3d,
            kernel_sizes=planned.kernels,
            strides=planned.strides,
            n_conv_per_stage=[2] * levels,
            n_conv_per_stage_decoder=[2] * (levels - 1),
            num_classes=5,
        )
    assert map_values(planned, 32, 5) == int(network.compute_conv_feature_map_size(planned.patch))


@needs_nnunet
@pytest.mark.parametrize(
    ("spacing", "shape"),
    [
        ((1.0, 1.0, 1.0), (36, 50, 35)),
        ((1.0, 1.0, 1.0), (138, 170, 137)),
        ((3.6, 0.625, 0.61), (20, 320, 319)),
        ((5.0, 0.8, 0.8), (90, 512, 512)),
        ((1.5, 0.9, 0.8), (300, 400, 401)),
    ],
)
@pytest.mark.parametrize("memory_gb", [8.0, 3.0])
def test_patch_and_batch_are_nnunets(spacing, shape, memory_gb, monkeypatch):
    """Sizes differ, so that no two axes compete for being cut; of a tie nnU-Net's outcome depends on the order."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")  # 0, as somebody has it who trains on a CPU, the planner cannot take
    import numpy as np
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    planner = object.__new__(ExperimentPlanner)
    reference = ExperimentPlanner.__init__.__code__
    assert "gpu_memory_target_in_gb" in reference.co_varnames
    vars(planner).update(
        dataset_json={"channel_names": {"0": "mri"}, "labels": {"background": 0, "one": 1, "two": 2}},
        dataset_fingerprint={"median_relative_size_after_cropping": 1.0},
        UNet_base_num_features=32,
        UNet_max_features_2d=512,
        UNet_max_features_3d=320,
        UNet_featuremap_min_edge_length=4,
        UNet_blocks_per_stage_encoder=(2,) * 14,
        UNet_blocks_per_stage_decoder=(2,) * 13,
        UNet_reference_val_3d=560000000,
        UNet_reference_val_corresp_GB=8,
        UNet_reference_val_corresp_bs_3d=2,
        UNet_min_batch_size=2,
        UNet_vram_target_GB=memory_gb,
        max_dataset_covered=0.05,
        preprocessor_name="",
    )
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    planner.UNet_class = PlainConvUNet
    voxels = float(np.prod(shape)) * 100
    plans = planner.get_plans_for_configuration(np.array(spacing), np.array(shape), "", voxels, {})
    ours = plan_patch(spacing, shape, first_channels=32, classes=3, memory_gb=memory_gb)
    arguments = plans["architecture"]["arch_kwargs"]
    assert ours.patch == tuple(int(n) for n in plans["patch_size"])
    assert [list(s) for s in ours.strides] == [list(s) for s in arguments["strides"]]
    assert [list(k) for k in ours.kernels] == [list(k) for k in arguments["kernel_sizes"]]
    batch = batch_size(ours, first_channels=32, classes=3, memory_gb=memory_gb, voxels=voxels)
    assert batch == plans["batch_size"]
