"""Settings are checked whole, before nnU-Net makes a folder."""

from __future__ import annotations

import dataclasses
import json

import pytest

from prox_monai.integrations.nnunet.settings import ProXSettings, differing_fields, resolve_settings, with_fields
from prox_monai.integrations.nnunet.trainer import ProXTrainer

WRONG = [
    ("depth", [0, 1], r"depth must be a list of integers >= 1, got \(0, 1\)"),
    ("depth", 2, "depth must be a list of integers >= 1, got 2"),
    ("depth", [], r"depth must be a list of integers >= 1, got \(\)"),
    ("width", [-0.5], "width must be a list of numbers > 0"),
    ("width", ["3e-3"], "width must be a list of numbers > 0, got"),
    ("kernel", [3, 4], r"kernel must be a list of odd integers, got \(3, 4\)"),
    ("kernel", [True], "kernel must be a list of odd integers"),
    ("resolution", [0.5, 1.5], r"resolution must be a list of numbers in \(0, 1\], got \(0.5, 1.5\)"),
    ("max_width", 0, "max_width must be a number > 0 or null, got 0"),
    ("schedule", "shrinking", "schedule must be one of prox, progressive_shrinking, sandwich, standalone, got"),
    ("resolution_phases", None, "resolution_phases must be one of increasing, mixed, got None"),
    ("epochs", 0, "epochs must be an integer >= 1 or a list of them, got 0"),
    ("epochs", 10.0, "epochs must be an integer >= 1 or a list of them, got 10.0"),
    ("iterations_per_epoch", 0, "iterations_per_epoch must be an integer >= 1, got 0"),
    ("batch_size", "2", "batch_size must be an integer >= 1 or null, got '2'"),
    ("threads", 0, "threads must be an integer >= 1 or null, got 0"),
    ("seed", -1, "seed must be an integer >= 0, got -1"),
    ("seed", True, "seed must be an integer >= 0, got True"),
    ("freeze", "all", "freeze must be one of none, depth, kernel, both, got 'all'"),
    ("growth", "zero", "growth must be one of preserving, host, none, got 'zero'"),
    ("distillation", 1.5, r"distillation must be a number in \[0, 1\], got 1.5"),
    (
        "learning_rate",
        "3e-3",
        r"learning_rate must be a number > 0, got '3e-3' \(text: YAML wants a decimal point",
    ),
    ("learning_rate", float("nan"), "learning_rate must be a number > 0, got nan"),
    ("weight_decay", -1, "weight_decay must be a number >= 0, got -1"),
    ("mirror", 1, "mirror must be true or false, got 1"),
    ("validate", [], "validate must be a list of subnet names"),
    ("preset", "fast", "preset must be one of plus, paper, paper_mr, progressive_shrinking, .*, got 'fast'"),
    ("polish", 1, "polish must be true or false, got 1"),
    ("subnets_per_step", [2, 0], r"subnets_per_step must be an integer >= 1 or a list of them, got \(2, 0\)"),
    ("subnet", 3, "subnet must be a subnet's name, got 3"),
    ("teacher_average", 1.0, r"teacher_average must be a number in \[0, 1\), got 1.0"),
    ("patch", "small", "patch must be one of full, growing, got 'small'"),
    ("ring_rate", 0.5, "ring_rate must be one of core_share, full, got 0.5"),
    ("inplace_distillation", 2, r"inplace_distillation must be a number in \[0, 1\], got 2"),
    ("expansion", "end", "expansion must be one of off, report, stop, got 'end'"),
    ("expansion_delta", -0.1, "expansion_delta must be a number >= 0, got -0.1"),
    ("schedule", "sandwich", "polish must be false with schedule 'sandwich', got True; a preset sets all"),
    ("overwrite", "yes", "overwrite must be true or false, got 'yes'"),
]


@pytest.mark.parametrize(("field", "value", "message"), WRONG)
def test_a_wrong_value_is_named_with_what_is_allowed(field, value, message):
    with pytest.raises(ValueError, match=message):
        ProXSettings(**{field: value})


def test_all_problems_are_named_at_once():
    with pytest.raises(ValueError, match=r"kernel must be .* seed must be "):
        ProXSettings(kernel=(2,), seed=-1)


def test_lists_become_tuples_and_back():
    settings = ProXSettings(depth=[1, 3], epochs=[1, 2])
    assert settings.depth == (1, 3)
    assert ProXSettings(**json.loads(json.dumps(settings.to_dict()))) == settings


