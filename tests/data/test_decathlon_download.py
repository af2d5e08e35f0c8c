from __future__ import annotations

import sys
from pathlib import Path

import pytest

from prox_monai.data import download_decathlon


@pytest.fixture
def apps():
    return pytest.importorskip("monai.apps", reason='needs pip install "prox-monai[monai]"')


def test_download_extracts_the_verified_archive(apps, monkeypatch, tmp_path):
    calls = []

    def fetch(url, filepath, output_dir, **kwargs):
        calls.append((url, Path(filepath), kwargs))
        (Path(output_dir) / "Task04_Hippocampus").mkdir()
        (Path(output_dir) / "Task04_Hippocampus" / "dataset.json").write_text("{}")

    monkeypatch.setattr(apps, "download_and_extract", fetch)
    root = tmp_path / "new"
    folder = download_decathlon("Task04_Hippocampus", root)
    assert folder == root / "Task04_Hippocampus"
    assert (folder / "dataset.json").is_file()
    (url, filepath, kwargs), resource = calls[0], apps.DecathlonDataset
    assert (url, filepath) == (resource.resource[folder.name], root / "Task04_Hippocampus.tar")
    assert kwargs == {"hash_val": resource.md5[folder.name], "hash_type": "md5"}
    assert download_decathlon("Task04_Hippocampus", root) == folder
    assert len(calls) == 1


def test_download_without_a_network(apps, monkeypatch, tmp_path):
    def fetch(*args, **kwargs):
        raise Exception("Error processing URL: unreachable")

    monkeypatch.setattr(apps, "download_and_extract", fetch)
    with pytest.raises(RuntimeError, match=r"Task04_Hippocampus could not be downloaded from https://.*unreachable"):
        download_decathlon("Task04_Hippocampus", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_download_of_an_unknown_task(apps, tmp_path):
    with pytest.raises(ValueError, match="task must be one of Task01_BrainTumour, .*, not Task04"):
        download_decathlon("Task04", tmp_path)


def test_download_without_monai_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "monai.apps", None)
    with pytest.raises(ImportError, match=r'pip install "prox-monai\[monai\]"'):
        download_decathlon("Task04_Hippocampus", tmp_path)
