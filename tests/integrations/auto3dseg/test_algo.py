"""ProxAlgo: what is generated, what is started, what is refused."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import yaml
from monai.apps.auto3dseg import AutoRunner, BundleGen
from monai.apps.auto3dseg.utils import import_bundle_algo_history
from monai.auto3dseg.utils import algo_from_json

from prox_monai.integrations.auto3dseg import ProxAlgo, algos
from prox_monai.integrations.auto3dseg.planning import Device
from prox_monai.plugin_files import plugin_folder


def config_of(algo) -> dict:
    return yaml.safe_load((Path(algo.output_path) / "configs" / "hyper_parameters.yaml").read_text())


def test_the_file_of_parameters(generate, cases):
    algo = generate()
    config = config_of(algo)
    assert config["bundle_root"] == algo.output_path
    assert config["ckpt_path"] == "$@bundle_root + '/model'"
    assert config["data_file_base_dir"] == str(cases.folder)
    assert (config["input_channels"], config["output_classes"], config["fold"]) == (1, 3, 0)
    assert config["roi_size"] == [24, 24, 20]
    assert config["prox_channels"] == 4
    assert all(not isinstance(value, dict) for value in config.values())


def test_a_saved_algorithm_comes_back(generate):
    algo = generate(prox_seed=3)
    loaded, _ = algo_from_json(str(Path(algo.output_path) / "algo_object.json"))
    assert isinstance(loaded, ProxAlgo)
    assert loaded.state_dict() == algo.state_dict()
    assert loaded.settings["prox_seed"] == 3


def test_folds_get_their_number(generate_algos, cases, stats, tmp_path):
    generated = generate_algos(tmp_path, cases, stats, num_fold=2)
    assert [config_of(algo)["fold"] for algo in generated] == [0, 1]


def test_two_entries_with_settings_of_their_own(stats, cases, tmp_path):
    """Each under a name of its own; the template is one."""
    source = tmp_path / "input.yaml"
    source.write_text(yaml.safe_dump(cases.source))
    entries = {"proxslim": algos(prox_width=[0.25])["prox"], "proxwide": algos(prox_width=[1.0])["prox"]}
    generator = BundleGen(str(tmp_path), entries, None, str(stats), str(source))
    generator.generate(str(tmp_path), num_fold=1)
    widths = [config_of(entry["algo_instance"])["prox_width"] for entry in generator.get_history()]
    assert widths == [[0.25], [1.0]]
    assert (tmp_path / "proxslim_0" / "scripts" / "infer.py").is_file()


def test_a_folder_of_templates(stats, cases, tmp_path, quiet_monai, monkeypatch):
    """The template beside others, copied into the work directory by MONAI."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    source = tmp_path / "input.yaml"
    source.write_text(yaml.safe_dump(cases.source))
    work = tmp_path / "work"
    generator = BundleGen(str(work), "prox", str(plugin_folder("auto3dseg")), str(stats), str(source))
    generator.generate(str(work), num_fold=1)
    (entry,) = generator.get_history()
    assert type(entry["algo_instance"]) is ProxAlgo
    assert (work / "algorithm_templates" / "prox" / "scripts" / "algo.py").is_file()


def test_a_relative_output_folder(stats, cases, tmp_path, monkeypatch):
    source = tmp_path / "input.yaml"
    source.write_text(yaml.safe_dump(cases.source))
    monkeypatch.chdir(tmp_path)
    generator = BundleGen(".", algos(), None, str(stats), str(source))
    generator.generate("work", num_fold=1)
    (entry,) = generator.get_history()
    assert config_of(entry["algo_instance"])["bundle_root"] == str(tmp_path / "work" / "prox_0")


def test_the_command_is_a_list_for_this_python(generate):
    algo = generate()
    algo.device_setting.update(n_devices=1, NUM_NODES=1, CMD_PREFIX="")
    command, _ = algo._create_cmd({"roi_size": [16, 16, 16], "prox_width": (0.5, 1), "prox_preset": "plus"})
    root = Path(algo.output_path)
    assert command[:3] == [sys.executable, str(root / "scripts" / "train.py"), "run"]
    assert command[3] == f"--config_file={root / 'configs' / 'hyper_parameters.yaml'}"
    assert command[4:] == ["--roi_size=[16, 16, 16]", "--prox_width=[0.5, 1]", "--prox_preset=plus"]


def test_a_prefix_of_the_user_is_kept(generate):
    algo = generate()
    algo.device_setting.update(n_devices=2, NUM_NODES=1, CMD_PREFIX="torchrun --nnodes=1 --nproc_per_node=2 ")
    assert algo._create_cmd()[0][:3] == ["torchrun", "--nnodes=1", "--nproc_per_node=2"]


