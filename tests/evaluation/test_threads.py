from __future__ import annotations

import pytest
import torch

from prox_monai.evaluation.threads import torch_threads


def interrupted(count: int) -> None:
    with torch_threads(count):
        assert torch.get_num_threads() == count
        raise KeyboardInterrupt


def test_threads_are_as_before_afterwards():
    before = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        interrupted(before + 1)
    assert torch.get_num_threads() == before


def test_without_a_number_nothing_changes():
    before = torch.get_num_threads()
    with torch_threads(None):
        assert torch.get_num_threads() == before
