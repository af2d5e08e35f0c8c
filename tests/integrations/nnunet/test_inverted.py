"""U-Nets of inverted residuals from ordinary plans: planned, trained, predicted with, exported."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import maybe_load_checkpoint, run_training
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from prox_monai.cli import main
from prox_monai.commands import export as export_commands
from prox_monai.elastic import Supernet, check_architecture
from prox_monai.export.exported import load_exported
from prox_monai.integrations.nnunet.checkpoint import check_network, read_checkpoint
from prox_monai.integrations.nnunet.export import export_stock
from prox_monai.integrations.nnunet.extend import extend
from prox_monai.integrations.nnunet.inverted import NETWORK_CLASS, PlannedInvertedUNetArchitecture
from prox_monai.integrations.nnunet.planning import architecture_of, network_of, plan_training, with_network
from prox_monai.integrations.nnunet.settings import ProXSettings
from prox_monai.integrations.nnunet.trained import load_trained
from prox_monai.integrations.nnunet.trainer import ProXTrainer
from prox_monai.space import Dimension, SearchSpace, SubnetConfig
from prox_monai.space.groups import unet_groups
from prox_monai.training.checkpoint import architecture_from_dict, architecture_to_dict, read_safely

SPACE = SearchSpace(5, (1, 2), (0.5, 1.0), (3, 5), groups=unet_groups(3))
SHORT = {"width": [0.5, 1.0], "kernel": [3], "resolution": [1.0], "epochs": 3, "expansion": "off"}
NETWORKS = ("inverted", "reversible")


@pytest.fixture
def planned(folders):
    plans = folders.preprocessed / folders.dataset / "nnUNetPlans.json"
    return PlansManager(str(plans)).get_configuration


@pytest.fixture
def build(planned):
    def make(name: str, network: str, deep_supervision: bool = True) -> PlannedInvertedUNetArchitecture:
        return architecture_of(with_network(planned(name), network), 1, 3, deep_supervision)

    return make


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("name", "size"), [("tiny_2d", (8, 8)), ("tiny_flat", (4, 8, 8))])
def test_it_keeps_the_promises_of_an_architecture(build, name, size, network):
    check_architecture(build(name, network), SPACE, input_size=(1, *size))


@pytest.mark.parametrize("network", NETWORKS)
def test_every_subnet_is_the_network_that_its_plans_describe(build, network):
    """As nnU-Net builds it from plans alone: the same names, shapes and logits."""
    architecture = build("tiny_flat", network, deep_supervision=False)
    supernet, x = Supernet(architecture, SPACE).eval(), torch.randn(1, 1, 4, 8, 8)
    for config in (SPACE.smallest(), SPACE.parse("d1.2.1.2.1-w.5-k3.5.5.5.3-r1"), SPACE.largest()):
        arch_kwargs = json.loads(json.dumps(architecture.arch_kwargs_of(config)))
        theirs = get_network_from_plans(NETWORK_CLASS, arch_kwargs, [], 1, 3, deep_supervision=False).eval()
        extracted = supernet.extract(config)
        theirs.load_state_dict(extracted.state_dict(), strict=True)
        assert torch.equal(theirs(x), extracted(x))


def test_levels_stay_as_they_are_planned(build, planned):
    plain, inverted = planned("tiny_flat").network_arch_init_kwargs, build("tiny_flat", "inverted")
    assert inverted.channels == tuple(plain["features_per_stage"])
    assert inverted.strides == tuple(map(tuple, plain["strides"]))
    assert inverted.planned_kernels == tuple(map(tuple, plain["kernel_sizes"]))
    assert inverted.planned() == SubnetConfig.uniform(5, 2, 1.0, 3)
    assert (inverted.spatial_dims, inverted.norm, inverted.reversible) == (3, "instance", False)
    assert architecture_from_dict(json.loads(json.dumps(architecture_to_dict(inverted)))) == inverted


@pytest.mark.parametrize("network", ["plain", *NETWORKS])
def test_plans_say_which_network_they_plan(planned, network):
    configuration = with_network(planned("tiny"), network)
    assert network_of(configuration) == network
    assert with_network(configuration, network) is configuration
    assert network_of(planned("tiny")) == "plain"


def test_plans_of_another_network_than_the_setting_are_refused(planned):
    inverted = with_network(planned("tiny"), "inverted")
    for network in ("plain", "reversible"):
        with pytest.raises(ValueError, match=f"network must be 'inverted', as these plans ask for it, got '{network}'"):
            plan_training(ProXSettings(network=network), inverted)
    with pytest.raises(NotImplementedError, match="ResidualEncoderUNet. Use plans with a plain U-Net"):
        with_network(planned("tiny_residual"), "inverted")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "mobile"}, "network must be one of plain, inverted, reversible, got 'mobile'"),
        (
            {"network": "reversible", "width": [0.25, 1.0]},
            "width 0.25 of section 0 leaves 1 of its 4 planned channels, but reversible blocks need 2; .* least 0.375",
        ),
        (
            {"network": "inverted", "preset": "compofa"},
            "reorder must be false with network 'inverted', .*; that is how the presets progressive_shrinking, .* set",
        ),
    ],
)
def test_nothing_is_written_before_the_settings_fit(make_trainer, results, changes, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(**changes)
    assert not results.exists()


@pytest.fixture(scope="module", params=[("reversible", "tiny"), ("inverted", "tiny_2d")], ids=lambda p: p[0])
def trained(request, folders, small, tmp_path_factory) -> SimpleNamespace:
    """One complete training with validation."""
    network, configuration = request.param
    root = tmp_path_factory.mktemp(network)
    (root / "prox.yaml").write_text(yaml.safe_dump(small | SHORT | {"network": network}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROX_CONFIG", str(root / "prox.yaml"))
        patch.setenv("nnUNet_results", str(root / "results"))
        run_training(folders.id, configuration, 0, "ProXTrainer", device=torch.device("cpu"))
    folder = root / "results" / folders.dataset / f"ProXTrainer__nnUNetPlans__{configuration}"
    return SimpleNamespace(network=network, configuration=configuration, folder=folder, model=load_trained(folder))


def image(trained) -> torch.Tensor:
    return torch.randn(1, *trained.model.input_shape)


def predictor(folder: Path) -> nnUNetPredictor:
    made = nnUNetPredictor(
        use_mirroring=False, device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False
    )
    made.initialize_from_trained_model_folder(str(folder), (0,), "checkpoint_final.pth")
    made.network.load_state_dict(made.list_of_parameters[0])
    made.network.eval()
    return made


def test_its_plans_name_the_network(trained):
    plans = json.loads((trained.folder / "plans.json").read_text())
    architecture = plans["configurations"][trained.configuration]["architecture"]
    assert architecture["network_class_name"] == NETWORK_CLASS
    assert architecture["arch_kwargs"]["reversible"] == (trained.network == "reversible")
    content = read_checkpoint(trained.folder / "fold_0" / "checkpoint_final.pth")
    assert content["init_args"]["plans"] == plans
    assert content["prox"]["architecture"]["name"] == "planned_inverted_unet"


def test_it_is_validated_and_read_for_prediction(trained):
    for folder in ("validation", "subnet_smallest/validation"):
        assert (trained.folder / "fold_0" / folder / "summary.json").is_file()
    assert isinstance(trained.model.supernet.architecture, PlannedInvertedUNetArchitecture)
    assert trained.model.multiply_adds().middle() in trained.model.space


def test_prediction_builds_it_from_the_folder_alone(trained, monkeypatch):
    monkeypatch.delenv("PROX_CONFIG", raising=False)
    network, x = predictor(trained.folder).network, image(trained)
    with torch.no_grad():
        assert torch.equal(network(x), trained.model.supernet(x))


@pytest.mark.parametrize("name", ["smallest", "largest"])
def test_an_exported_folder_gives_the_supernets_logits(trained, tmp_path, name):
    config = getattr(trained.model.space, name)()
    folder = export_stock([trained.model], config, tmp_path / "exported")
    stock, x = predictor(folder).network, image(trained)
    trained.model.supernet.activate(config)
    with torch.no_grad():
        assert torch.equal(stock(x), trained.model.supernet(x))
    assert type(stock).__name__ == "InvertedUNet"
    said = (folder / "README.md").read_text()
    assert 'pip install "prox-monai[nnunet]"' in said
    assert NETWORK_CLASS in said
    content = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=True)
    assert content["trainer_name"] == "nnUNetTrainer"


@pytest.mark.parametrize("trained", [("reversible", "tiny")], indirect=True)
def test_an_exported_folder_predicts_without_our_trainer(trained, folders, tmp_path, monkeypatch):
    for name in ("nnUNet_extTrainer", "nnUNet_results", "nnUNet_preprocessed", "nnUNet_raw"):
        monkeypatch.delenv(name, raising=False)
    folder = export_stock([trained.model], trained.model.space.largest(), tmp_path / "exported")
    case = min((folders.raw / folders.dataset / "imagesTr").iterdir())
    (tmp_path / "images").mkdir()
    shutil.copy(case, tmp_path / "images" / case.name)
    command = [Path(sys.executable).with_name("nnUNetv2_predict_from_modelfolder"), "-m", folder, "-f", 0]
    options = ["-i", tmp_path / "images", "-o", tmp_path / "out", "-device", "cpu", "--disable_tta"]
    more = ["--save_probabilities", "-npp", 1, "-nps", 1]
    ended = subprocess.run([str(part) for part in (*command, *options, *more)], capture_output=True, text=True)
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-3000:]
    predicted = np.load(next((tmp_path / "out").glob("*.npz")))["probabilities"]
    predictor(folder).predict_from_files_sequential([[str(case)]], [str(tmp_path / "again")], save_probabilities=True)
    assert np.allclose(predicted, np.load(tmp_path / "again.npz")["probabilities"], rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("default")  # the exporters' own
@pytest.mark.parametrize(("format", "package"), [("onnx", "onnxscript"), ("openvino", "openvino")])
def test_the_command_exports_a_subnet(trained, tmp_path, capsys, format, package):
    """With the same logits; the command says so, and refuses what differs."""
    pytest.importorskip(package, reason='needs pip install "prox-monai[export]"')
    output = tmp_path / "exported"
    arguments = ["export", format, str(trained.folder), "--subnet", "smallest", "--output", str(output)]
    assert main(arguments, export_commands.COMMANDS) == 0
    assert "logits     differ by" in capsys.readouterr().out
    _, runtime = load_exported(output)
    x = image(trained)
    with torch.no_grad():
        expected = trained.model.supernet.extract(trained.model.space.smallest()).eval()(x)
        torch.testing.assert_close(runtime(x), expected, atol=1e-4 * max(1, float(expected.abs().max())), rtol=0)


@pytest.fixture
def copy_of(trained, results, folders) -> Path:
    """A copy of the trained fold in the test's own results folder."""
    shutil.copytree(trained.folder, results / folders.dataset / trained.folder.name)
    return results / folders.dataset / trained.folder.name / "fold_0"


