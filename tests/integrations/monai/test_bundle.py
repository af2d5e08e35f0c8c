"""What a bundle refuses before long work starts."""

from __future__ import annotations

import re
from importlib.util import find_spec

import pytest
import torch

if find_spec("monai") is None or find_spec("ignite") is None:
    pytest.skip('needs MONAI and ignite: pip install "prox-monai[monai]"', allow_module_level=True)

from prox_monai.integrations.monai.bundle import (
    check_bundle_root,
    check_trained,
    check_unfinished,
    images_of,
    latest_checkpoint,
)

UNFINISHED = "training/checkpoint_epoch=2.pt"


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(name, folder / name)


def test_the_bundles_folder_is_one(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text('{"name": "One"}')
    check_bundle_root(tmp_path)
    check_bundle_root(tmp_path, "One")
    with pytest.raises(ValueError, match=r"the folder of the bundle 'Other', got .*, which is that of 'One'; run in"):
        check_bundle_root(tmp_path, "Other")
    monkeypatch.chdir(tmp_path)
    check_bundle_root(".")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    message = rf"bundle_root must be the folder of the bundle, .* got '\.' in {re.escape(str(tmp_path))}/elsewhere; run"
    with pytest.raises(ValueError, match=message):
        check_bundle_root(".")


def test_a_fresh_training_begins(tmp_path):
    check_unfinished(tmp_path / "models", resume=False, overwrite=False)
    check_unfinished(tmp_path, resume=False, overwrite=False)
    write(tmp_path, "subnets.jsonl")
    (tmp_path / "training").mkdir()  # a saver makes it before there is anything in it
    check_unfinished(tmp_path, resume=False, overwrite=False)


@pytest.mark.parametrize(
    ("there", "named"),
    [
        ([UNFINISHED], r"\(checkpoint_epoch=2\.pt\)"),
        (["model.pt"], r"\(model\.pt\)"),
        ([UNFINISHED, "model.pt"], r"\(checkpoint_epoch=2\.pt, model\.pt\)"),
    ],
)
def test_a_training_is_not_overwritten_unasked(tmp_path, there, named):
    write(tmp_path, *there)
    message = rf"{re.escape(str(tmp_path))} holds a training already {named}: go on with --resume true, begin anew with"
    with pytest.raises(ValueError, match=message):
        check_unfinished(tmp_path, resume=False, overwrite=False)
    assert all((tmp_path / name).exists() for name in there)


def test_a_training_goes_on_when_asked(tmp_path):
    write(tmp_path, UNFINISHED, "model.pt")
    check_unfinished(tmp_path, resume=True, overwrite=False)
    assert (tmp_path / UNFINISHED).exists()


def test_a_training_is_overwritten_when_asked(tmp_path):
    write(tmp_path, UNFINISHED, "model.pt")
    check_unfinished(tmp_path, resume=False, overwrite=True)
    assert not (tmp_path / "training").exists()
    assert not (tmp_path / "model.pt").exists()  # else it would pass for that of a new training that is broken off
    check_unfinished(tmp_path / "none", resume=False, overwrite=True)


def test_there_must_be_something_to_go_on_with(tmp_path):
    write(tmp_path, "model.pt")
    folder = re.escape(str(tmp_path))
    message = rf"there is no training to resume in {folder}/training: it holds no complete checkpoint_epoch=<n>"
    with pytest.raises(ValueError, match=message):
        check_unfinished(tmp_path, resume=True, overwrite=False)


def test_resume_and_overwrite_exclude_each_other(tmp_path):
    write(tmp_path, UNFINISHED)
    with pytest.raises(ValueError, match="resume and overwrite were both given; give one"):
        check_unfinished(tmp_path, resume=True, overwrite=True)
    assert (tmp_path / UNFINISHED).exists()


def test_later_runs_must_agree_with_the_training(tmp_path):
    about = {"fold": 0, "patch": [8, 8], "architecture": "UNet(3)"}
    check_unfinished(tmp_path, resume=False, overwrite=False, about=about)
    write(tmp_path, UNFINISHED, "model.pt")
    check_trained(tmp_path, {"patch": (8, 8)})
    check_unfinished(tmp_path, resume=True, overwrite=False, about=about)
    for checked in (
        lambda other: check_trained(tmp_path, other),
        lambda other: check_unfinished(tmp_path, resume=True, overwrite=False, about=other),
    ):
        with pytest.raises(ValueError, match=r"fold is 1, but the model in .* was trained with 0: give the options"):
            checked(about | {"fold": 1})
    (tmp_path / "about.json").unlink()  # a model that came alone
    check_trained(tmp_path, about | {"fold": 1})


def test_the_latest_checkpoint_is_that_of_the_latest_epoch(tmp_path, caplog):
    for name in ("checkpoint_epoch=9", "checkpoint_epoch=10", "checkpoint_epoch=2", "model", "other=11"):
        torch.save({}, tmp_path / f"{name}.pt")
    assert latest_checkpoint(tmp_path) == str(tmp_path / "checkpoint_epoch=10.pt")
    (tmp_path / "checkpoint_epoch=11.pt").write_bytes((tmp_path / "model.pt").read_bytes()[:50])  # killed
    assert latest_checkpoint(tmp_path) == str(tmp_path / "checkpoint_epoch=10.pt")
    assert "checkpoint_epoch=11.pt was not written to its end" in caplog.text


def test_without_a_model_nothing_is_evaluated(tmp_path):
    with pytest.raises(ValueError, match=r"model\.pt does not exist; train first, or give --ckpt_dir"):
        check_trained(tmp_path)
    write(tmp_path, "model.pt")
    check_trained(tmp_path)


def test_images_are_those_of_the_folder_or_of_the_test_cases_or_of_the_training_cases(tmp_path):
    with pytest.raises(
        ValueError, match=rf"dataset_dir {re.escape(str(tmp_path))} holds no NIfTI file, nor do imagesTs"
    ):
        images_of(tmp_path)
    for names in (["imagesTr/a.nii.gz"], ["imagesTs/b.nii"], ["d.nii.gz", "c.nii"]):
        write(tmp_path, *names, "._c.nii", "imagesTs/._b.nii.gz", "notes.txt", "e.nii.txt")
        assert images_of(tmp_path) == sorted(str(tmp_path / name) for name in names)
