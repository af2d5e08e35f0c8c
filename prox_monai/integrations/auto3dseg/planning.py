"""What Auto3DSeg's statistics of a data set make of the configuration."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from prox_monai.data.problems import listed
from prox_monai.integrations.auto3dseg.topology import batch_size, plan_patch

logger = logging.getLogger(__name__)

FIRST_CHANNELS = 32
_ANISOTROPIC = 3.0
_MAX_MEMORY_GB = 8.0
"""nnU-Net plans for this much, whatever larger device there is: larger patches are not better in general."""
_MOSTLY_EMPTY = 0.75
_CACHE_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class DataSummary:
    """What planning needs to know of a data set.

    Args:
        cases: number of labelled images.
        channels: of every image.
        labels: values in the label maps, increasing.
        spacing: median in millimetres per axis.
        fine_spacing: 10th percentile, likewise.
        size: median in millimetres per axis.
        filled: share of an image's box that the smallest box around its positive voxels has, of medians.
        foreground: intensities of labelled voxels in the first channel: ``mean``, ``stdev``, ``percentile_00_5``,
            ``percentile_99_5``.
    """

    cases: int
    channels: int
    labels: tuple[int, ...]
    spacing: tuple[float, ...]
    fine_spacing: tuple[float, ...]
    size: tuple[float, ...]
    filled: float
    foreground: Mapping[str, float]

    @classmethod
    def of(cls, stats: Mapping[str, Any]) -> DataSummary:
        """Read the report of MONAI's ``DataAnalyzer``.

        Raises:
            ValueError: When images differ in channels, are not three-dimensional, a label is no integer, or there are
                no labels.
        """
        summary = stats["stats_summary"]
        images = summary["image_stats"]
        least, most = (int(images["channels"][which]) for which in ("min", "max"))
        if least != most:
            raise ValueError(f"the images of the datalist must have as many channels all, got {least} to {most}.")
        if "label_stats" not in summary:
            raise ValueError("the datalist must name a label for every training image, got images only.")
        shape, cropped = (_one(images[name]["median"]) for name in ("shape", "cropped_shape"))
        if len(shape) != 3:
            raise ValueError(f"images must have three spatial axes, got {len(shape)}.")
        labels = sorted(summary["label_stats"]["labels"])
        if any(label != int(label) for label in labels):
            raise ValueError(f"labels must be integers, got {listed([f'{label:g}' for label in labels])}.")
        return cls(
            cases=int(summary["n_cases"]),
            channels=most,
            labels=tuple(int(label) for label in labels),
            spacing=_one(images["spacing"]["median"]),
            fine_spacing=_one(images["spacing"]["percentile_10_0"]),
            size=_one(images["sizemm"]["median"]),
            filled=math.prod(cropped) / math.prod(shape),
            foreground=dict(summary["image_foreground_stats"]["intensity"]),
        )


@dataclass(frozen=True, slots=True)
class Device:
    """Where training will run.

    Args:
        cuda: whether there is a GPU.
        memory_gb: that a training may use.
        ram_gb: main memory of a process, in which it keeps images.
    """

    cuda: bool
    memory_gb: float
    ram_gb: float

    @classmethod
    def present(cls) -> Device:
        """The smallest GPU of this machine, or its CPU with half of its memory; there is a process per GPU."""
        ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        gpus = [torch.cuda.get_device_properties(i).total_memory / 2**30 for i in range(torch.cuda.device_count())]
        memory = 0.75 * min(gpus) if gpus else ram / 2
        return cls(bool(gpus), min(_MAX_MEMORY_GB, memory), ram / max(1, len(gpus)))


@dataclass(frozen=True, slots=True)
class Plan:
    """What is planned; the fields are parameters of the algorithm, see :class:`Parameters`."""

    input_channels: int
    output_classes: int
    roi_size: tuple[int, ...]
    resample_resolution: tuple[float, ...]
    normalize_mode: str
    intensity: tuple[float, ...]
    num_epochs: int
    num_epochs_per_validation: int
    num_images_per_batch: int
    num_workers: int
    cache_rate: float
    prox_iterations_per_epoch: int
    prox_depth: tuple[int, ...]
    prox_width: tuple[float, ...]
    prox_kernel: tuple[int, ...]
    prox_resolution: tuple[float, ...]
    prox_channels: int

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON primitives."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def plan(
    summary: DataSummary,
    *,
    modality: str,
    class_names: Sequence[str] | None = None,
    device: Device | None = None,
    spacing: Sequence[float] | None = None,
    first_channels: int = FIRST_CHANNELS,
) -> Plan:
    """Plan patch, network, search space and length of the training.

    Spacing, patch, strides, kernels and batch size follow nnU-Net's rules. Without a GPU the candidates are small and
    the training is short.

    Args:
        summary: of the data set.
        modality: as in Auto3DSeg's input; a CT's grey values are absolute.
        class_names: of the foreground, if the input names them.
        device: where training will run; this machine where None.
        spacing: in millimetres per axis; :func:`target_spacing` where None.
        first_channels: of the network's first level.

    Raises:
        ValueError: When labels are not 0, 1, 2, ..., a class never occurs, or the images are too small.
    """
    device = device or Device.present()
    classes = number_of_classes(summary.labels, class_names)
    spacing = tuple(spacing or target_spacing(summary))
    shape = [max(1, round(mm / step)) for mm, step in zip(summary.size, spacing, strict=True)]
    budget = {"first_channels": first_channels, "classes": classes, "memory_gb": device.memory_gb}
    planned = plan_patch(spacing, shape, **budget)
    voxels = summary.cases * math.prod(shape)
    batch = batch_size(planned, **budget, voxels=voxels) if device.cuda else 2
    # more classes, more to learn; an epoch looks at every case about once
    steps = (24_000 if device.cuda else 600) * math.sqrt(max(1, classes - 1) / 2)
    iterations = min(max(math.ceil(summary.cases / batch), 20), 250 if device.cuda else 40)
    epochs = math.ceil(steps / iterations)
    mode, intensity = _normalisation(summary, modality)
    return Plan(
        input_channels=summary.channels,
        output_classes=classes,
        roi_size=planned.patch,
        resample_resolution=spacing,
        normalize_mode=mode,
        intensity=intensity,
        num_epochs=epochs,
        num_epochs_per_validation=max(1, epochs // (10 if device.cuda else 3)),
        num_images_per_batch=batch,
        num_workers=4 if device.cuda else 0,
        cache_rate=round(min(1.0, _CACHE_SHARE * device.ram_gb * 2**30 / (4 * (summary.channels + 1) * voxels)), 3),
        prox_iterations_per_epoch=iterations,
        prox_depth=(1, 2),
        prox_width=(0.25, 0.5, 1.0) if device.cuda else (0.25, 0.5),
        prox_kernel=(3, 5) if device.cuda else (3,),
        prox_resolution=(0.6, 0.8, 1.0) if device.cuda else (0.8, 1.0),
        prox_channels=first_channels,
    )


def target_spacing(summary: DataSummary) -> tuple[float, ...]:
    """Return the spacing that images are resampled to, in millimetres: the median.

    Where one axis is more than three times as coarse as the others and has less than a third of their voxels, it takes
    the 10th percentile, but is never finer than the others: else thick slices would be interpolated to thicker ones.
    """
    target = list(summary.spacing)
    voxels = [mm / step for mm, step in zip(summary.size, target, strict=True)]
    coarse = max(range(len(target)), key=target.__getitem__)
    others = [axis for axis in range(len(target)) if axis != coarse]
    finer, fewest = max(target[axis] for axis in others), min(voxels[axis] for axis in others)
    if target[coarse] > _ANISOTROPIC * finer and voxels[coarse] * _ANISOTROPIC < fewest:
        target[coarse] = max(summary.fine_spacing[coarse], finer)
    return tuple(round(step, 6) for step in target)


def foreground_names(source: Mapping[str, Any]) -> list[str] | None:
    """Return the names of the classes in an input of Auto3DSeg, without the background; None where it has none.

    Raises:
        ValueError: When classes overlap, or are no names.
    """
    if source.get("sigmoid"):
        raise ValueError("sigmoid must be false for prox, whose classes exclude each other, got true.")
    names = source.get("class_names") or []
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"class_names must be names, one per label from 1 on, got {names}.")
    return list(names[1:] if names and names[0].lower() == "background" else names) or None


def number_of_classes(labels: Sequence[int], names: Sequence[str] | None = None) -> int:
    """Return the number of classes, the background included.

    Args:
        labels: values in the label maps, increasing.
        names: of the foreground, if the input names them.

    Raises:
        ValueError: When labels are not 0, 1, 2, ..., or a class never occurs.
    """
    highest = max(labels[-1], len(names or ()))
    present, given = set(labels), listed(labels)
    absent = [label for label in range(1, highest + 1) if label not in present]
    if highest < 1 or labels[0] < 0:
        raise ValueError(f"labels must be 0 for the background, then 1, 2, ... for the classes, got {given}.")
    if names is not None and highest > len(names):
        raise ValueError(f"class_names must name the {highest} classes of the labels {given}, got {len(names)} names.")
    if absent and names is not None:
        wanted = listed([f"{names[label - 1]} (label {label})" for label in absent])
        raise ValueError(f"every class must occur in some label map; {wanted} does in none, labels are {given}.")
    if absent:
        raise ValueError(
            f"labels must be consecutive, 0 for the background, then 1, 2, ...; they are {given}, and no label map "
            f"has {listed(absent)}."
        )
    return highest + 1


def _normalisation(summary: DataSummary, modality: str) -> tuple[str, tuple[float, ...]]:
    """A CT is clipped and scaled by the labelled voxels of all images, anything else scaled image by image.

    The report has the intensity of the first channel alone, so that a CT of several is scaled image by image.
    """
    if modality.lower() == "ct" and summary.channels > 1:
        logger.warning(
            "images have %d channels: each is scaled by itself (normalize_mode image), not as a CT.", summary.channels
        )
        return "image", ()
    if modality.lower() == "ct":
        names = ("percentile_00_5", "percentile_99_5", "mean", "stdev")
        return "ct", tuple(round(float(summary.foreground[name]), 4) for name in names)
    return ("nonzero" if summary.filled < _MOSTLY_EMPTY else "image"), ()


def _one(value: Any) -> tuple[float, ...]:
    """The values per axis, of one channel where there is a list for each."""
    return tuple(float(v) for v in (value[0] if isinstance(value[0], Sequence) else value))
