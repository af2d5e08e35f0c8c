from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from prox_monai.data import write_synthetic_decathlon

BUNDLES = Path(__file__).parents[2] / "bundles"


@dataclass(frozen=True)
class Bundle:
    """A shipped bundle at a tiny size: its folder, and what of its configuration is overridden."""

    folder: Path
    override: Mapping[str, Any]

    @property
    def model(self) -> Path:
        return Path(self.override["ckpt_dir"], "model.pt")

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
    return write_synthetic_decathlon(tmp_path_factory.mktemp("data") / "Task99_Synthetic", cases=4, size=(18, 20, 16))


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


@pytest.fixture(scope="session")
def bundle_of() -> Callable[[str, Mapping[str, Any]], Bundle]:
    """Makes the tiny version of any shipped bundle."""

    def make(name: str, override: Mapping[str, Any]) -> Bundle:
        return Bundle(BUNDLES / name, {"bundle_root": str(BUNDLES / name), **override})

    return make
