from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from prox_monai.data import write_synthetic_decathlon
from prox_monai.data.synthetic_classes import write_synthetic_classes
from prox_monai.plugin_files import copy_bundle

NETWORK = ("patch", "size", "architecture", "space")
BUNDLES = Path(__file__).parents[2] / "bundles"


@dataclass(frozen=True)
class Bundle:
    """A shipped bundle at a tiny size: its folder, and what of its configuration is overridden."""

    folder: Path
    override: Mapping[str, Any]

    @property
    def model(self) -> Path:
        return Path(self.override["ckpt_dir"], "model.pt")

    @property
    def network(self) -> dict[str, Any]:
        """What inference must be told of the tiny network."""
        return {key: value for key, value in self.override.items() if key.split("::")[0] in NETWORK}

    def files(self, *names: str) -> list[str]:
        """Paths of configurations."""
        return [str(self.folder / "configs" / name) for name in names]

    def but(self, **override: Any) -> Bundle:
        """The same bundle with more overridden."""
        return replace(self, override={**self.override, **override})

    def begin(self, kind: str, *names: str, **override: Any) -> Any:
        """Make a workflow as the model zoo's tests do, up to the check of its properties."""
        from monai.bundle import ConfigWorkflow

        with _logging_kept():
            workflow = ConfigWorkflow(
                workflow_type=kind,
                config_file=self.files(*names),
                logging_file=str(self.folder / "configs" / "logging.conf"),
                meta_file=str(self.folder / "configs" / "metadata.json"),
                **{**self.override, **override},
            )
        workflow.initialize()
        assert workflow.check_properties() == []
        return workflow

    def run(self, kind: str, *names: str, **override: Any) -> Any:
        """Run a workflow to its end."""
        workflow = self.begin(kind, *names, **override)
        workflow.run()
        workflow.finalize()
        return workflow

    def copied(self, folder: Path) -> Path:
        """The bundle as somebody has it who made its network small and trained it."""
        copy_bundle(self.folder.name, folder)
        path = folder / "configs" / "inference.json"
        content = json.loads(path.read_text())
        for key, value in self.network.items():
            first, *rest = key.split("::")
            (content[first].update({rest[0]: value}) if rest else content.update({first: value}))
        path.write_text(json.dumps(content))
        (folder / "models").symlink_to(self.override["ckpt_dir"])
        return folder


@contextmanager
def _logging_kept() -> Iterator[None]:
    """A bundle's `logging.conf` replaces the handlers of the whole process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@pytest.fixture
def refusal() -> Callable[[Callable[[], Any]], str]:
    """Text of the ValueError from which an error arose; a configuration wraps what is raised in it."""

    def refused(call: Callable[[], Any]) -> str:
        with pytest.raises((ValueError, RuntimeError)) as caught:
            call()
        error: BaseException = caught.value
        while error.__cause__ is not None:
            error = error.__cause__
        assert isinstance(error, ValueError), repr(error)
        return str(error)

    return refused


HIPPOCAMPUS_TINY = {
    "patch": [16, 16, 16],
    "architecture::channels": [4, 8],
    "architecture::strides": [[1, 1, 1], [2, 2, 2]],
    "space::sections": 3,
    "space::groups": "$unet_groups(2)",
    "space::width": [0.5, 1],
    "space::resolution": [0.5, 1],
}
"""Six phases; the same for training and inference."""


@pytest.fixture(scope="session")
def hippocampus_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Head and tail of synthetic bodies under the names that the bundle trains on."""
    folder = tmp_path_factory.mktemp("data") / "Task99_Synthetic"
    description = write_synthetic_decathlon(folder, cases=4, size=(18, 20, 16)) / "dataset.json"
    labels = {"0": "background", "1": "Anterior", "2": "Posterior"}
    description.write_text(json.dumps(json.loads(description.read_text()) | {"labels": labels}))
    return folder


@pytest.fixture
def hippocampus(hippocampus_data: Path, tmp_path: Path) -> Bundle:
    """Not trained yet, in a folder of its own."""
    return _hippocampus(hippocampus_data, tmp_path)


