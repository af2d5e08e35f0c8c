from __future__ import annotations

import os
from pathlib import Path

import pytest

from prox_monai.data import write_synthetic_decathlon


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three small synthetic cases in the Decathlon layout."""
    return write_synthetic_decathlon(tmp_path / "Task99_Synthetic", cases=3, size=(12, 16, 12))


@pytest.fixture
def real_data() -> Path:
    """The folder that holds the real Decathlon tasks; skips where there is none."""
    path = Path(os.environ.get("PROX_DATA") or Path(__file__).parents[3] / "shared" / "data")
    if not (path / "Task04_Hippocampus" / "dataset.json").is_file():
        pytest.skip(f"no Task04_Hippocampus in {path}; set PROX_DATA to the folder that holds it")
    return path
