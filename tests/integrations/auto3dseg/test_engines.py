"""The engines that a training and an evaluation are made of; that they train is in test_train.py."""

from __future__ import annotations

import pytest
import torch

from prox_monai.integrations.auto3dseg.data import read_split
from prox_monai.integrations.auto3dseg.engines import make_engines, sliding_window, training_dataset
from prox_monai.integrations.auto3dseg.folder import AlgoFolder


@pytest.fixture
def engines(generate, quiet_monai):
    folder = AlgoFolder.at(generate(num_epochs=8, num_epochs_per_validation=3).output_path)
    parameters = folder.parameters()
    split = read_split(parameters.data_list_file_path, parameters.data_file_base_dir, 0)
    dataset = training_dataset(parameters, split)
    return make_engines(parameters, split, folder, dataset, torch.device("cpu"), None), parameters


def test_epochs_and_steps_are_the_parameters(engines):
    made, parameters = engines
    loader = made.trainer.data_loader
    assert made.trainer.state.max_epochs == 8
    assert len(loader) == parameters.prox_iterations_per_epoch
    batch = next(iter(loader))
    assert batch["image"].shape == (parameters.num_images_per_batch, 1, *parameters.topology.patch)


def test_the_supernet_is_the_planned_one(engines):
    made, parameters = engines
    assert made.supernet.architecture == parameters.architecture()
    assert made.supernet.space == parameters.search_space()
    assert len(made.validation) == 3


def test_the_window_is_the_patch(engines):
    _, parameters = engines
    window = sliding_window(parameters)
    assert tuple(window.roi_size) == parameters.topology.patch
    assert window.overlap == 0.5
