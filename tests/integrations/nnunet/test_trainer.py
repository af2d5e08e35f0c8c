"""What a training leaves behind, and how nnU-Net's options work on it."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from prox_monai.elastic import Supernet
from prox_monai.evaluation.multiply_adds import MultiplyAdds
from prox_monai.integrations.nnunet.trainer import ProXTrainer
from prox_monai.training import PRESETS, ProgressiveTraining
from prox_monai.training.checkpoint import read_safely
from prox_monai.training.patches import growing_sizes, size_at

STAGES = ["depth", "depth", "width", "kernel", "resolution"]
VALIDATED = ("smallest", "middle", "largest")
SHORT = {
    "depth": [1],
    "width": [0.5, 1.0],
    "kernel": [3],
    "resolution": [1.0],
    "epochs": 2,
    "validate": ["largest"],
    "polish": False,
}


def test_nnunet_finds_it_in_the_folder_that_the_variable_names(folders):
    assert recursive_find_trainer_class_by_name("ProXTrainer") is ProXTrainer


def test_it_takes_the_arguments_that_nnunet_gives():
    theirs = inspect.signature(nnUNetTrainer.__init__).parameters
    assert list(inspect.signature(ProXTrainer.__init__).parameters) == list(theirs)


def test_files(finished):
    names = {path.name for path in finished.iterdir()}
    assert {f"checkpoint_phase{phase}.pth" for phase in range(5)} <= names
    assert {f"checkpoint_{name}.pth" for name in VALIDATED} <= names
    assert {"checkpoint_final.pth", "checkpoint_best.pth", "progress.png", "debug.json"} <= names
    assert "checkpoint_latest.pth" not in names
    assert not [name for name in names if name.endswith(".tmp")]
    assert list((finished / "tensorboard").glob("events.*"))
    assert {"plans.json", "dataset.json", "dataset_fingerprint.json"} <= {p.name for p in finished.parent.iterdir()}


def test_settings_lie_beside_the_checkpoint_and_in_it(finished, small):
    beside = json.loads((finished / "prox_settings.json").read_text())
    assert beside == read_safely(finished / "checkpoint_final.pth")["prox"]["settings"]
    assert {name: beside[name] for name in small} == small


def test_phases_are_reported(finished):
    rows = json.loads((finished / "phases.json").read_text())
    assert [row["stage"] for row in rows] == STAGES
    assert [row["epochs"] for row in rows] == [1] * 5
    assert all(row["train_seconds"] > 0 and row["multiply_adds_1e9"] > 0 for row in rows)
    assert all(0 <= row[name] <= 1 for row in rows for name in ("dice_smallest", "dice_largest"))


def test_the_logs_hold_one_value_per_epoch_and_both_terms_of_the_loss(finished):
    logs = read_safely(finished / "checkpoint_final.pth")["logging"]
    assert {len(values) for values in logs.values()} == {5}
    assert logs["stage"] == STAGES
    assert logs["distillation_losses"][0] == 0
    assert all(value > 0 for value in logs["distillation_losses"][1:])
    for total, task, distance in zip(
        logs["train_losses"], logs["task_losses"], logs["distillation_losses"], strict=True
    ):
        expected = task if distance == 0 else (task + distance) / 2
        assert total == pytest.approx(expected, abs=1e-5)


def test_the_log_file_announces_each_phase(finished):
    log = next(finished.glob("training_log_*.txt")).read_text()
    assert [f"Phase {i + 1} of 5, stage {stage}" in log for i, stage in enumerate(STAGES)] == [True] * 5
    assert all(f"Validating {name}: " in log for name in VALIDATED)


def test_debug_information_holds_no_network(finished):
    assert (finished / "debug.json").stat().st_size < 1e6
    assert "settings" in json.loads((finished / "debug.json").read_text())


def test_each_subnet_is_validated_in_its_own_folder(finished, folders):
    cases = json.loads((folders.preprocessed / folders.dataset / "splits_final.json").read_text())[0]["val"]
    for folder in ("validation", "subnet_smallest/validation", "subnet_middle/validation"):
        summary = json.loads((finished / folder / "summary.json").read_text())
        assert len(summary["metric_per_case"]) == len(cases) == 2
        for case in cases:
            assert (finished / folder / f"{case}.nii.gz").is_file()
            probabilities = np.load(finished / folder / f"{case}.npz")["probabilities"]
            assert np.allclose(probabilities.sum(0), 1, atol=1e-2)
    assert not (finished / "subnet_largest").exists()


def test_validated_subnets_differ(finished):
    case = next((finished / "validation").glob("*.npz")).name
    folders = ("validation", "subnet_smallest/validation", "subnet_middle/validation")
    first, *others = (np.load(finished / folder / case)["probabilities"] for folder in folders)
    assert all(not np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("phase", range(5))
def test_the_checkpoint_of_each_phase_is_its_largest_subnet(finished, small, phase):
    content = read_safely(finished / f"checkpoint_phase{phase}.pth")
    supernet = supernet_of(finished, content)
    expected = (len(small["depth"]), 1.0, 5, 1.0)
    opened = {"depth": phase >= 1, "width": phase >= 2, "kernel": phase >= 3, "resolution": phase >= 4}
    section = supernet.active.sections[0]
    found = (section.depth, section.width, section.kernel, supernet.active.resolution)
    assert found == tuple(
        value if is_open else low
        for value, is_open, low in zip(expected, opened.values(), (1, 0.5, 3, 0.7), strict=True)
    )
    assert content["current_epoch"] == phase + 1


def supernet_of(finished, content) -> Supernet:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(str(finished.parent / "plans.json"))
    supernet = ProXTrainer.build_network_architecture(plans, plans.get_configuration("tiny"), 1, 3, False)
    supernet.load_state_dict(content["network_weights"])
    return supernet


def test_validation_alone_repeats_the_validation(copied, train):
    summary = copied / "subnet_smallest" / "validation" / "summary.json"
    before = json.loads(summary.read_text())["foreground_mean"]
    summary.unlink()
    train(options={"only_run_validation": True})
    assert json.loads(summary.read_text())["foreground_mean"] == pytest.approx(before, nan_ok=True)


def test_validation_of_the_best_checkpoint(copied, train):
    (copied / "validation" / "summary.json").unlink()
    train(options={"only_run_validation": True, "val_with_best": True})
    assert (copied / "validation" / "summary.json").is_file()


def test_a_finished_training_is_not_overwritten(copied, train):
    before = (copied / "checkpoint_final.pth").read_bytes()
    with pytest.raises(FileExistsError, match=r"holds a training \(checkpoint_final.pth\). Continue it with --c"):
        train()
    assert (copied / "checkpoint_final.pth").read_bytes() == before


def test_a_begun_training_is_not_overwritten(copied, make_trainer):
    (copied / "checkpoint_final.pth").rename(copied / "checkpoint_latest.pth")
    with pytest.raises(FileExistsError, match="checkpoint_latest.pth"):
        make_trainer().run_training()


def test_a_training_is_overwritten_where_that_is_asked_for(copied, make_trainer):
    before = (copied / "checkpoint_final.pth").read_bytes()
    make_trainer(overwrite=True, **SHORT).run_training()
    assert (copied / "checkpoint_final.pth").read_bytes() != before


def test_continuing_a_finished_training_changes_no_weight(copied, train):
    before = read_safely(copied / "checkpoint_final.pth")
    train(options={"continue_training": True})
    after = read_safely(copied / "checkpoint_final.pth")
    assert before["current_epoch"] == after["current_epoch"] == 5
    weights = zip(before["network_weights"].values(), after["network_weights"].values(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


def test_nothing_is_saved_where_checkpointing_is_disabled(train):
    fold = train(options={"disable_checkpointing": True}, **SHORT)
    assert not list(fold.glob("*.pth"))
    assert (fold / "validation" / "summary.json").is_file()


@pytest.mark.parametrize("configuration", ["tiny_2d", "tiny_flat"])
def test_other_configurations(train, configuration):
    fold = train(configuration, **SHORT | {"resolution": [0.7, 1.0], "epochs": 3})
    assert (fold / "checkpoint_final.pth").is_file()
    assert (fold / "validation" / "summary.json").is_file()


def test_the_first_stage_of_a_cascade(make_trainer):
    make_trainer("tiny_lowres", **SHORT).run_training()


def test_as_many_threads_as_are_set(make_trainer, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    make_trainer(threads=3, **SHORT).initialize()
    assert chosen[:1] == [3]


def test_without_deep_supervision(make_trainer, monkeypatch):
    trainer = make_trainer(**SHORT)
    trainer.enable_deep_supervision = False
    trainer.run_training()
    assert isinstance(trainer.network(torch.randn(1, 1, 16, 24, 16)), torch.Tensor)
    trainer.perform_actual_validation()


@pytest.mark.parametrize(("mirror", "axes"), [(True, (0, 1, 2)), (False, None)])
def test_mirroring(make_trainer, mirror, axes):
    trainer = make_trainer(mirror=mirror, **SHORT)
    trainer.run_training()
    assert trainer.inference_allowed_mirroring_axes == axes
    content = read_safely(f"{trainer.output_folder}/checkpoint_final.pth")
    assert content["inference_allowed_mirroring_axes"] == axes


def test_settings_of_a_subclass_hold_where_there_is_no_file(make_trainer, monkeypatch, small):
    monkeypatch.setattr(ProXTrainer, "settings", dataclasses.replace(ProXTrainer.settings, seed=5, batch_size=4))
    trainer = make_trainer()
    assert (trainer.settings.seed, trainer.settings.depth, trainer.configuration_manager.batch_size) == (
        5,
        (1, 2),
        4,
    )


@pytest.mark.parametrize("form", ["mse", "kl"])
def test_freezing_and_the_forms_of_distillation(make_trainer, form):
    make_trainer(freeze="both", distillation_form=form, optimizer="adam", learning_rate_decay="constant").run_training()


PRESET_STAGES = {
    "plus": ["depth", "depth", "width", "kernel", "resolution", "polish"],
    "paper_mr": ["depth", "depth", "width", "kernel", "kernel", "kernel"],
    "progressive_shrinking_cai": ["kernel", "kernel", "depth", "width", "width", "width"],
    "sandwich": ["joint"] * 6,
    "compofa": ["kernel", "kernel", "kernel", "kernel", "width", "width"],
    "standalone": ["joint"] * 6,
}


@pytest.mark.parametrize("preset", PRESET_STAGES)
def test_every_method_trains(make_trainer, preset):
    """All in ``ProXTrainer`` with its checkpoints; subnets per step as the method has them."""
    fields = {"polish": True, **PRESETS[preset], "preset": preset}
    trainer = make_trainer(epochs=6, iterations_per_epoch=1, **fields)
    trainer.run_training()
    log = trainer.logger.local_logger.my_fantastic_logging
    assert log["stage"] == PRESET_STAGES[preset]
    trained = sum(len(trainer.training.subnets_at(epoch, 0)) for epoch in range(6))
    assert trained == {"plus": 8, "progressive_shrinking_cai": 2 + 2 + 4 * 3, "sandwich": 24}.get(preset, 6)
    weights = torch.load(Path(trainer.output_folder, "checkpoint_final.pth"), weights_only=True)["network_weights"]
    ours = trainer.supernet.state_dict()
    assert all(torch.equal(weights[name], ours[name]) for name in ours if name != "_extra_state")
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_a_patch_that_grows_trains_on_more_and_more_of_each_batch(make_trainer, monkeypatch):
    trainer, seen = make_trainer(resolution=[1.0], kernel=[3], depth=[1], epochs=[3, 2], patch="growing"), []
    crop = ProgressiveTraining.crop

    def note(training, step, x, target):
        x, target = crop(training, step, x, target)
        seen.append((tuple(x.shape[2:]), [tuple(each.shape[2:]) for each in target]))
        return x, target

    monkeypatch.setattr(ProgressiveTraining, "crop", note)
    trainer.run_training()
    full = tuple(trainer.configuration_manager.patch_size)
    sizes = growing_sizes(full, trainer.supernet.architecture.stride)
    assert len(sizes) > 1
    assert [size for size, _ in seen[::2]] == [size_at(sizes, e, n) for n in (3, 2) for e in range(n)]
    assert all(targets[0] == size for size, targets in seen)
    assert seen[4][0] == seen[-1][0] == full
    log = trainer.logger.local_logger.my_fantastic_logging
    costs = MultiplyAdds(trainer.supernet, (trainer.num_input_channels, *seen[0][0]))
    first = [config for step in range(2) for config in trainer.training.subnets_at(0, step)]
    assert log["multiply_adds"][0] == pytest.approx(sum(map(costs, first)) * trainer.batch_size / 1e9)


def test_the_optimizer_forgets_what_it_kept_for_channels_that_moved(make_trainer, monkeypatch):
    trainer = make_trainer(epochs=4, **PRESETS["progressive_shrinking"])
    begin, kept = trainer.on_train_epoch_start, []

    def start():
        before = len(trainer.optimizer.state)
        begin()
        kept.append((before, len(trainer.optimizer.state)))

    monkeypatch.setattr(trainer, "on_train_epoch_start", start)
    trainer.run_training()
    assert [phase.reorder for phase in trainer.schedule.phases] == [False, False, False, True]
    assert all(before == after for before, after in kept[:3])
    assert kept[3][0] > kept[3][1] == 0


def test_nnunet_compile_is_refused_with_a_line(make_trainer, monkeypatch):
    monkeypatch.setenv("nnUNet_compile", "true")
    trainer = make_trainer()
    assert trainer._do_i_compile() is False
    with open(trainer.log_file) as log:
        assert "torch.compile is not used: every subnet would be compiled anew" in log.read()


LABELS = {
    "regions": {
        "labels": {"background": 0, "whole": [1, 2], "tail": 2},
        "regions_class_order": [1, 2],
    },
    "ignore": {"labels": {"background": 0, "head": 1, "ignore": 2}},
    "ignored_regions": {
        "labels": {"background": 0, "whole": [1], "ignore": 2},
        "regions_class_order": [1],
    },
}


@pytest.fixture
def other_labels(folders, request):
    """A twin of the data set with other labels, preprocessed by nnU-Net."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess

    number = 20 + list(LABELS).index(request.param)
    name = f"Dataset{number:03d}_Synthetic"
    for parent in (folders.raw, folders.preprocessed):
        skipped = shutil.ignore_patterns("nnUNetPlans_*", "gt_segmentations")
        shutil.copytree(parent / folders.dataset, parent / name, symlinks=True, ignore=skipped)
        file = parent / name / "dataset.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | LABELS[request.param]))
    plans = folders.preprocessed / name / "nnUNetPlans.json"
    plans.write_text(plans.read_text().replace(folders.dataset, name))
    preprocess([number], configurations=("3d_fullres",), num_processes=(1,), show_progress_bar=False)
    return str(number)


def test_a_teacher_counts_outputs_as_nnunets_loss_does(make_trainer):
    trainer = make_trainer(**SHORT)
    trainer.initialize()
    assert trainer.loss.weights == trainer.loss.task_loss.weight_factors
    assert trainer.loss.weights[0] > trainer.loss.weights[-1] == 0


@pytest.mark.parametrize("other_labels", LABELS, indirect=True)
def test_regions_and_ignored_labels(train, make_trainer, other_labels, request):
    trainer = make_trainer(dataset=other_labels, **SHORT)
    trainer.initialize()
    # as nnU-Net has it, a region of one label is a class
    assert trainer.training.regions == (request.node.callspec.params["other_labels"] == "regions")
    fold = train(dataset=other_labels, **SHORT | {"validate": ["smallest"], "polish": True, "epochs": 3})
    assert (fold / "subnet_smallest" / "validation" / "summary.json").is_file()
    logs = read_safely(fold / "checkpoint_final.pth")["logging"]
    assert all(np.isfinite(logs["train_losses"]))
    assert all(0 <= value <= 1 for value in logs["dice_smallest"])
