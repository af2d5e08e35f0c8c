"""The folder of an algorithm, wherever it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from prox_monai.integrations.auto3dseg.folder import AlgoFolder, write_config


@pytest.fixture
def root(generate) -> Path:
    return Path(generate().output_path)


def test_it_is_where_its_file_is_not_where_it_was_made(root, tmp_path):
    shutil.copytree(root, tmp_path / "there")
    folder = AlgoFolder.at(tmp_path / "there")
    assert folder.root == tmp_path / "there"
    assert folder.model == tmp_path / "there" / "model"


def test_relative(root, monkeypatch):
    monkeypatch.chdir(root.parent)
    assert AlgoFolder.at("prox_0").root == root
    assert AlgoFolder.of("prox_0/configs/hyper_parameters.yaml").root == root


@pytest.mark.parametrize("form", [str, lambda p: [str(p)], lambda p: f"{p},{p.with_name('other.json')}", lambda p: p])
def test_the_forms_in_which_hosts_name_configuration_files(form, root):
    config = root / "configs" / "hyper_parameters.yaml"
    (config.with_name("other.json")).write_text("{}")
    assert AlgoFolder.of(form(config)).root == root


def test_other_files_in_the_folder_are_left_alone(root):
    (root / "configs" / ".hyper_parameters.yaml.swp").write_text("?")
    files = [str(path) for path in (root / "configs").iterdir()]
    assert AlgoFolder.of(files).root == root


@pytest.mark.parametrize("given", [None, [], "nothing.yaml", ["a.yaml", "b.json"]])
def test_without_the_file_it_is_refused(given):
    with pytest.raises(ValueError, match="config_file must name the algorithm's configs/hyper_parameters.yaml, got"):
        AlgoFolder.of(given)


def test_a_folder_without_it_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no generated algorithm: it holds no configs"):
        AlgoFolder.at(tmp_path)


def test_a_datalist_that_moved_with_the_work_directory(root, cases, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(root.parent, moved)
    shutil.copy(cases.datalist, moved / "datalist.json")
    folder = AlgoFolder.at(moved / "prox_0")
    config = {**folder.config(), "data_list_file_path": "/gone/datalist.json"}
    write_config(folder.root / "configs" / "hyper_parameters.yaml", config)
    assert folder.parameters().data_list_file_path == str(moved / "datalist.json")


def test_what_is_not_trained_says_so(root):
    with pytest.raises(FileNotFoundError, match="is not trained: there is no .*model.pt"):
        AlgoFolder.at(root).trained_parameters()


def test_a_model_folder_of_the_users_choice(root, tmp_path):
    config = AlgoFolder.at(root).config()
    write_config(root / "configs" / "hyper_parameters.yaml", {"ckpt_path": str(tmp_path / "disk"), **config})
    assert AlgoFolder.at(root).model == tmp_path / "disk"
    assert not AlgoFolder.at(root).is_member
