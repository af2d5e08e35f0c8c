from __future__ import annotations

import errno
import importlib
from dataclasses import dataclass, replace

import pytest
import torch

from prox_monai.elastic import Supernet
from prox_monai.networks import UNetArchitecture
from prox_monai.space import PhaseSchedule, SearchSpace, unet_groups
from prox_monai.training import Distillation, ProgressiveTraining, load_checkpoint, save_checkpoint
from prox_monai.training.checkpoint import FORMAT, VERSION, register_architecture

checkpoint_module = importlib.import_module("prox_monai.training.checkpoint")

ARCHITECTURE = UNetArchitecture(2, 1, 2, (4, 8), ((1, 1), (2, 2)), norm="batch")
SPACE = SearchSpace(3, (1, 2), (0.5, 1), (3, 5), (0.5, 1), unet_groups(2))


@pytest.fixture
def supernet():
    return Supernet(ARCHITECTURE, SPACE)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "supernet.pth"


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(checkpoint_module, "_ARCHITECTURES", dict(checkpoint_module._ARCHITECTURES))


def equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def rewrite(path, **changes):
    content = torch.load(path, weights_only=True)
    torch.save(content | changes, path)


def test_round_trip(path, supernet):
    supernet.activate(SPACE.smallest())
    save_checkpoint(path, supernet)
    loaded = load_checkpoint(path, expected=ARCHITECTURE)
    assert (loaded.supernet.architecture, loaded.supernet.space) == (ARCHITECTURE, SPACE)
    assert loaded.supernet.active == SPACE.smallest()
    assert equal(supernet.state_dict(), loaded.supernet.state_dict())
    assert (loaded.schedule, loaded.training) == (None, None)


def test_round_trip_of_a_training(path, supernet):
    taught = {"seed": 3, "distillation": Distillation(0.5)}
    training = ProgressiveTraining(supernet, PhaseSchedule.prox(SPACE, 5), **taught)
    training.begin_epoch(1)
    save_checkpoint(path, supernet, training)
    loaded = load_checkpoint(path)
    assert loaded.schedule == training.schedule
    resumed = ProgressiveTraining(loaded.supernet, loaded.schedule, **taught)
    resumed.load_state_dict(loaded.training)
    assert resumed.epoch == 1
    assert resumed.teacher.config == training.teacher.config
    assert equal(resumed.teacher.network.state_dict(), training.teacher.network.state_dict())


def test_a_file_holds_tensors_and_primitives_and_says_what_it_is(path, supernet):
    save_checkpoint(path, supernet)
    content = torch.load(path, weights_only=True)
    assert (content["format"], content["version"]) == (FORMAT, VERSION)
    assert content["architecture"]["name"] == "unet"
    assert content["space"] == SPACE.to_dict()


def test_another_architecture_is_refused(path, supernet):
    save_checkpoint(path, supernet)
    with pytest.raises(ValueError, match=r"holds a checkpoint of UNetArchitecture\(.*\(4, 8\).*, expected .*\(8, 8\)"):
        load_checkpoint(path, expected=replace(ARCHITECTURE, channels=(8, 8)))


def test_a_newer_version_is_refused_and_both_are_named(path, supernet):
    save_checkpoint(path, supernet)
    rewrite(path, version=VERSION + 1)
    with pytest.raises(ValueError, match=rf"has format version {VERSION + 1}, .* up to {VERSION}; update prox_monai"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [{"format": "nnunet"}, {}, [1, 2], {"network_weights": {}}])
def test_another_format_is_refused(path, content):
    torch.save(content, path)
    with pytest.raises(ValueError, match=rf"supernet.pth is not a supernet's checkpoint \({FORMAT}\)"):
        load_checkpoint(path)


@pytest.mark.parametrize("part", [0, 1, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_refused(path, supernet, part):
    save_checkpoint(path, supernet)
    content = path.read_bytes()
    path.write_bytes(content[: part if isinstance(part, int) else int(part * len(content))])
    with pytest.raises(ValueError, match=r"supernet.pth is truncated or not a checkpoint"):
        load_checkpoint(path)


class Intruder:
    """Would write a file if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickled_object_is_refused_and_not_run(path, supernet, tmp_path, zipped):
    save_checkpoint(path, supernet)
    content = torch.load(path, weights_only=True) | {"training": Intruder(tmp_path / "run")}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"holds pickled objects, which could run code" if zipped else "checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "run").exists()


def test_a_missing_file(path):
    with pytest.raises(FileNotFoundError, match=r"supernet.pth"):
        load_checkpoint(path)


def test_a_full_disk_leaves_the_old_file(path, supernet, monkeypatch):
    save_checkpoint(path, supernet)
    before = path.read_bytes()

    def half(content, file):
        file.write(before[: len(before) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match=r"supernet.pth could not be written: .*No space left.*is as it was") as caught:
        save_checkpoint(path, supernet)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["supernet.pth"]


def test_a_full_disk_leaves_no_part_of_a_first_file(path, supernet, monkeypatch):
    def fail(content, file):
        file.write(b"part")
        raise RuntimeError("[enforce fail at inline_container.cc] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match=r"could not be written: .*unexpected pos 64 vs 0\.$"):
        save_checkpoint(path, supernet)
    assert list(path.parent.iterdir()) == []


def test_a_checkpoint_is_as_readable_as_any_other_file(path, supernet):
    save_checkpoint(path, supernet)
    other = path.with_name("other")
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


@dataclass(frozen=True)
class Unknown(UNetArchitecture):
    """An architecture of another package."""


def unknown():
    return Unknown(2, 1, 2, (4, 8), ((1, 1), (2, 2)))


@pytest.mark.usefixtures("registry")
def test_an_unregistered_architecture_is_refused_before_anything_is_written(path):
    with pytest.raises(ValueError, match=r"architecture .*:Unknown is not registered; call register_architecture"):
        save_checkpoint(path, Supernet(unknown(), SPACE))
    assert not path.exists()


@pytest.mark.usefixtures("registry")
def test_an_architecture_of_another_package_can_be_registered(path):
    register_architecture("unknown", f"{Unknown.__module__}:{Unknown.__qualname__}")
    save_checkpoint(path, Supernet(unknown(), SPACE))
    assert load_checkpoint(path).supernet.architecture == unknown()


@pytest.mark.usefixtures("registry")
def test_a_registered_name_is_not_given_away():
    with pytest.raises(ValueError, match=r"architecture 'unet' is prox_monai.networks.unet:UNetArchitecture already"):
        register_architecture("unet", "elsewhere:UNet")


def test_an_unknown_architecture_in_a_file_is_refused(path, supernet):
    save_checkpoint(path, supernet)
    rewrite(path, architecture={"name": "vnet", "fields": {}})
    with pytest.raises(ValueError, match=r"architecture must be one of \[.*'unet'.*\], got 'vnet'"):
        load_checkpoint(path)
