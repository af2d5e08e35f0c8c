"""How far the surfaces of two segmentations are from each other."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

from torch import Tensor


def surface_scores(
    predicted: Tensor, reference: Tensor, spacing: Sequence[float], tolerance_mm: float
) -> dict[str, float]:
    """Return ``nsd``, the surface Dice at a tolerance, and ``hd95_mm``, the 95th percentile of the Hausdorff distance.

    Of two empty masks both are NaN. Where one is empty, the surface Dice is 0 and the distance that of two opposite
    corners of the image, which is the largest that there can be.

    Args:
        predicted: a mask of shape ``(*spatial)``, 2-D or 3-D.
        reference: a mask of the same shape.
        spacing: size of a voxel per axis, millimetres.
        tolerance_mm: distance within which a point of a surface counts as right, millimetres.

    Raises:
        ImportError: When MONAI is not installed.
        ValueError: When the shapes differ.
    """
    try:
        from monai.metrics import compute_hausdorff_distance, compute_surface_dice
    except ImportError as error:
        raise ImportError('surface distances need MONAI: pip install "prox-monai[monai]"') from error
    if predicted.shape != reference.shape:
        raise ValueError(f"masks must have one shape, got {tuple(predicted.shape)} and {tuple(reference.shape)}.")
    some = int(predicted.any()) + int(reference.any())
    if some == 0:
        return {"nsd": math.nan, "hd95_mm": math.nan}
    if some == 1:
        diagonal = math.hypot(*((n - 1) * step for n, step in zip(predicted.shape, spacing, strict=True)))
        return {"nsd": 0.0, "hd95_mm": diagonal}
    masks = {"y_pred": predicted[None, None], "y": reference[None, None]}
    options = {"include_background": True, "spacing": list(spacing)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI warns of arguments that it gives itself
        return {
            "nsd": float(compute_surface_dice(**masks, class_thresholds=[tolerance_mm], **options)),
            "hd95_mm": float(compute_hausdorff_distance(**masks, percentile=95, **options)),
        }
