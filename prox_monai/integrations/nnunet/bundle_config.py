"""nnU-Net's way from an image to a label map, as a configuration of MONAI's own transforms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nnunetv2.configuration import ANISO_THRESHOLD
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from prox_monai.integrations.nnunet.windows import STEP

if TYPE_CHECKING:
    from prox_monai.integrations.nnunet.trained import TrainedModel

POSTFIX = "seg"
"""What a bundle writes behind the name of an image's first file."""

_READERS = ("SimpleITKIO", "NibabelIO", "NibabelIOWithReorient")
_KEYS = {"keys": "image"}
_X = "x[{0}:{1}]"
_NORMALIZED = {
    "ZScoreNormalization": f"({_X} - {_X}.mean()) / max({_X}.std(unbiased=False), 1e-8)",
    "CTNormalization": f"({_X}.clamp({{percentile_00_5}}, {{percentile_99_5}}) - {{mean}}) / max({{std}}, 1e-8)",
    "NoNormalization": _X,
    "RescaleTo01Normalization": f"({_X} - {_X}.min()) / max({_X}.max() - {_X}.min(), 1e-8)",
    "RGBTo01Normalization": f"{_X} / 255",
}
_WITHIN = f"torch.where(inside, ({_X} - {_X}[inside].mean()) / max({_X}[inside].std(unbiased=False), 1e-8), {_X})"
_INSIDE = "$lambda x: torch.as_tensor(binary_fill_holes((x != 0).any(0).cpu().numpy()), device=x.device)[None]"


def check_bundled(model: TrainedModel) -> None:
    """Check that a model's images can be handled by MONAI's transforms.

    Raises:
        ValueError: When they are read or normalised in a way that a bundle does not know.
    """
    reader, schemes = model.plans["image_reader_writer"], model.configuration.normalization_schemes
    if reader not in _READERS or len(model.plans["transpose_forward"]) != 3:
        raise ValueError(f"a bundle reads volumes as {', '.join(_READERS)} do, not as {reader}; choose another format.")
    if not (ending := model.dataset_json["file_ending"]).startswith(".nii"):
        raise ValueError(f"a bundle reads NIfTI files, not {ending}; choose another format.")
    if unknown := set(schemes) - set(_NORMALIZED):
        known = ", ".join(_NORMALIZED)
        raise ValueError(f"normalization of a bundle must be among {known}, got {', '.join(unknown)}.")
    if model.configuration.previous_stage_name is not None:
        raise ValueError(f"{model.configuration_name} needs the label maps of another model; a bundle holds one.")


def axes_of(model: TrainedModel) -> list[int]:
    """Return for each axis of nnU-Net's arrays, which one of MONAI's that is.

    nnU-Net reads arrays as ``(z, y, x)`` and transposes them by its plans, MONAI has ``(x, y, z)``.
    """
    return [2 - axis for axis in model.plans["transpose_forward"]]


def window_order(model: TrainedModel) -> list[int]:
    """Return for each axis of a window, which one of MONAI's windows that is; 2-D ones have none along the slices."""
    axes = axes_of(model)[-len(model.configuration.patch_size) :]
    return [sorted(axes).index(axis) for axis in axes]


def window_size(model: TrainedModel) -> list[int]:
    """Return the voxels of a window along each axis that MONAI's windows have."""
    patch, order = model.configuration.patch_size, window_order(model)
    return [patch[order.index(axis)] for axis in range(len(patch))]


def inference_config(model: TrainedModel) -> dict[str, Any]:
    """Return the bundle's ``inference.json``: from a folder of images to label maps on their own grids.

    Args:
        model: the trained model, see :func:`check_bundled`.
    """
    masked = any(model.configuration.use_mask_for_norm)
    return {
        "imports": [
            "$import glob",
            "$import numpy as np",
            "$import torch",
            *["$from scipy.ndimage import binary_fill_holes"] * masked,
        ],
        "bundle_root": ".",
        "ckpt_dir": "$@bundle_root + '/models'",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": "/workspace/data/images",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": "$torch.jit.load(@ckpt_dir + '/model.ts', map_location=@device)",
        **({"inside": _INSIDE} if masked else {}),
        "normalize": _normalize(model.configuration, model.plans["foreground_intensity_properties_per_channel"]),
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(model, masked=masked)},
        **_images(model.dataset_json["file_ending"], model.input_shape[0]),
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': image} for image in @images]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": _inferer(model),
        "postprocessing": {
            "_target_": "Compose",
            "transforms": _postprocessing(model.labels, model.dataset_json["file_ending"]),
        },
        "handlers": [{"_target_": "StatsHandler", "iteration_log": False}],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network_def",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "initialize": [],
        "run": ["$@evaluator.run()"],
    }


def _images(ending: str, channels: int) -> dict[str, str]:
    """The expressions that list the images of a folder: one file per channel, or any name of the only one."""
    if channels == 1:
        return {"images": f"$sorted(glob.glob(glob.escape(@dataset_dir) + '/*{ending}'))"}
    first = f"_0000{ending}"
    files = f"[f'{{case}}_{{channel:04d}}{ending}' for channel in range({channels})]"
    return {
        "cases": f"$sorted(path[:-{len(first)}] for path in glob.glob(glob.escape(@dataset_dir) + '/*{first}'))",
        "images": f"$[{files} for case in @cases]",
    }