@pytest.fixture(scope="session")
def trained_hippocampus(hippocampus_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Trained through all phases and searched; tests do not write into its folder."""
    bundle = _hippocampus(hippocampus_data, tmp_path_factory.mktemp("trained"))
    bundle.run("train", "train.json")
    bundle.run("train", "train.json", "search.json", per_bucket=1, buckets=2)
    return bundle


def _hippocampus(data: Path, folder: Path) -> Bundle:
    root = BUNDLES / "hippocampus_mri_prox_segmentation"
    override = {
        **HIPPOCAMPUS_TINY,
        "bundle_root": str(root),
        "ckpt_dir": str(folder / "models"),
        "output_dir": str(folder / "eval"),
        "dataset_dir": str(data),
        "folds": 2,
        "epochs": 6,
        "iterations_per_epoch": 1,
        "val_interval": 3,
    }
    return Bundle(root, override)


BRATS_TINY = {
    "patch": [16, 16, 16],
    "architecture::channels": [4, 8],
    "architecture::strides": [[1, 1, 1], [2, 2, 2]],
    "space::sections": 3,
    "space::groups": "$unet_groups(2)",
    "space::width": [0.5, 1],
    "space::resolution": [0.5, 1],
}


def tumour(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Four channels and labels: a shell of edema around a core, half of which enhances."""
    grid = np.stack(np.meshgrid(*(np.arange(20.0),) * 3, indexing="ij"))
    radius = np.sqrt(((grid - rng.uniform(8, 12, size=(3, 1, 1, 1))) ** 2).sum(0))
    label = np.where(radius < 7, 1, 0)
    label[radius < 5] = 2
    label[(radius < 5) & (grid[0] > 10)] = 3
    image = rng.normal(10, 1, size=(20, 20, 20, 4)) + label[..., None] * np.array([4.0, -3.0, 5.0, 2.0])
    return image.astype(np.float32), label.astype(np.uint8)


@pytest.fixture(scope="session")
def tumours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tumours") / "Task98_Tumours"
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    training = []
    for case in range(2):
        image, label = tumour(np.random.default_rng(case))
        for name, volume in (("imagesTr", image), ("labelsTr", label)):
            nib.save(nib.Nifti1Image(volume, np.eye(4)), folder / name / f"case_{case}.nii.gz")
        training.append({"image": f"imagesTr/case_{case}.nii.gz", "label": f"labelsTr/case_{case}.nii.gz"})
    channels = {str(number): name for number, name in enumerate(("FLAIR", "T1w", "T1gd", "T2w"))}
    labels = {"0": "background", "1": "edema", "2": "non-enhancing tumour", "3": "enhancing tumour"}
    description = {"name": "Tumours", "modality": channels, "labels": labels, "training": training}
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


@pytest.fixture
def brats(tumours: Path, tmp_path: Path) -> Bundle:
    """Not trained yet, in a folder of its own."""
    return _brats(tumours, tmp_path)


@pytest.fixture(scope="session")
def trained_brats(tumours: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Trained through all phases; tests do not write into its folder."""
    bundle = _brats(tumours, tmp_path_factory.mktemp("trained"))
    bundle.run("train", "train.json")
    return bundle


def _brats(data: Path, folder: Path) -> Bundle:
    root = BUNDLES / "brats_mri_prox_segmentation"
    override = {
        **BRATS_TINY,
        "bundle_root": str(root),
        "ckpt_dir": str(folder / "models"),
        "output_dir": str(folder / "eval"),
        "dataset_dir": str(data),
        "fold": "all",
        "epochs": [1, 1, 1, 1, 6, 1],
        "iterations_per_epoch": 4,
        "val_interval": 11,
        "num_workers": 0,
        "cache_rate": 1.0,
    }
    return Bundle(root, override)


RETINAL_TINY = {
    "size": [32, 32],
    "architecture::channels": [8, 8, 8, 8, 8],
    "architecture::strides": [2, 2, 1, 1, 1],
    "architecture::stem": 8,
    "architecture::first": 8,
    "architecture::head": 16,
    "space::depth": [1, 2],
    "space::width": [3, 4],
    "space::kernel": [3, 5],
    "space::resolution": [0.5, 1],
}
"""Six phases; the same for training and inference."""


@pytest.fixture(scope="session")
def retinal_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "oct"
    return write_synthetic_classes(folder, patients=6, images_per_patient=2, size=(40, 48))


@pytest.fixture
def retinal(retinal_data: Path, tmp_path: Path) -> Bundle:
    """Not trained yet, in a folder of its own."""
    return _retinal(retinal_data, tmp_path)


@pytest.fixture(scope="session")
def trained_retinal(retinal_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Trained through all phases; tests do not write into its folder."""
    bundle = _retinal(retinal_data, tmp_path_factory.mktemp("trained"))
    bundle.run("train", "train.json")
    return bundle


def _retinal(data: Path, folder: Path) -> Bundle:
    root = BUNDLES / "retinal_oct_prox_classification"
    override = {
        **RETINAL_TINY,
        "bundle_root": str(root),
        "ckpt_dir": str(folder / "models"),
        "output_dir": str(folder / "eval"),
        "dataset_dir": str(data),
        "device": "$torch.device('cpu')",
        "folds": 3,
        "epochs": 6,
        "iterations_per_epoch": 1,
        "batch_size": 4,
        "val_interval": 3,
        "resamples": 20,
    }
    return Bundle(root, override)
