from __future__ import annotations

import pytest
import torch

from prox_monai.evaluation.threads import torch_threads


def test_threads_are_as_before_afterwards():
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="broken off"), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ValueError("broken off")
    with torch_threads(None):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before
