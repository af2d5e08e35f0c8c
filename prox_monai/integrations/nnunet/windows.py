"""The windows that nnU-Net's prediction slides over a preprocessed case."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import Tensor

STEP = 0.5
_SEED = 0


def window_starts(shape: Sequence[int], patch: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the first voxel of each window over a preprocessed image, padded to the patch where it is smaller.

    A 2-D patch goes over every slice of a 3-D image.

    Args:
        shape: of the image, voxels.
        patch: of a window, voxels.
    """
    slices = [[index] for index in range(shape[0])] if len(shape) > len(patch) else [[]]
    size = [max(n, p) for n, p in zip(shape[-len(patch) :], patch, strict=True)]
    steps = compute_steps_for_sliding_window(tuple(size), tuple(patch), STEP)
    return [(*index, *start) for index in slices for start in itertools.product(*steps)]


def patches_of(
    configuration: ConfigurationManager, preprocessed: str | Path, cases: Sequence[str], count: int | None = None
) -> Iterator[Tensor]:
    """Yield windows of preprocessed cases as ``(1, C, *spatial)``, drawn at random, always the same.

    Args:
        configuration: nnU-Net's configuration.
        preprocessed: nnU-Net's folder of the preprocessed data set.
        cases: identifiers of cases; the windows come from one after the other.
        count: how many windows; one per case if not given.

    Raises:
        FileNotFoundError: When the preprocessed data are not there.
    """
    folder = Path(preprocessed, configuration.data_identifier)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist; run nnUNetv2_preprocess for this configuration.")
    dataset = infer_dataset_class(str(folder))(str(folder), list(cases))
    patch, rng = configuration.patch_size, random.Random(_SEED)
    for case in itertools.islice(itertools.cycle(cases), len(cases) if count is None else count):
        image = np.array(dataset.load_case(case)[0][:])
        start = rng.choice(window_starts(image.shape[1:], patch))
        image = pad_nd_image(image, patch, "constant", {"constant_values": 0})
        window = [slice(first, first + size) for first, size in zip(start[-len(patch) :], patch, strict=True)]
        yield torch.from_numpy(np.ascontiguousarray(image[(slice(None), *start[: -len(patch)], *window)]))[None]