@pytest.mark.parametrize(
    ("prefix", "start"),
    [
        ("python ", ["python", "-m", "torch.distributed.run"]),
        ("torchrun", ["torchrun"]),
    ],
)
def test_a_prefix_of_one_word_still_uses_all_gpus(prefix, start, generate):
    algo = generate()
    algo.device_setting.update(n_devices=2, NUM_NODES=1, CMD_PREFIX=prefix)
    command = algo._create_cmd()[0]
    assert command[: len(start) + 2] == [*start, "--standalone", "--nproc_per_node=2"]
    algo.device_setting.update(n_devices=1)
    assert algo._create_cmd()[0][1].endswith("train.py")


def test_a_python_in_a_folder_with_spaces(generate, tmp_path):
    python = tmp_path / "my programs" / "python"
    python.parent.mkdir()
    python.touch()
    algo = generate()
    algo.device_setting.update(n_devices=1, NUM_NODES=1, CMD_PREFIX=str(python))
    assert algo._create_cmd()[0][0] == str(python)


def test_several_gpus_are_several_processes(generate):
    algo = generate()
    algo.device_setting.update(n_devices=4, NUM_NODES=1, CMD_PREFIX="")
    command, _ = algo._create_cmd()
    assert command[:5] == [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=4"]


def test_several_nodes_are_monais(generate):
    algo = generate()
    algo.device_setting.update(n_devices=4, NUM_NODES=2, CMD_PREFIX="python")
    command, _ = algo._create_cmd({"num_epochs": 3})
    assert "train.py run" in command
    assert "--num_epochs=3" in command


def test_bad_training_parameters_start_nothing(generate, monkeypatch):
    algo = generate()
    monkeypatch.setattr(ProxAlgo, "_run_cmd", lambda *arguments: pytest.fail("started"))
    with pytest.raises(ValueError, match="unknown parameter 'num_epoch', did you mean 'num_epochs'"):
        algo.train({"num_epoch": 3})
    with pytest.raises(ValueError, match="network is nested"):
        algo.train({"network": {"depth": 3}})


def test_the_choice_of_a_subnet_is_not_for_a_training(generate, monkeypatch):
    algo = generate()
    monkeypatch.setattr(ProxAlgo, "_run_cmd", lambda *arguments: pytest.fail("started"))
    with pytest.raises(ValueError, match="subnet and max_latency_ms must not be given to a training"):
        algo.train({"subnet": "smallest", "max_latency_ms": 5})


def test_the_template_is_not_written_into(generate, tmp_path):
    with pytest.raises(ValueError, match="copy_dirs must be true"):
        generate().export_to_disk(str(tmp_path), "prox_0", copy_dirs=False)


def test_a_failing_training_says_why(generate, quiet_monai):
    algo = generate()
    script = Path(algo.output_path) / "scripts" / "train.py"
    script.write_text("raise SystemExit('the disk is full')")
    with pytest.raises(RuntimeError, match="the disk is full"):
        algo.train({})


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        (
            {"class_names": ["one", "two", "three"]},
            {},
            r"every class must occur .* three \(label 3\) does in none.* run with analyze=True",
        ),
        ({"class_names": ["one"]}, {}, "class_names must name the 2 classes"),
        ({"class_names": [{"name": "one", "index": [1]}]}, {}, "class_names must be names, one per label"),
        ({"sigmoid": True}, {}, "sigmoid must be false for prox"),
        ({}, {"roi_size": [4, 4, 4]}, "a patch of 4x4x4 voxels is too small"),
    ],
)
def test_bad_input_generates_nothing(source, settings, message, generate_algos, cases, stats, tmp_path, quiet_monai):
    work = tmp_path / "work"
    with pytest.raises(ValueError, match=message):
        generate_algos(work, cases, stats, source=source, **settings)
    assert import_bundle_algo_history(str(work), only_trained=False) == []
    generate_algos(work, cases, stats)  # the work directory can still be used
    assert len(import_bundle_algo_history(str(work), only_trained=False)) == 1


def test_unknown_settings_of_an_input_file(cases, stats, tmp_path):
    """They do not go through ``algos``."""
    source = tmp_path / "input.yaml"
    source.write_text(yaml.safe_dump(cases.source))
    entry = algos()["prox"] | {"settings": {"prox_widths": [1], "network#depth": 2}}
    generator = BundleGen(str(tmp_path), {"prox": entry}, None, str(stats), str(source))
    with pytest.raises(ValueError, match=r"unknown parameter 'prox_widths', did you .* network#depth is nested"):
        generator.generate(str(tmp_path), num_fold=1)


@pytest.mark.parametrize("key", ["modality", "datalist", "dataroot"])
def test_an_input_without_a_key(key, cases, stats, tmp_path):
    """AutoRunner refuses it by itself, BundleGen does not."""
    source = tmp_path / "input.yaml"
    source.write_text(yaml.safe_dump({name: value for name, value in cases.source.items() if name != key}))
    generator = BundleGen(str(tmp_path), algos(), None, str(stats), str(source))
    with pytest.raises(ValueError, match=f"the input must name modality, datalist and dataroot, it lacks {key}"):
        generator.generate(str(tmp_path), num_fold=1)


