"""``-pretrained_weights``, through the function that nnU-Net's command line calls."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

from prox_monai.training.checkpoint import read_safely


def load(trainer, path) -> None:
    maybe_load_checkpoint(trainer, False, False, str(path))


def test_a_checkpoint_of_the_same_space_fills_all_but_the_heads(finished, make_trainer):
    trainer = make_trainer(seed=1)
    load(trainer, finished / "checkpoint_final.pth")
    ours = trainer.supernet.state_dict()
    theirs = read_safely(finished / "checkpoint_final.pth")["network_weights"]
    same = {name: torch.equal(ours[name], tensor) for name, tensor in theirs.items()}
    assert all(equal for name, equal in same.items() if "/seg_layers/" not in name)
    assert not all(equal for name, equal in same.items() if "/seg_layers/" in name)


def test_the_active_subnet_of_the_file_is_not_taken(finished, make_trainer):
    trainer = make_trainer()
    load(trainer, finished / "checkpoint_smallest.pth")
    assert trainer.supernet.active == trainer.supernet.space.largest()


def test_a_stock_network_lands_in_the_corner_that_it_fills(stock, make_trainer):
    """The supernet at the planned configuration is the stock network, but for the heads."""
    trainer = make_trainer()
    load(trainer, stock)
    supernet = trainer.supernet
    planned = dataclasses.replace(supernet.architecture.planned(), resolution=1.0)
    network = supernet.extract(planned)
    theirs = torch.load(stock, weights_only=False)["network_weights"]
    heads = {name: tensor for name, tensor in theirs.items() if ".seg_layers." in name}
    assert heads
    assert any(not torch.equal(network.state_dict()[name], tensor) for name, tensor in heads.items())
    network.load_state_dict(network.state_dict() | heads)
    supernet.absorb(planned, network)
    supernet.activate(planned)
    stock_network = supernet.architecture.build(planned)
    stock_network.load_state_dict(theirs)
    x = torch.randn(1, 1, 16, 24, 16)
    with torch.no_grad():
        pairs = zip(supernet(x), stock_network(x), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_training_goes_on_from_it(stock, make_trainer):
    trainer = make_trainer(validate=["largest"])
    load(trainer, stock)
    trainer.run_training()
    assert Path(trainer.output_folder, "checkpoint_final.pth").is_file()


def test_the_corner_stays_what_it_was_where_a_wider_space_is_pretrained(stock, make_trainer):
    """Where the space goes beyond the planned network, the rest keeps its initialisation."""
    trainer = make_trainer(width=[0.5, 1.0, 1.5], epochs=6)
    before = {name: tensor.clone() for name, tensor in trainer_weights(trainer).items()}
    load(trainer, stock)
    after = trainer_weights(trainer)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert 0 < len(changed) < len(before)


def trainer_weights(trainer) -> dict[str, torch.Tensor]:
    if not trainer.was_initialized:
        trainer.initialize()
    return {name: tensor for name, tensor in trainer.supernet.state_dict().items() if name != "_extra_state"}


def test_another_space_is_refused(finished, make_trainer):
    with pytest.raises(ValueError, match="was trained in the search space .*this training's is"):
        load(make_trainer(width=[0.25, 1.0]), finished / "checkpoint_final.pth")


def test_a_space_without_the_planned_network_is_refused(stock, make_trainer):
    with pytest.raises(ValueError, match="holds the planned network d2-w1-k3-r1, which is not a subnet here: kernel 3"):
        load(make_trainer(kernel=[5]), stock)


def test_another_network_is_refused(stock, make_trainer):
    with pytest.raises(ValueError, match="does not fit the planned network: .*encoder.* is .*, got"):
        load(make_trainer("tiny_2d"), stock)


def test_a_missing_file_is_named(make_trainer, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.pth"):
        load(make_trainer(), tmp_path / "absent.pth")


def test_a_file_that_is_no_checkpoint_is_refused(make_trainer, tmp_path):
    torch.save({"weights": 1}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="other.pth is not a checkpoint of nnU-Net: it holds no network_weights"):
        load(make_trainer(), tmp_path / "other.pth")


def test_stock_trainers_load_as_before(stock, make_trainer, results):
    make_trainer()
    trainer = get_trainer_from_args("7", "tiny", 0, "nnUNetTrainer", device=torch.device("cpu"))
    load(trainer, stock)
    theirs = torch.load(stock, weights_only=False)["network_weights"]
    assert torch.equal(
        trainer.network.state_dict()["encoder.stages.0.0.convs.0.conv.weight"],
        theirs["encoder.stages.0.0.convs.0.conv.weight"],
    )


def test_a_stock_checkpoint_of_numpy_1_is_read(stock, make_trainer, tmp_path):
    """Its scalars name their module as numpy 1 did."""
    path = tmp_path / "checkpoint_final.pth"
    with zipfile.ZipFile(stock) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                assert b"cnumpy._core.multiarray\nscalar\n" in content
                content = content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
            target.writestr(name, content)
    load(make_trainer(), path)


@pytest.mark.parametrize("source", ["stock", "finished"])
def test_opening_the_depth_keeps_what_was_pretrained(source, make_trainer, request):
    trainer = make_trainer()
    path = request.getfixturevalue(source)
    load(trainer, path if source == "stock" else path / "checkpoint_final.pth")
    planned = trainer.supernet.architecture.planned()
    before = trainer.supernet.extract(planned).state_dict()
    trainer.training.begin_epoch(0)
    trainer.training.begin_epoch(1)
    after = trainer.supernet.extract(planned).state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
