"""One set of shared tensors from which every subnet of a search space takes its corner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from prox_monai.elastic.architecture import Architecture, Moments
from prox_monai.elastic.depth import continue_sections, measure_moments
from prox_monai.elastic.extra_state import ExtraState
from prox_monai.elastic.freeze import Freeze
from prox_monai.elastic.growth import Growth, initialise
from prox_monai.elastic.memory_format import trained_fast
from prox_monai.elastic.resolution import AtResolution, at_resolution, without_resolution
from prox_monai.elastic.shells import Grid, ShellTensor
from prox_monai.elastic.skeleton import Skeleton, build_skeleton
from prox_monai.elastic.transforms import KernelTransforms
from prox_monai.space import SearchSpace, SectionConfig, SubnetConfig

RingRate = Literal["core_share", "full"]

_CACHED_SKELETONS = 256


class Supernet(nn.Module):
    """Shared tensors, the architecture that gives them meaning, and the search space they serve.

    A subnet is the architecture's plain network on corners of the shared tensors, so that a forward pass here and
    one of the extracted network are the same computation. The active subnet is one attribute.

    Args:
        architecture: rule from configuration to plain network.
        space: the subnets that exist; ``space.largest()`` is active at first.
        growth: what an expansion finds when it opens a width, see :func:`~prox_monai.elastic.growth.initialise`.
        kernel_transforms: whether smaller kernels are learnable transforms of the largest
            (:class:`~prox_monai.elastic.transforms.KernelTransforms`), not its centre.

    Raises:
        ValueError: When the architecture does not fit the space.
    """

    def __init__(
        self,
        architecture: Architecture,
        space: SearchSpace,
        *,
        growth: Growth = "preserving",
        kernel_transforms: bool = False,
    ) -> None:
        super().__init__()
        if architecture.sections != space.sections:
            raise ValueError(
                f"the search space has {space.sections} sections, the architecture {architecture.sections}."
            )
        if growth not in get_args(Growth):
            raise ValueError(f"growth must be one of {get_args(Growth)}, got {growth!r}.")
        self.architecture = architecture
        self.growth: Growth = growth
        self._allocate(space, kernel_transforms)
        with torch.no_grad():
            for name, buffer in initialise(architecture, space, self._shells, growth).items():
                self.get_buffer(_key(name)).copy_(buffer)

    @property
    def opened_depth(self) -> int:
        """The depth up to which blocks hold something that was learnt, or are being trained."""
        return self._opened_depth

    @property
    def active(self) -> SubnetConfig:
        """Configuration of the subnet that ``forward`` runs."""
        return self._active

    def activate(self, config: SubnetConfig, freeze: Freeze = Freeze()) -> None:
        """Choose the subnet that ``forward`` runs, and what of it does not learn.

        Raises:
            ValueError: When the subnet is not in the search space.
        """
        self.space.check(config)
        self._active, self._freeze = config, freeze

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Run the active subnet on an input of shape ``(B, C, *spatial)``.

        Outputs are at the native resolution, also of a subnet that works at a lower one.
        """
        skeleton = self._skeleton(self._active)
        skeleton.set_mode(self.training, self._frozen_prefixes(self._freeze))
        tensors = self._corners(skeleton) | self._buffer_views(skeleton)
        return at_resolution(partial(skeleton.run, tensors), x, self.architecture.stride, self._active.resolution)

    def parameter_shapes(self, config: SubnetConfig) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter of a subnet."""
        return {name: extent.shape for name, extent in self._skeleton(config).parameters.items()}

    def parameter_groups(self, learning_rate: float, ring_rate: RingRate = "core_share") -> list[dict[str, Any]]:
        """Group the parameters for an optimizer, each group with its ``lr`` and its ``scale`` of the learning rate.

        A kernel ring adds many taps at once; under Adam, which moves every weight alike, they would drown the core
        that they surround. A loop that changes the learning rate multiplies it by a group's ``scale``.

        Args:
            learning_rate: of the cores, and of all that has no elastic kernel.
            ring_rate: rings learn at the share of the core's taps in the kernel that they complete (``core_share``), or
                at the ``full`` rate.

        Raises:
            ValueError: When the ring rate is unknown.
        """
        if ring_rate not in get_args(RingRate):
            raise ValueError(f"ring_rate must be one of {get_args(RingRate)}, got {ring_rate!r}.")
        groups: dict[float, list[nn.Parameter]] = {1.0: list(self.transforms.parameters())}
        for shells in self.tensors.values():
            for cell in shells.grid.cells():
                scale = shells.grid.core_share(cell) if ring_rate == "core_share" else 1.0
                groups.setdefault(scale, []).append(shells.cell(cell))
        return [
            {"params": parameters, "lr": learning_rate * scale, "scale": scale} for scale, parameters in groups.items()
        ]

    def train(self, mode: bool = True) -> Supernet:
        """Set training or evaluation mode."""
        self._assembled = None
        return super().train(mode)

    def extract(self, config: SubnetConfig) -> nn.Module:
        """Copy a subnet out as a plain network, in the mode (train or eval) of the supernet.

        Raises:
            ValueError: When the subnet is not in the search space.
        """
        self.space.check(config)
        skeleton = build_skeleton(self.architecture, config)
        network = skeleton.fill(self._parameter_corners(skeleton, Freeze()) | self._buffer_views(skeleton))
        if config.resolution != 1:
            network = AtResolution(network, self.architecture.stride, config.resolution)
        return network.train(self.training)

    @torch.no_grad()
    def absorb(self, config: SubnetConfig, network: nn.Module) -> None:
        """Write a plain network's tensors into the corner that the subnet fills; the inverse of ``extract``.

        Raises:
            ValueError: When the subnet is not in the search space, a tensor is missing or has another shape, or a
                kernel is one that is a transform of the largest.
        """
        self.space.check(config)
        skeleton = self._skeleton(config)
        for name, extent in skeleton.parameters.items():
            if _key(name) in self.transforms and extent.taps != (largest := self._shells(name).grid.taps[-1]):
                raise ValueError(f"{name} of {config} is not absorbed: {extent.taps} is a transform of {largest}.")
        state = dict(network.named_parameters()) | dict(network.named_buffers())
        for name, extent in (skeleton.parameters | skeleton.buffers).items():
            if name not in state or tuple(state[name].shape) != extent.shape:
                found = tuple(state[name].shape) if name in state else "none"
                raise ValueError(f"{name} has shape {extent.shape} in {config}, but {found} was given.")
        for name, extent in skeleton.parameters.items():
            self._shells(name).write(extent, state[name])
        for name, view in self._buffer_views(skeleton).items():
            view.copy_(state[name])
        self.mark_opened(max(config.depths))

    def mark_opened(self, depth: int) -> None:
        """Say that blocks up to a depth hold something that was learnt, or are about to be trained."""
        self._opened_depth = max(self._opened_depth, depth)

    def open_depth(self, depth: int, like: SubnetConfig | None = None, batches: Iterable[Tensor] = ()) -> None:
        """Let the blocks that a depth adds to the candidate before it continue what stands before them.

        Called when the depth is opened, the new blocks start from what the old ones have learnt by then, so that
        deeper subnets start close to the shallower ones they grow from. What the new blocks held is lost.

        Args:
            depth: the candidate that is opened.
            like: the largest subnet of the depth before, whose deeper twin is to start closest, if both are subnets of
                the space.
            batches: inputs of shape ``(B, C, *spatial)`` on which ``like`` is looked at; without any, what its blocks
                give is estimated from its weights.

        Raises:
            ValueError: When the depth is not a candidate, or the smallest.
        """
        if depth not in self.space.depth[1:]:
            raise ValueError(f"depth must be one of {self.space.depth[1:]} to be opened, got {depth}.")
        before = self.space.depth[self.space.depth.index(depth) - 1]
        self._continue(self.space.restrict(depth=(depth,)).largest(), range(before, depth), {})
        if like is not None and like in self.space and like.at_depth(depth) in self.space:
            moments = measure_moments(self.architecture, self.extract(like), before - 1, batches)
            self._continue(like.at_depth(depth), range(before, depth), moments)

    def _continue(self, config: SubnetConfig, blocks: range, moments: dict[int, Moments]) -> None:
        network = without_resolution(self.extract(config))
        continue_sections(self.architecture, network, blocks, moments)
        self.absorb(config, network)

    @torch.no_grad()
    def grow(self, space: SearchSpace) -> Supernet:
        """Return a supernet of a larger space in which every old subnet gives the same output.

        Raises:
            ValueError: When the new space lacks a subnet of the old one, or kernels are transforms of the largest.
        """
        if self.kernel_transforms:
            raise ValueError("a supernet with kernel transforms does not grow: its largest network bounds it.")
        space.check_includes(self.space)
        grown = self._with_space(space, self.space.largest())
        grown.activate(self._active)
        grown._opened_depth = self._opened_depth
        return grown

    @torch.no_grad()
    def only(self, space: SearchSpace) -> Supernet:
        """Return a supernet of a smaller space, every subnet of which gives the same output as in this one.

        Its largest subnet is active.

        Raises:
            ValueError: When the new space has a subnet that this one lacks, or kernels are transforms of one that it
                lacks.
        """
        self.space.check_includes(space)
        kept = self.space.kernel[-len(space.kernel) :]
        if self.kernel_transforms and space.kernel != kept:
            raise ValueError(
                f"kernel must be the largest of {self.space.kernel}, of which others are transforms, got "
                f"{space.kernel}."
            )
        smaller = self._with_space(space, space.largest())
        for key, transforms in smaller.transforms.items():
            for name, matrix in transforms.named_parameters():
                matrix.copy_(self.transforms[key].get_parameter(name))
        return smaller

    def _with_space(self, space: SearchSpace, largest: SubnetConfig) -> Supernet:
        """A supernet of another space with the tensors of the largest subnet that both have."""
        other = Supernet(self.architecture, space, growth=self.growth, kernel_transforms=self.kernel_transforms)
        other.to(self._like).absorb(largest, without_resolution(self.extract(largest)))
        return other.train(self.training)

    def get_extra_state(self) -> Tensor:
        """Encode space and active subnet as bytes of fixed length, so that a state dict describes itself."""
        return ExtraState(self.space, self._active, self._opened_depth, self.kernel_transforms).encode()

    def set_extra_state(self, state: Tensor) -> None:
        """Activate the subnet that was active when the state was saved."""
        described = ExtraState.decode(state)
        self.activate(described.active)
        self._opened_depth = described.opened_depth

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False):
        """Load a state dict; the supernet first takes on the search space and the transforms that it describes.

        Where they are others the parameters are new ones, and an optimizer of the old ones is of no use.
        """
        if "_extra_state" in state_dict:
            described = ExtraState.decode(state_dict["_extra_state"])
            if (described.space, described.kernel_transforms) != (self.space, self.kernel_transforms):
                like, training = self._like, self.training
                with torch.inference_mode(False):  # a predictor may load while it predicts
                    self._allocate(described.space, described.kernel_transforms)
                    self.to(like).train(training)
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def __getstate__(self) -> dict[str, Any]:
        """A copy starts without what is kept for the next forward pass: views of these tensors cannot be copied."""
        return self.__dict__ | {"_skeletons": {}, "_assembled": None}

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "architecture":
            self.__dict__["_skeletons"] = {}
        super().__setattr__(name, value)

    def _corners(self, skeleton: Skeleton) -> dict[str, Tensor]:
        """Assemble the active corners: at every forward in training, once in evaluation.

        Fused optimizers change tensors without raising their version, so what is kept never outlives a forward
        with gradients or a change of mode, and nothing is kept while gradients wait for an optimizer.
        """
        shared = [] if self.training or torch.is_grad_enabled() else list(self.parameters())
        if not shared or any(parameter.grad is not None for parameter in shared):
            self._assembled = None
            corners = self._parameter_corners(skeleton, self._freeze)
            return trained_fast(corners) if self.training and torch.is_grad_enabled() else corners
        stamp = (self._active, [(parameter.data_ptr(), parameter._version) for parameter in shared])
        if self._assembled is None or self._assembled[0] != stamp:
            self._assembled = stamp, self._parameter_corners(skeleton, Freeze())
        return self._assembled[1]

    def _parameter_corners(self, skeleton: Skeleton, freeze: Freeze) -> dict[str, Tensor]:
        prefixes, tensors, transforms = self._frozen_prefixes(freeze), self.tensors, self.transforms
        corners = {}
        for name, extent in skeleton.parameters.items():
            key, frozen = _key(name), name.startswith(prefixes)
            corner = partial(transforms[key].corner, tensors[key]) if key in transforms else tensors[key].corner
            corners[name] = corner(extent, frozen=frozen, frozen_kernel=freeze.kernel)
        return corners

    def _buffer_views(self, skeleton: Skeleton) -> dict[str, Tensor]:
        """Leading entries of the shared buffers; what training writes into them is shared."""
        return {
            name: self.get_buffer(_key(name))[tuple(slice(n) for n in extent.shape)]
            for name, extent in skeleton.buffers.items()
        }

    def _frozen_prefixes(self, freeze: Freeze) -> tuple[str, ...]:
        return tuple(self.architecture.block_prefix(section, block) for section, block in sorted(freeze.blocks))

    def _shells(self, name: str) -> ShellTensor:
        return self.tensors[_key(name)]

    def _skeleton(self, config: SubnetConfig) -> Skeleton:
        """Return the skeleton of a subnet; its resolution plays no part."""
        if config.sections not in self._skeletons:
            if len(self._skeletons) >= _CACHED_SKELETONS:
                del self._skeletons[next(iter(self._skeletons))]
            self._skeletons[config.sections] = build_skeleton(self.architecture, config)
        return self._skeletons[config.sections]

    @property
    def _like(self) -> Tensor:
        """A tensor of the device and the type of the shared tensors."""
        return next(self.tensors.parameters())

    def _allocate(self, space: SearchSpace, kernel_transforms: bool) -> None:
        """Create zero cells for every candidate of the space, and transforms of elastic kernels if wanted."""
        depth, kernel = space.depth[-1], space.kernel[-1]
        candidates = [(w, kernel) for w in space.width] + [(space.width[-1], k) for k in space.kernel]
        skeletons = [
            build_skeleton(self.architecture, SubnetConfig.uniform(space.sections, depth, *candidate))
            for candidate in candidates
        ]
        self.space, self._active, self._freeze = space, space.largest(), Freeze()
        self._opened_depth = space.depth[0]
        self._skeletons: dict[tuple[SectionConfig, ...], Skeleton] = {}
        self._assembled: tuple[Any, dict[str, Tensor]] | None = None
        self.kernel_transforms = kernel_transforms
        self.tensors, self.transforms = nn.ModuleDict(), nn.ModuleDict()
        self._buffers.clear()  # those of another space
        for name in skeletons[-1].parameters:
            grid = _grid(name, skeletons)
            self.tensors[_key(name)] = ShellTensor(grid)
            if kernel_transforms and len(grid.taps) > 1:
                self.transforms[_key(name)] = KernelTransforms(grid.taps)
        for name, buffer in skeletons[-1].network.named_buffers():
            self.register_buffer(_key(name), torch.zeros_like(buffer, device="cpu"))


def _grid(name: str, skeletons: list[Skeleton]) -> Grid:
    try:
        return Grid.spanning([skeleton.parameters[name] for skeleton in skeletons])
    except (KeyError, ValueError) as error:
        raise ValueError(f"the networks of this architecture do not nest: {name}: {error}") from error


def _key(name: str) -> str:
    return name.replace(".", "/")
