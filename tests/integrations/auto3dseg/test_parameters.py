"""What parameters make of network, space and phases."""

from __future__ import annotations

import dataclasses

import pytest

from prox_monai.integrations.auto3dseg.parameters import Parameters

PARAMETERS = Parameters(
    data_list_file_path="/d/datalist.json",
    data_file_base_dir="/d",
    fold=0,
    input_channels=2,
    output_classes=6,
    roi_size=(16, 64, 64),
    resample_resolution=(3.6, 0.6, 0.6),
    normalize_mode="image",
    num_epochs=10,
    num_epochs_per_validation=5,
    num_images_per_batch=2,
    prox_iterations_per_epoch=20,
    prox_depth=(1, 2),
    prox_width=(0.5, 1.0),
    prox_kernel=(3, 5),
    prox_resolution=(1.0,),
    prox_channels=8,
)


def changed(**fields) -> Parameters:
    return dataclasses.replace(PARAMETERS, **fields)


def test_the_network_has_the_planned_levels():
    architecture = PARAMETERS.architecture()
    assert (architecture.in_channels, architecture.out_channels) == (2, 6)
    assert architecture.channels == (8, 16, 32, 64, 128)
    assert architecture.strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2))
    largest = architecture.build(PARAMETERS.search_space().largest())
    assert tuple(largest.encoder[0].blocks[0].conv.kernel_size) == (1, 5, 5)


def test_a_patch_is_rounded_up_to_the_strides():
    assert changed(roi_size=(15, 60, 50)).topology.patch == (16, 64, 56)


def test_enough_epochs_are_the_schedules():
    schedule, steps, interval = PARAMETERS.lengths()
    assert (len(schedule.phases), schedule.total_epochs, steps, interval) == (5, 10, 20, 3)


def test_a_shortened_training_has_checkpoints_before_its_end():
    """The planned distance is a third at most, in epochs that may be cut."""
    assert changed(num_epochs=12, num_epochs_per_validation=40).lengths()[2] == 4
    assert changed(num_epochs=12, num_epochs_per_validation=2).lengths()[2] == 2
    assert changed(num_epochs=1, num_epochs_per_validation=40).lengths()[2] == 5


def test_epochs_below_the_number_of_phases_are_cut_into_shorter_ones():
    """Auto3DSeg's trials ask for two epochs, of all algorithms; the number of steps stays."""
    schedule, steps, interval = changed(num_epochs=2, num_epochs_per_validation=1).lengths()
    assert (schedule.total_epochs, steps, interval) == (6, 7, 3)
    assert schedule.total_epochs * steps == pytest.approx(2 * 20, abs=3)


@pytest.mark.parametrize("preset", ["paper", "progressive_shrinking", "sandwich", "compofa"])
def test_every_method_has_a_schedule(preset):
    schedule, _, _ = changed(prox_preset=preset, num_epochs=1).lengths()
    assert schedule.phases[-1].space.size() > 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"normalize_mode": "ct"}, "intensity must be lower bound, upper bound, mean and deviation .* got \\[\\]"),
        ({"roi_size": (4, 4, 4)}, "a patch of 4x4x4 voxels is too small"),
        ({"prox_kernel": (4,)}, "kernel"),
        (
            {"subnet": ("smallest", "middle"), "max_latency_ms": 5.0},
            "max_latency_ms chooses the subnet: give one of both, got 5 and smallest, middle",
        ),
        ({"subnet": ("smalest",)}, "subnet: .*smalest.*, and middle"),
        ({"prox_resolution": (0.95, 1.0)}, "resolution 1 and 0.95 both lead to an input of"),
        ({"prox_width": (1.0, 0.5)}, "width must have strictly increasing candidates"),
    ],
)
def test_values_that_do_not_go_together(fields, message):
    with pytest.raises(ValueError, match=message):
        changed(**fields)