def test_validation_alone_finds_its_network_in_the_checkpoint(trained, copy_of, folders, monkeypatch):
    """Without settings: those of the checkpoint hold."""
    monkeypatch.delenv("PROX_CONFIG", raising=False)
    summary = copy_of / "validation" / "summary.json"
    before = json.loads(summary.read_text())["foreground_mean"]
    summary.unlink()
    options = {"only_run_validation": True, "device": torch.device("cpu")}
    run_training(folders.id, trained.configuration, 0, "ProXTrainer", **options)
    assert json.loads(summary.read_text())["foreground_mean"] == pytest.approx(before, nan_ok=True)


def test_another_network_is_not_resumed_nor_put_beside(trained, copy_of, make_trainer):
    trainer = make_trainer(trained.configuration, **SHORT, network="plain")
    with pytest.raises(ValueError, match=rf"network \({trained.network} instead of plain\)"):
        maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
    shutil.rmtree(copy_of)
    message = f"holds folds of network '{trained.network}', which could not be predicted with beside one of 'plain'"
    with pytest.raises(FileExistsError, match=message):
        trainer.on_train_start()


def test_a_checkpoint_of_another_family_is_no_checkpoint_of_this_network(trained, planned):
    content = read_checkpoint(trained.folder / "fold_0" / "checkpoint_final.pth")
    plain = architecture_of(planned(trained.configuration), 1, 3, True)
    with pytest.raises(ValueError, match="family planned_inverted_unet instead of plain_conv_unet"):
        check_network(content, "file", plain)
    wider = dataclasses.replace(trained.model.supernet.architecture, channels=(8, 8, 8))
    with pytest.raises(ValueError, match=r"channels \[?\(?4, 8, 8\]?\)? instead of \[?\(?8, 8, 8"):
        check_network(content, "file", wider)