def test_a_trained_model_outlives_a_bad_setting(generate):
    """Generated again, as AutoRunner(algo_gen=True) does in a work directory that was used."""
    folder = Path(generate().output_path)
    (folder / "model").mkdir()
    (folder / "model" / "model.pt").touch()
    before = sorted(folder.rglob("*"))
    with pytest.raises(ValueError, match="a patch of 4x4x4 voxels is too small"):
        generate(roi_size=[4, 4, 4])
    assert sorted(folder.rglob("*")) == before


def test_the_patch_is_planned_for_the_spacing_that_is_given(generate):
    assert config_of(generate())["roi_size"] == [24, 24, 20]
    config = config_of(generate(resample_resolution="1,1,2"))
    assert config["resample_resolution"] == [1.0, 1.0, 2.0]
    assert config["roi_size"][2] <= 12


def test_the_patch_is_planned_for_the_channels_that_are_given(generate, monkeypatch):
    small = Device(cuda=False, memory_gb=0.015, ram_gb=1.0)
    monkeypatch.setattr(Device, "present", lambda: small)
    assert config_of(generate(prox_channels=4))["roi_size"] == [24, 24, 20]
    assert math.prod(config_of(generate(prox_channels=32))["roi_size"]) < 24 * 24 * 20


def test_class_names_with_a_background(generate, cases):
    algo = generate(source={"class_names": ["Background", "one", "two"]})
    assert config_of(algo)["output_classes"] == 3


def without_files(content):
    content["training"][1]["label"] = "labelsTr/absent.nii.gz"
    content["training"][2]["image"] = ["imagesTr/case_2.nii.gz", "imagesTr/gone.nii.gz"]
    del content["training"][3]["label"]


def test_missing_files_are_counted(cases, stats, generate_algos, tmp_path):
    changed = cases.change(tmp_path / "changed.json", without_files)
    with pytest.raises(ValueError, match=r"problems: 3") as caught:
        generate_algos(tmp_path / "work", changed, stats)
    assert "absent.nii.gz does not exist" in str(caught.value)
    assert "gone.nii.gz does not exist" in str(caught.value)
    assert "names no label" in str(caught.value)


def one_case(content):
    content["training"] = content["training"][:1]


def test_one_case_only(cases, stats, generate_algos, tmp_path, quiet_monai):
    """With a fold it is refused here, without by AutoRunner."""
    changed = cases.change(tmp_path / "one.json", one_case)
    with pytest.raises(ValueError, match="fold 0 of .*one.json has 0 training and 1 validation cases"):
        generate_algos(tmp_path / "work", changed, stats)
    changed = cases.change(tmp_path / "one.json", lambda c: (one_case(c), c["training"][0].pop("fold")))
    with pytest.raises(ValueError, match="num_fold must be at least 2"):
        AutoRunner(str(tmp_path / "runner"), changed.source, algos())


def test_hpo_keeps_what_was_filled(generate, tmp_path):
    """What OptunaGen does for a trial: the parameters again, some of them others, no statistics."""
    algo = generate()
    Path(algo.data_stats_files).stat()
    algo.data_stats_files = str(tmp_path / "gone.yaml")
    algo.export_to_disk(str(tmp_path / "hpo"), "prox_0_override", num_epochs=7, fill_with_datastats=False)
    assert config_of(algo)["num_epochs"] == 7
    algo.export_to_disk(str(tmp_path / "hpo"), "prox_0_override_x", bundle_root="elsewhere", fill_with_datastats=False)
    assert config_of(algo)["num_epochs"] == 7
    assert config_of(algo)["bundle_root"] == str(tmp_path / "hpo" / "prox_0_override_x")


def test_hpo_in_a_moved_work_directory_keeps_what_was_edited(copied, tmp_path):
    file = copied / "prox_0" / "configs" / "hyper_parameters.yaml"
    file.write_text(file.read_text().replace("num_epochs: 4", "num_epochs: 9"))
    algo, _ = algo_from_json(str(copied / "prox_0" / "algo_object.json"))
    algo.export_to_disk(str(tmp_path / "hpo"), "prox_0_x", learning_rate=0.02, fill_with_datastats=False)
    config = config_of(algo)
    assert (config["num_epochs"], config["learning_rate"]) == (9, 0.02)
    assert config["data_list_file_path"] == str(copied / "datalist.json")
    assert algo.fill_records["hyper_parameters.yaml"]["num_epochs"] == 9


def test_the_template_is_found_where_another_machine_had_it(generate, tmp_path):
    algo = generate()
    algo.template_path = "/nowhere"
    algo.export_to_disk(str(tmp_path / "again"), "prox_0")
    assert (tmp_path / "again" / "prox_0" / "scripts" / "train.py").is_file()