def test_the_file_changes_the_fields_it_names(tmp_path):
    path = tmp_path / "prox.yaml"
    path.write_text("width: [.25, .5]\nlearning_rate: 1.0e-3\n")
    settings, given = resolve_settings(ProXSettings(seed=3), {"PROX_CONFIG": str(path)})
    assert given == {"width", "learning_rate"}
    assert settings == ProXSettings(seed=3, width=(0.25, 0.5), learning_rate=1e-3)


@pytest.mark.parametrize("environment", [{}, {"PROX_CONFIG": ""}])
def test_without_a_file_the_attributes_of_the_class_hold(environment):
    assert resolve_settings(ProXSettings(seed=3), environment) == (ProXSettings(seed=3), set())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("widths: [.5]", r"unknown field 'widths' \(did you mean 'width'\?\); the fields are schedule, .*, width"),
        ("zzz: 1", r"unknown field 'zzz'; the fields are"),
        ("1: 2", "unknown field '1'|unknown field 1"),
        ("[1, 2]", "must hold fields and values, got list"),
        ("width: [", "is not valid YAML"),
        ("kernel: [4]", r"prox.yaml: kernel must be a list of odd integers, got \(4,\)"),
        ("learning_rate: 3e-3", "YAML wants a decimal point, as in 3.0e-3"),
    ],
)
def test_a_wrong_file_is_refused_with_its_path(tmp_path, text, message):
    path = tmp_path / "prox.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        resolve_settings(ProXSettings(), {"PROX_CONFIG": str(path)})
    assert str(path) in str(raised.value)


def test_a_bare_off_is_no_truth_value(tmp_path):
    (tmp_path / "prox.yaml").write_text("expansion: off\n")
    assert resolve_settings(ProXSettings(), {"PROX_CONFIG": str(tmp_path / "prox.yaml")})[0].expansion == "off"


def test_an_empty_file_changes_nothing(tmp_path):
    (tmp_path / "prox.yaml").write_text("# nothing\n")
    assert resolve_settings(ProXSettings(), {"PROX_CONFIG": str(tmp_path / "prox.yaml")})[1] == set()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="PROX_CONFIG names .*absent.yaml, which is not a file"):
        resolve_settings(ProXSettings(), {"PROX_CONFIG": str(tmp_path / "absent.yaml")})


def test_differences_name_field_and_both_values():
    ours, theirs = ProXSettings(seed=1, mirror=False), ProXSettings(seed=2)
    assert differing_fields(ours, theirs, {"seed", "mirror", "width"}) == [
        "mirror (True instead of False)",
        "seed (2 instead of 1)",
    ]
    assert differing_fields(ours, theirs, {"width"}) == []


def test_max_width_drops_candidates():
    assert ProXSettings(max_width=0.5).search_space(3).width == (0.25, 0.5)
    with pytest.raises(ValueError, match=r"max_width 0.1 leaves none of the candidates of width \(0.25, 0.5, 1.0\)"):
        ProXSettings(max_width=0.1).search_space(3)


def test_the_schedule_that_was_asked_for():
    settings = ProXSettings(depth=(1, 2), width=(1.0,), kernel=(3, 5), resolution=(0.5, 1.0), epochs=8)
    space = settings.search_space(3)

    def phases(**changes):
        return dataclasses.replace(settings, **changes).phase_schedule(space, settings.epochs).phases

    assert [phase.stage for phase in phases()] == ["depth", "depth", "kernel", "resolution", "polish"]
    assert [phase.stage for phase in phases(polish=False)] == ["depth", "depth", "kernel", "resolution"]
    assert [phase.space.resolution for phase in phases(resolution_phases="mixed", polish=False)] == [(0.5, 1.0)] * 3
    first = phases(schedule="progressive_shrinking", polish=False, growth="none")[0]
    assert first.space.smallest() == dataclasses.replace(space.largest(), resolution=0.5)
    (alone,) = phases(schedule="standalone", subnet="smallest", polish=False, growth="none")
    assert (alone.fixed, alone.epochs) == ((space.smallest(),), 8)


def test_fields_that_are_given_prevail_over_those_of_the_preset(tmp_path):
    path = tmp_path / "prox.yaml"
    path.write_text("preset: paper\nfreeze: none\n")
    settings, given = resolve_settings(ProXSettings(seed=3), {"PROX_CONFIG": str(path)})
    assert given == {"preset", "freeze"}
    assert (settings.preset, settings.growth, settings.freeze, settings.seed) == ("paper", "host", "none", 3)


