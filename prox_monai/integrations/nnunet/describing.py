"""What has to be known beside a network to use it: preprocessing, labels, where it comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from prox_monai import __version__
from prox_monai.export.description import Description
from prox_monai.integrations.nnunet.trained import TrainedModel
from prox_monai.integrations.nnunet.windows import STEP
from prox_monai.space import SubnetConfig

_CONSTANT = {"crop", "window_step"}  # of this package and nnU-Net, not of the files
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
        format: ``onnx``, ``openvino``, ``torch`` or ``bundle``.
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
        preprocessing=preprocessing_of(model.plans, model.dataset_json, model.configuration_name, model.mirroring_axes),
        labels=model.dataset_json["labels"],
        source=source_of(model) | {"steps": list(steps)},
        checks=checks,
        versions=versions(),
    )


def preprocessing_of(
    plans: dict[str, Any], dataset_json: Mapping[str, Any], configuration_name: str, axes: Sequence[int] | None
) -> dict[str, Any]:
    """Return how an image becomes the network's input, in the order in which it is done.

    nnU-Net does it from ``plans.json`` and ``dataset.json``; this says the same to whoever has no nnU-Net.

    Args:
        plans: content of ``plans.json``.
        dataset_json: content of ``dataset.json``.
        configuration_name: for example ``3d_fullres``.
        axes: along which prediction may mirror; None for none.
    """
    configuration = PlansManager(plans).get_configuration(configuration_name)
    content = configuration.configuration
    return {
        "channels": channel_names(dataset_json),
        "file_ending": dataset_json["file_ending"],
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
        "mirroring_axes": None if axes is None else list(axes),
    }


def channel_names(dataset_json: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the name of each channel by its number; nnU-Net takes the Decathlon's ``modality`` for it as well."""
    return dataset_json["channel_names"] if "channel_names" in dataset_json else dataset_json["modality"]


def check_described(description: Description, plans: dict[str, Any], dataset_json: Mapping[str, Any]) -> None:
    """Check that a description says what nnU-Net will do by the files beside it.

    Args:
        description: of an exported network.
        plans: content of ``plans.json``.
        dataset_json: content of ``dataset.json``.

    Raises:
        ValueError: When it says something else; the message names the field.
    """
    told, axes = description.preprocessing, description.preprocessing.get("mirroring_axes")
    expected = preprocessing_of(plans, dataset_json, description.source["configuration"], axes)
    for field in expected.keys() - _CONSTANT:
        if told.get(field) != expected[field]:
            raise ValueError(
                f"the description says preprocessing.{field} {told.get(field)!r}, plans.json and dataset.json say "
                f"{expected[field]!r}; export the model again."
            )
    if description.labels != dataset_json["labels"]:
        raise ValueError(
            f"the description says labels {description.labels!r}, dataset.json says {dataset_json['labels']!r}; "
            f"export the model again."
        )
    spatial = range(len(description.input_shape) - 1)
    if axes is not None and not set(axes) <= set(spatial):
        raise ValueError(f"the description says mirroring_axes {axes!r}; allowed are those of {list(spatial)}.")


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
