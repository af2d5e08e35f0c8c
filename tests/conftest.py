from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several processes, tests that share expensive fixtures stay in one: a folder's, or a top-level file's."""
    here = Path(__file__).parent
    for item in items:
        own = item.path if item.path.parent == here else item.path.parent
        item.add_marker(pytest.mark.xdist_group(str(own.relative_to(here))))


@pytest.fixture(autouse=True)
def seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with the real data sets; skips where there is none."""
    folder = Path(os.environ.get("PROX_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set PROX_DATA to the folder that holds it")
    return folder