def test_fields_that_are_not_given_are_those_of_the_preset():
    settings = ProXSettings(preset="paper", seed=3, distillation=0.25)
    assert (settings.preset, settings.growth, settings.freeze, settings.seed) == ("paper", "host", "both", 3)
    assert settings.distillation == 0.25
    assert settings == with_fields(ProXSettings(seed=3), {"preset": "paper", "distillation": 0.25})
    assert dataclasses.replace(settings, freeze="none").growth == "host"


def test_nothing_is_left_of_the_preset_before():
    before = ProXSettings(preset="paper", width=(0.5,), learning_rate=1.0)
    assert with_fields(before, {"preset": "plus"}) == ProXSettings(width=(0.5,))
    assert with_fields(before, {"seed": 4}) == dataclasses.replace(before, seed=4)


def test_an_unknown_field_is_named():
    with pytest.raises(ValueError, match=r"unknown field 'widht' \(did you mean 'width'\?\), 'zzz'; the fields are"):
        ProXSettings(widht=(1.0,), zzz=1)


def test_a_preset_may_be_a_class_attribute():
    class Paper(ProXTrainer):
        preset = "paper"
        distillation = 0.25

    assert (Paper.settings.optimizer, Paper.settings.distillation) == ("adam", 0.25)


def test_an_unknown_preset_in_a_file_is_named(tmp_path):
    path = tmp_path / "prox.yaml"
    path.write_text("preset: ofa\n")
    with pytest.raises(ValueError, match=r"prox.yaml: preset must be one of plus, paper, .*, got 'ofa'"):
        resolve_settings(ProXSettings(), {"PROX_CONFIG": str(path)})


def test_coupled_depths_and_widths():
    space = ProXSettings(coupled=True).search_space(3)
    assert space.pairs == ((1, 0.25), (1, 0.5), (2, 1.0))


BEFORE_ANYTHING_IS_WRITTEN = [
    ({"kernel": [3, 4]}, ValueError, "kernel must be a list of odd integers"),
    ({"width": [0.1, 1.0]}, ValueError, r"width 0.1 .*section 0.* 4"),
    ({"epochs": 4}, ValueError, "4 epochs cannot cover 5 phases; give at least 5, or fewer candidates"),
    ({"epochs": [1, 1]}, ValueError, "a list of 5 integers >= 1, one per phase"),
    (
        {"resolution": [0.95, 1.0]},
        ValueError,
        r"resolution 1 and 0.95 both lead to an input of \[16, 24, 16\] voxels",
    ),
    ({"resolution": [0.1, 1.0]}, ValueError, "resolution 0.1 leaves a single voxel at the bottleneck"),
    ({"width": [1.0, 0.5]}, ValueError, "width"),
    ({"validate": ["biggest"]}, ValueError, "biggest.*smallest.*largest"),
]


@pytest.mark.parametrize(("changes", "error", "message"), BEFORE_ANYTHING_IS_WRITTEN)
def test_nothing_is_written_before_the_settings_fit_the_plans(make_trainer, results, changes, error, message):
    with pytest.raises(error, match=message):
        make_trainer(**changes)
    assert not results.exists()


@pytest.mark.parametrize(
    ("configuration", "message"),
    [("tiny_cascade", "second stage of a cascade; use 3d_fullres"), ("tiny_residual", "ResidualEncoderUNet")],
)
def test_plans_that_are_not_supported_are_refused_before_anything_is_written(
    make_trainer, results, configuration, message
):
    with pytest.raises(NotImplementedError, match=message):
        make_trainer(configuration)
    assert not results.exists()


def test_class_attributes_of_a_subclass_are_settings():
    class Mine(ProXTrainer):
        epochs = 9
        width = (0.5, 1.0)
        note = "not a setting"

    class Wider(Mine):
        width = (0.5, 1.0, 2.0)

    assert (Mine.settings.epochs, Mine.settings.width) == (9, (0.5, 1.0))
    assert (Wider.settings.epochs, Wider.settings.width) == (9, (0.5, 1.0, 2.0))
    assert ProXTrainer.settings == ProXSettings()


@pytest.mark.parametrize(
    ("attributes", "error", "message"),
    [
        ({"widht": (1.0,)}, ValueError, r"Mine.widht is not a setting; did you mean 'width'\?"),
        ({"epochs": "many"}, ValueError, r"epochs must be an integer >= 1 or a list of them, got 'many'"),
        ({"settings": {"epochs": 3}}, TypeError, r"settings of Mine must be a ProXSettings, got \{'epochs': 3\}"),
    ],
)
def test_wrong_class_attributes_are_refused(attributes, error, message):
    with pytest.raises(error, match=message):
        type("Mine", (ProXTrainer,), attributes)