def test_pretrained_weights_fill_all_but_the_heads(trained, make_trainer):
    trainer = make_trainer(trained.configuration, **SHORT, network=trained.network, seed=1)
    final = trained.folder / "fold_0" / "checkpoint_final.pth"
    maybe_load_checkpoint(trainer, False, False, str(final))
    ours, theirs = trainer.supernet.state_dict(), read_safely(final)["network_weights"]
    same = {name: torch.equal(ours[name], tensor) for name, tensor in theirs.items()}
    assert all(equal for name, equal in same.items() if "/head/" not in name)
    assert not all(equal for name, equal in same.items() if "/head/" in name)


def test_it_is_extended(trained, folders, tmp_path, monkeypatch):
    """Old subnets give the same output, and the training goes on from ordinary plans."""
    final = trained.folder / "fold_0" / "checkpoint_final.pth"
    path, schedule = extend(final, {Dimension.KERNEL: (5,)}, 1, tmp_path / "extended")
    grown, x = load_trained(path.parents[1], checkpoint=path.name), image(trained)
    config = trained.model.space.largest()
    grown.supernet.activate(config)
    trained.model.supernet.activate(config)
    with torch.no_grad():
        assert torch.equal(grown.supernet(x), trained.model.supernet(x))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "extended"))
    monkeypatch.delenv("PROX_CONFIG", raising=False)
    options = {"continue_training": True, "device": torch.device("cpu")}
    run_training(folders.id, trained.configuration, 0, "ProXTrainer", **options)
    content = read_checkpoint(path.with_name("checkpoint_final.pth"))
    assert content["current_epoch"] == schedule.total_epochs == 4


def test_a_subclass_may_set_it():
    class Mine(ProXTrainer):
        network = "reversible"

    assert Mine.settings.network == "reversible"


def test_a_killed_training_goes_on_as_if_it_had_not_been(run_chains):
    """Gradients of what is computed again are functions of weights and batch, so training repeats bit for bit."""
    killed = [{"name": "killed", "dies": [2, 1], "continued": False}, {"name": "killed", "continued": True}]
    fields = SHORT | {"epochs": [1, 1, 1], "network": "reversible", "depth": [1, 2]}
    runs = run_chains([[{"name": "undisturbed"}], killed], **fields)
    straight = {tuple(row["place"]): row for row in runs.record("undisturbed")}
    assert {tuple(row["place"]) for row in runs.record("killed")} == straight.keys()
    assert all(row == straight[tuple(row["place"])] for row in runs.record("killed"))
    assert len({row["weights"] for row in straight.values()}) == len(straight)
