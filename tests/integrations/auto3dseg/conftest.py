"""Tiny synthetic data sets as Auto3DSeg takes them, and one pipeline on them, from analysis to predictions."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

if any(find_spec(name) is None for name in ("monai", "ignite", "fire", "yaml")):
    collect_ignore_glob = ["test_*.py"]

TINY: dict[str, Any] = {
    "prox_channels": 4,
    "prox_depth": [1, 2],
    "prox_width": [0.5, 1.0],
    "prox_kernel": [3],
    "prox_resolution": [1.0],
    "prox_iterations_per_epoch": 3,
    "num_epochs": 4,
    "num_epochs_per_validation": 2,
}


@dataclass(frozen=True)
class Cases:
    """A data set: its folder in the Decathlon layout, with a datalist for Auto3DSeg."""

    folder: Path
    datalist: Path
    modality: str

    @property
    def source(self) -> dict[str, str]:
        """The input of an AutoRunner."""
        return {"modality": self.modality, "datalist": str(self.datalist), "dataroot": str(self.folder)}

    def change(self, path: Path, change: Callable[[dict[str, Any]], Any]) -> Cases:
        """The same with another datalist."""
        content = json.loads(self.datalist.read_text())
        change(content)
        path.write_text(json.dumps(content))
        return Cases(self.folder, path, self.modality)


def make_cases(
    folder: Path,
    *,
    cases: int = 6,
    size: Sequence[int] = (20, 24, 16),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    channels: int = 1,
    classes: int = 2,
    modality: str = "mri",
    folds: int = 2,
) -> Cases:
    """Write volumes in which each class is a slab of its own grey; the last case is for testing."""
    import nibabel as nib

    rng = np.random.default_rng(0)
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    entries = []
    for number in range(cases):
        shape = tuple(n + int(rng.integers(0, 3)) for n in size)
        label = np.zeros(shape, np.uint8)
        inside = label[3:-3, 3:-3, 1:-1]
        for slab, part in enumerate(np.array_split(np.arange(inside.shape[1]), classes), 1):
            inside[:, part] = slab
        grey = np.stack([label * 100.0 * (channel + 1) + rng.normal(0, 20, shape) for channel in range(channels)], -1)
        affine = np.diag([*spacing, 1.0])
        files = {"image": f"imagesTr/case_{number}.nii.gz", "label": f"labelsTr/case_{number}.nii.gz"}
        image = grey if channels > 1 else grey[..., 0]
        nib.save(nib.Nifti1Image(image.astype(np.float32), affine), folder / files["image"])
        nib.save(nib.Nifti1Image(label, affine), folder / files["label"])
        entries.append(files)
    training = [{**entry, "fold": number % folds} for number, entry in enumerate(entries[:-1])]
    datalist = folder / "datalist.json"
    datalist.write_text(json.dumps({"training": training, "testing": [{"image": entries[-1]["image"]}]}))
    description = {
        "name": folder.name,
        "tensorImageSize": "4D" if channels > 1 else "3D",
        "modality": {str(channel): modality for channel in range(channels)},
        "labels": {"0": "background", **{str(label): f"class {label}" for label in range(1, classes + 1)}},
        "numTraining": cases,
        "numTest": 0,
        "training": [{key: f"./{file}" for key, file in entry.items()} for entry in entries],
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return Cases(folder, datalist, modality)


@pytest.fixture(scope="session")
def write_cases() -> Callable[..., Cases]:
    """Writes a data set."""
    return make_cases


@pytest.fixture(scope="session")
def tiny() -> dict[str, Any]:
    """Settings of trainings that take seconds."""
    return TINY


@pytest.fixture(scope="session")
def cases(tmp_path_factory) -> Cases:
    """One modality, 1 mm, two classes."""
    return make_cases(tmp_path_factory.mktemp("cases") / "isotropic")


def analyze_cases(cases: Cases, path: Path) -> Path:
    from monai.apps.auto3dseg import DataAnalyzer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        analyzer = DataAnalyzer(str(cases.datalist), str(cases.folder), str(path), device="cpu", worker=0)
        analyzer.get_all_case_stats()
    return path


@pytest.fixture(scope="session")
def analyze() -> Callable[..., Path]:
    """Writes the statistics of a data set."""
    return analyze_cases


@pytest.fixture(scope="session")
def stats(cases, tmp_path_factory) -> Path:
    """The statistics of the data set."""
    return analyze_cases(cases, tmp_path_factory.mktemp("stats") / "datastats.yaml")


@pytest.fixture(scope="session")
def generate_algos() -> Callable[..., list[Any]]:
    """Generates the algorithms of a data set with BundleGen."""
    from monai.apps.auto3dseg import BundleGen
    from monai.bundle import ConfigParser

    from prox_monai.integrations.auto3dseg import algos

    def generate(work: Path, cases: Cases, stats: Path, *, num_fold: int = 1, source=None, **settings: Any):
        work.mkdir(parents=True, exist_ok=True)
        path = work / "input.yaml"
        ConfigParser.export_config_file(cases.source | (source or {}), str(path), fmt="yaml")
        generator = BundleGen(str(work), algos(**{**TINY, **settings}), None, str(stats), str(path))
        generator.generate(str(work), num_fold=num_fold)
        return [entry["algo_instance"] for entry in generator.get_history()]

    return generate


@pytest.fixture
def generate(generate_algos, cases, stats, tmp_path) -> Callable[..., Any]:
    """Generates one algorithm of the data set in the test's own folder."""

    def one(**settings: Any) -> Any:
        (algo,) = generate_algos(tmp_path / "work", cases, stats, **settings)
        return algo

    return one


@pytest.fixture(scope="session")
def pipeline(cases, tmp_path_factory) -> SimpleNamespace:
    """AutoRunner with prox alone, two folds, from a relative path with spaces; there is no ``python`` on the PATH."""
    from monai.apps.auto3dseg import AutoRunner

    from prox_monai.integrations.auto3dseg import algos

    root = tmp_path_factory.mktemp("runs")
    (root / "empty").mkdir()
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.chdir(root)
        patch.setenv("PATH", str(root / "empty"))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(before), os.environ.get("PYTHONPATH", "")]))
        runner = AutoRunner("work dir", cases.source, algos(**TINY))
        runner.set_analyze_params({"device": "cpu", "do_ccp": False, "worker": 0})
        runner.set_training_params({"learning_rate": 0.01, "prox_width": [0.5, 1.0]})
        runner.run()
    return SimpleNamespace(work=root / "work dir", cases=cases)


@pytest.fixture
def copied(pipeline, tmp_path) -> Iterator[Path]:
    """The finished work directory moved elsewhere: a copy, while the original cannot be found."""
    shutil.copytree(pipeline.work, tmp_path / "moved")
    hidden = pipeline.work.rename(pipeline.work.with_name("hidden"))
    yield tmp_path / "moved"
    hidden.rename(pipeline.work)


@pytest.fixture
def quiet_monai() -> Any:
    """What MONAI's own code warns of while it runs a pipeline."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
