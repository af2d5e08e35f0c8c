"""What has to be known beside a network to use it: preprocessing, labels, where it comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from prox_monai import __version__
from prox_monai.export.description import Description
from prox_monai.integrations.nnunet.trained import TrainedModel
from prox_monai.integrations.nnunet.windows import STEP
from prox_monai.space import SubnetConfig

_PACKAGES = ("torch", "nnunetv2", "onnx", "onnxruntime", "openvino", "nncf")


def describe_export(
    model: TrainedModel,
    config: SubnetConfig,
    *,
    format: str,
    precision: str,
    files: Mapping[str, str],
    steps: Sequence[str],
    checks: Mapping[str, Any],
) -> Description:
    """Describe an exported subnet.

    Args:
        model: the trained model that it comes from.
        config: the subnet.
        format: ``onnx``, ``openvino`` or ``torch``.
        precision: ``fp32``, ``fp16`` or ``int8``.
        files: SHA-256 of each file by name, the one to open first.
        steps: what was done to the subnet before it was written.
        checks: how it compares with the plain subnet.
    """
    shapes = model.supernet.parameter_shapes(config).values()
    return Description(
        format=format,
        precision=precision,
        files=files,
        subnet=config.name,
        input_shape=model.input_shape,
        outputs=model.labels.num_segmentation_heads,
        parameters=sum(map(math.prod, shapes)),
        multiply_adds=model.multiply_adds()(config),
        preprocessing=preprocessing_of(model),
        labels=model.dataset_json["labels"],
        source=source_of(model) | {"steps": list(steps)},
        checks=checks,
        versions=versions(),
    )


def preprocessing_of(model: TrainedModel) -> dict[str, Any]:
    """Return how an image becomes the network's input, in the order in which it is done.

    nnU-Net does it from ``plans.json`` and ``dataset.json``; this says the same to whoever has no nnU-Net.
    """
    plans, configuration = model.plans, model.configuration
    content = configuration.configuration
    return {
        "channels": model.dataset_json["channel_names"],
        "file_ending": model.dataset_json["file_ending"],
        "reader": plans["image_reader_writer"],
        "transpose": plans["transpose_forward"],
        "crop": "to the box of voxels that are not zero in some channel",
        "normalization": list(configuration.normalization_schemes),
        "normalization_within_nonzero": list(configuration.use_mask_for_norm),
        "intensities_of_foreground": plans["foreground_intensity_properties_per_channel"],
        "spacing_mm": list(configuration.spacing),
        "resampling": {name: content[name] for name in sorted(content) if name.startswith("resampling_fn")},
        "patch": list(configuration.patch_size),
        "window_step": STEP,
        "mirroring_axes": None if model.mirroring_axes is None else list(model.mirroring_axes),
    }


def source_of(model: TrainedModel) -> dict[str, Any]:
    """Return where the weights come from."""
    return {
        "dataset": model.plans["dataset_name"],
        "configuration": model.configuration_name,
        "fold": model.fold,
        "checkpoint": model.digest,
    }


def versions() -> dict[str, str]:
    """Return the versions of this package and of those that write models, where they are installed."""
    found = {"prox_monai": __version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
