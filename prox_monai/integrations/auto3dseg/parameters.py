"""The flat parameters of the algorithm, in the file of a generated algorithm and on the command line."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from prox_monai.elastic.resolution import check_resolutions
from prox_monai.evaluation.multiply_adds import check_name
from prox_monai.integrations.auto3dseg.topology import Topology, channels_per_level, topology
from prox_monai.networks import UNetArchitecture
from prox_monai.space import PhaseSchedule, SearchSpace, unet_groups
from prox_monai.training import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Everything that a training and a prediction depend on; names without ``prox_`` are Auto3DSeg's usual ones.

    Args:
        data_list_file_path: the datalist.
        data_file_base_dir: folder that the datalist's paths are relative to.
        fold: of the datalist that validates.
        input_channels: of the images.
        output_classes: background included.
        roi_size: patch in voxels; rounded up to what the strides divide.
        resample_resolution: spacing in millimetres that images are resampled to.
        normalize_mode: ``ct`` (clip and scale by ``intensity``), ``image`` (mean and deviation of each channel), or
            ``nonzero`` (those of its voxels that are not zero).
        intensity: of ``ct``: lower and upper bound, mean and deviation.
        num_epochs: in total. Where they are fewer than the phases of the training, each counts as several shorter ones.
        num_epochs_per_validation: epochs between validations and checkpoints; a third of ``num_epochs`` at most.
        num_images_per_batch: patches of a training step.
        num_sw_batch_size: patches at once in a sliding window.
        overlap_ratio: of neighbouring patches in a sliding window.
        learning_rate: its peak.
        num_workers: processes that prepare patches.
        cache_rate: share of the images that is kept in memory.
        amp: mixed precision, on a GPU.
        prox_preset: method of training: a name in ``prox_monai.training.PRESETS``, but not a subnet alone.
        prox_iterations_per_epoch: training steps.
        prox_depth: candidate depths, convolutions per section.
        prox_width: candidate widths, multiples of the planned channels.
        prox_kernel: candidate kernel sizes, voxels.
        prox_resolution: candidate fractions of the patch.
        prox_channels: planned channels of the first level; each further level has twice as many, 320 at most.
        prox_seed: of all that is drawn.
        prox_per_bucket: random subnets per latency bucket that are evaluated after training beside the smallest, the
            middle and the largest, for a choice by latency.
        subnet: which predicts: a name or an alias, or several, whose probabilities are averaged.
        max_latency_ms: predict with the best subnet known within this latency of one patch instead; 0: no budget.
            Not beside a ``subnet`` of choice.

    Raises:
        ValueError: When values do not go together; :func:`read_parameters` checks each value.
    """

    data_list_file_path: str
    data_file_base_dir: str
    fold: int
    input_channels: int
    output_classes: int
    roi_size: tuple[int, ...]
    resample_resolution: tuple[float, ...]
    normalize_mode: str
    intensity: tuple[float, ...] = ()
    num_epochs: int
    num_epochs_per_validation: int
    num_images_per_batch: int
    num_sw_batch_size: int = 1
    overlap_ratio: float = 0.5
    learning_rate: float = 3e-3
    num_workers: int = 0
    cache_rate: float = 1.0
    amp: bool = True
    prox_preset: str = "plus"
    prox_iterations_per_epoch: int
    prox_depth: tuple[int, ...]
    prox_width: tuple[float, ...]
    prox_kernel: tuple[int, ...]
    prox_resolution: tuple[float, ...]
    prox_channels: int
    prox_seed: int = 0
    prox_per_bucket: int = 0
    subnet: tuple[str, ...] = ("largest",)
    max_latency_ms: float = 0.0

    def __post_init__(self) -> None:
        if self.normalize_mode == "ct" and len(self.intensity) != 4:
            raise ValueError(
                f"intensity must be lower bound, upper bound, mean and deviation with normalize_mode 'ct', got "
                f"{list(self.intensity)}."
            )
        if self.max_latency_ms and self.subnet != ("largest",):
            raise ValueError(
                f"max_latency_ms chooses the subnet: give one of both, got {self.max_latency_ms:g} and "
                f"{', '.join(self.subnet)}."
            )
        space = self.search_space()
        for name in self.subnet:
            check_name(space, name, "subnet")
        self.architecture()
        check_resolutions(self.prox_resolution, self.topology.patch, self.topology.stride)

    @property
    def topology(self) -> Topology:
        """Strides, kernels and patch."""
        return topology(self.resample_resolution, self.roi_size)

    def architecture(self) -> UNetArchitecture:
        """Return the planned U-Net.

        Raises:
            ValueError: When the patch is too small for one.
        """
        levels = self.topology
        return UNetArchitecture(
            3,
            self.input_channels,
            self.output_classes,
            channels_per_level(self.prox_channels, len(levels.strides)),
            levels.strides,
            planned_kernels=levels.kernels,
        )

    def recipe(self) -> Recipe:
        """Return the method of training."""
        return Recipe.of(self.prox_preset, learning_rate=self.learning_rate)

    def search_space(self) -> SearchSpace:
        """Return the subnets that are trained.

        Raises:
            ValueError: When candidates are not valid.
        """
        levels = len(self.topology.strides)
        candidates = (self.prox_depth, self.prox_width, self.prox_kernel, self.prox_resolution)
        return self.recipe().space_of(SearchSpace(2 * levels - 1, *candidates, groups=unet_groups(levels)))

    def lengths(self) -> tuple[PhaseSchedule, int, int]:
        """Return the phases, training steps per epoch of theirs, and epochs of theirs between validations.

        With fewer epochs than phases each is cut into shorter ones: Auto3DSeg gives one number to all algorithms, and
        short trials ask for two epochs.
        """
        recipe, space = self.recipe(), self.search_space()
        phases = _phases(recipe, space)
        parts = math.ceil(phases / self.num_epochs)
        schedule = recipe.phase_schedule(space, self.num_epochs * parts)
        steps = math.ceil(self.prox_iterations_per_epoch / parts)
        # a training that is shortened has checkpoints before its end all the same
        interval = min(self.num_epochs_per_validation, max(1, self.num_epochs // 3))
        return schedule, steps, interval * parts

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters as JSON primitives."""
        fields = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def _phases(recipe: Recipe, space: SearchSpace) -> int:
    """The number of phases: as many epochs as cover them."""
    count = sum(len(candidates) for candidates in (space.depth, space.width, space.kernel, space.resolution))
    return len(recipe.phase_schedule(space, count + 1).phases)