def _normalize(configuration: ConfigurationManager, intensities: Mapping[str, Mapping[str, float]]) -> str:
    """The expression that normalises all channels, each in its own way."""
    parts = []
    for channel, scheme in enumerate(configuration.normalization_schemes):
        masked = scheme == "ZScoreNormalization" and configuration.use_mask_for_norm[channel]
        text = _WITHIN if masked else _NORMALIZED[scheme]
        parts.append(text.format(channel, channel + 1, **intensities.get(str(channel), {})))
    return f"$lambda x, inside: torch.cat([{', '.join(parts)}])"


def _preprocessing(model: TrainedModel, *, masked: bool) -> list[dict[str, Any]]:
    reoriented = model.plans["image_reader_writer"] == "NibabelIOWithReorient"
    return [
        {"_target_": "LoadImaged", **_KEYS},
        {"_target_": "EnsureChannelFirstd", **_KEYS},
        *[{"_target_": "Orientationd", **_KEYS, "axcodes": "RAS", "labels": None}] * reoriented,
        {"_target_": "CropForegroundd", **_KEYS, "source_key": "image", "select_fn": "$lambda x: x != 0"},
        {"_target_": "Lambdad", **_KEYS, "func": f"$lambda x: @normalize(x, {'@inside(x)' if masked else None})"},
        *_resampling(model),
        {"_target_": "EnsureTyped", **_KEYS},
    ]


def _resampling(model: TrainedModel) -> list[dict[str, Any]]:
    """Splines in all axes; where the voxels are much longer than wide, in their plane, the nearest along them."""
    spacing = model.configuration.spacing
    axes, kwargs = axes_of(model), model.configuration.configuration["resampling_fn_data_kwargs"]
    by_axis = dict(zip(axes[-len(spacing) :], spacing, strict=True))
    coarsest = max(by_axis, key=lambda axis: by_axis[axis])
    separate = len(spacing) == 3 and max(spacing) / min(spacing) > ANISO_THRESHOLD
    if not separate:
        return [_spacing(by_axis, kwargs["order"])]
    in_plane = {axis: value for axis, value in by_axis.items() if axis != coarsest}
    return [_spacing(in_plane, kwargs["order"]), _spacing({coarsest: by_axis[coarsest]}, kwargs["order_z"])]


def _spacing(by_axis: Mapping[int, float], order: int) -> dict[str, Any]:
    """Resample some axes by splines of an order, to as many voxels as by nnU-Net.

    They have the planned size exactly; nnU-Net stretches them until they fill the image. On the way back neither shows.
    """
    return {
        "_target_": "Spacingd",
        **_KEYS,
        "pixdim": [by_axis.get(axis, -1.0) for axis in range(3)],
        "mode": order,
        "padding_mode": "nearest",
        "align_corners": True,
        "scale_extent": True,
    }


def _inferer(model: TrainedModel) -> dict[str, Any]:
    size = window_size(model)
    window = {
        "roi_size": size,
        "sw_batch_size": 1,
        "overlap": 1 - STEP,
        "mode": "gaussian",
    }
    if len(size) == 2:
        return {"_target_": "SliceInferer", "spatial_dim": axes_of(model)[0], **window}
    return {"_target_": "SlidingWindowInferer", **window}


def _postprocessing(labels: LabelManager, ending: str) -> list[dict[str, Any]]:
    keys = {"keys": "pred"}
    on_cpu = {"_target_": "ToDeviced", **keys, "device": "cpu"}  # on a GPU cubic resampling would need CuPy
    inverted = {
        "_target_": "Invertd",
        **keys,
        "transform": "@preprocessing",
        "orig_keys": "image",
        "nearest_interp": False,
        "to_tensor": True,
    }
    saved = {
        "_target_": "SaveImaged",
        **keys,
        "output_dir": "@output_dir",
        "output_postfix": POSTFIX,
        "output_ext": ending,
        "output_dtype": "$np.uint8" if max(labels.all_labels) < 256 else "$np.uint16",
        "separate_folder": False,
    }
    if not labels.has_regions:
        return [on_cpu, inverted, {"_target_": "AsDiscreted", **keys, "argmax": True}, saved]
    chosen = f"$lambda x: {_labels(labels.regions_class_order)}"
    return [
        {"_target_": "Activationsd", **keys, "sigmoid": True},
        on_cpu,
        inverted,
        {"_target_": "Lambdad", **keys, "func": chosen},
        saved,
    ]


def _labels(numbers: Sequence[int]) -> str:
    """The expression of a label map from the probabilities of regions, of which the last one prevails."""
    text = "torch.zeros_like(x[:1])"
    for region, number in enumerate(numbers):
        text = f"torch.where(x[{region}:{region + 1}] > 0.5, {number}.0, {text})"
    return text
