"""One set of shared tensors from which every subnet of a search space takes its corner."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvTransposeNd
from torch.overrides import TorchFunctionMode

from prox_monai.elastic.architecture import Architecture
from prox_monai.elastic.freeze import Freeze
from prox_monai.elastic.resolution import AtResolution, at_resolution
from prox_monai.elastic.shells import Extent, Grid, ShellTensor
from prox_monai.space import SearchSpace, SubnetConfig

Growth = Literal["preserving", "host"]
_EXTRA_STATE_BYTES = 4096
_CACHED_SKELETONS = 256


@dataclass(frozen=True, slots=True)
class _Skeleton:
    """A plain network without data, and the extents of the tensors that it needs."""

    network: nn.Module
    parameters: dict[str, Extent]
    buffers: dict[str, Extent]


class Supernet(nn.Module):
    """Shared tensors, the architecture that gives them meaning, and the search space they serve.

    A subnet is the architecture's plain network on corners of the shared tensors, so that a forward pass here and
    one of the extracted network are the same computation. The active subnet is one attribute.

    Args:
        architecture: rule from configuration to plain network.
        space: the subnets that exist; ``space.largest()`` is active at first.
        growth: ``"preserving"`` initialises the weights with which narrow layers read channels of wider ones with
            zeros, so that opening a width does not change the function of the old subnets' wider twins;
            ``"host"`` keeps the host's initialisation. Kernel rings always start at zero (ProX, section 3.3).

    Raises:
        ValueError: When the architecture does not fit the space.
    """

    def __init__(self, architecture: Architecture, space: SearchSpace, *, growth: Growth = "preserving") -> None:
        super().__init__()
        if architecture.sections != space.sections:
            raise ValueError(
                f"the search space has {space.sections} sections, the architecture {architecture.sections}."
            )
        self.architecture = architecture
        self.growth: Growth = growth
        self._allocate(space)
        self._initialise()

    # ------------------------------------------------------------------ the active subnet

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
        self._set_mode(skeleton.network)
        tensors = self._corners(skeleton) | self._buffer_views(skeleton)
        network = partial(functional_call, skeleton.network, tensors, strict=True)
        return at_resolution(lambda data: network((data,)), x, self.architecture.stride, self._active.resolution)

    def parameter_shapes(self, config: SubnetConfig) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter of a subnet."""
        return {name: extent.shape for name, extent in self._skeleton(config).parameters.items()}

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
        skeleton = _build_skeleton(self.architecture, config)
        corners = self._parameter_corners(skeleton, Freeze())
        for name, tensor in (corners | self._buffer_views(skeleton)).items():
            _assign(skeleton.network, name, tensor.detach().clone(memory_format=torch.contiguous_format))
        network = skeleton.network
        if config.resolution != 1:
            network = AtResolution(network, self.architecture.stride, config.resolution)
        return network.train(self.training)

    @torch.no_grad()
    def absorb(self, config: SubnetConfig, network: nn.Module) -> None:
        """Write a plain network's tensors into the corner that the subnet fills; the inverse of ``extract``.

        Raises:
            ValueError: When the subnet is not in the search space, or a tensor is missing or has another shape.
        """
        self.space.check(config)
        skeleton = self._skeleton(config)
        state = dict(network.named_parameters()) | dict(network.named_buffers())
        for name, extent in (skeleton.parameters | skeleton.buffers).items():
            if name not in state or tuple(state[name].shape) != extent.shape:
                found = tuple(state[name].shape) if name in state else "none"
                raise ValueError(f"{name} has shape {extent.shape} in {config}, but {found} was given.")
        for name, extent in skeleton.parameters.items():
            self._shells(name).write(extent, state[name])
        for name, view in self._buffer_views(skeleton).items():
            view.copy_(state[name])

    @torch.no_grad()
    def grow(self, space: SearchSpace) -> Supernet:
        """Return a supernet of a larger space in which every old subnet gives the same output.

        Raises:
            ValueError: When the new space lacks a subnet of the old one.
        """
        space.check_includes(self.space)
        largest = self.space.largest()
        grown = Supernet(self.architecture, space, growth=self.growth).to(self._like)
        grown.absorb(largest, _without_resolution(self.extract(largest)))
        grown.activate(self._active)
        return grown.train(self.training)

    # ------------------------------------------------------------------ state

    def get_extra_state(self) -> Tensor:
        """Encode space and active subnet as bytes of fixed length, so that a state dict describes itself."""
        return encode_state(self.space, self._active)

    def set_extra_state(self, state: Tensor) -> None:
        """Activate the subnet that was active when the state was saved."""
        self.activate(SubnetConfig.from_dict(describe_state(state)["active"]))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False):
        """Load a state dict; the supernet first takes on the search space that the state describes."""
        if "_extra_state" in state_dict:
            space = SearchSpace.from_dict(describe_state(state_dict["_extra_state"])["space"])
            if space != self.space:
                like, training = self._like, self.training
                self._allocate(space)
                self.to(like).train(training)
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "architecture":
            self.__dict__["_skeletons"] = {}
        super().__setattr__(name, value)

    # ------------------------------------------------------------------ corners

    def _corners(self, skeleton: _Skeleton) -> dict[str, Tensor]:
        """Assemble the active corners: at every forward in training, once in evaluation.

        Fused optimizers change tensors without raising their version, so what is kept never outlives a forward
        with gradients or a change of mode, and nothing is kept while gradients wait for an optimizer.
        """
        waiting = any(parameter.grad is not None for parameter in self.tensors.parameters())
        if self.training or torch.is_grad_enabled() or waiting:
            self._assembled = None
            return self._parameter_corners(skeleton, self._freeze)
        stamp = (self._active, [(p.data_ptr(), p._version) for p in self.tensors.parameters()])
        if self._assembled is None or self._assembled[0] != stamp:
            self._assembled = stamp, self._parameter_corners(skeleton, Freeze())
        return self._assembled[1]

    def _parameter_corners(self, skeleton: _Skeleton, freeze: Freeze) -> dict[str, Tensor]:
        prefixes = self._frozen_prefixes(freeze)
        return {
            name: self._shells(name).corner(
                extent, frozen=name.startswith(prefixes), frozen_kernel=freeze.kernel
            )
            for name, extent in skeleton.parameters.items()
        }

    def _buffer_views(self, skeleton: _Skeleton) -> dict[str, Tensor]:
        """Leading entries of the shared buffers; what training writes into them is shared."""
        return {
            name: self.get_buffer(_key(name))[tuple(slice(n) for n in extent.shape)]
            for name, extent in skeleton.buffers.items()
        }

    def _set_mode(self, network: nn.Module) -> None:
        prefixes = self._frozen_prefixes(self._freeze)
        if network.training != self.training or prefixes or getattr(network, "_partly_frozen", False):
            network.train(self.training)
            for name, module in network.named_modules():
                if f"{name}.".startswith(prefixes):
                    module.eval()
            network._partly_frozen = bool(prefixes)

    def _frozen_prefixes(self, freeze: Freeze) -> tuple[str, ...]:
        return tuple(self.architecture.block_prefix(section, block) for section, block in sorted(freeze.blocks))

    def _shells(self, name: str) -> ShellTensor:
        return self.tensors[_key(name)]

    def _skeleton(self, config: SubnetConfig) -> _Skeleton:
        if config not in self._skeletons:
            if len(self._skeletons) >= _CACHED_SKELETONS:
                del self._skeletons[next(iter(self._skeletons))]
            self._skeletons[config] = _build_skeleton(self.architecture, config)
        return self._skeletons[config]

    @property
    def _like(self) -> Tensor:
        """A tensor of the device and the type of the shared tensors."""
        return next(self.tensors.parameters())

    # ------------------------------------------------------------------ allocation

    def _allocate(self, space: SearchSpace) -> None:
        """Create zero cells for every candidate of the space."""
        largest = space.largest()
        probes = [_uniform(space, width=width) for width in space.width]
        probes += [_uniform(space, kernel=kernel) for kernel in space.kernel]
        skeletons = [_build_skeleton(self.architecture, probe) for probe in probes]
        self.space, self._active, self._freeze = space, largest, Freeze()
        self._skeletons: dict[SubnetConfig, _Skeleton] = {}
        self._assembled: tuple[Any, dict[str, Tensor]] | None = None
        self.tensors = nn.ModuleDict()
        for name in skeletons[-1].parameters:
            self.tensors[_key(name)] = ShellTensor(_grid(name, skeletons))
        for name, buffer in _build_skeleton(self.architecture, largest).network.named_buffers():
            self.register_buffer(_key(name), torch.zeros_like(buffer, device="cpu"))

    @torch.no_grad()
    def _initialise(self) -> None:
        """Initialise as the host does, each width on its own, so that every layer is scaled to its own fan-in."""
        filled: dict[str, tuple[int, int, int]] = {}
        for width in self.space.width:
            config = _uniform(self.space, width=width, kernel=self.space.kernel[0])
            network = self.architecture.build(config)
            for name, extent in _build_skeleton(self.architecture, config).parameters.items():
                self._open(name, extent, network, filled.get(name))
                filled[name] = self._shells(name).grid.locate(extent)
        for name, buffer in network.named_buffers():
            self.get_buffer(_key(name)).copy_(buffer)

    def _open(self, name: str, extent: Extent, network: nn.Module, opened: tuple[int, int, int] | None) -> None:
        """Fill the cells that a width adds to what is ``opened``."""
        shells, parameter = self._shells(name), network.get_parameter(name)
        module = network.get_submodule(name.rpartition(".")[0])
        reads, writes = (0, 1) if isinstance(module, _ConvTransposeNd) else (1, 0)
        for cell in shells.grid.cells(shells.grid.locate(extent)):
            if opened is not None and all(i <= o for i, o in zip(cell, opened, strict=True)):
                continue
            shells.write(extent, parameter, only=cell)
            consumes = opened is not None and cell[reads] > opened[reads] and cell[writes] <= opened[writes]
            if consumes and extent.ndim > 1 and self.growth == "preserving":
                shells.cell(cell).zero_()


def encode_state(space: SearchSpace, active: SubnetConfig) -> Tensor:
    """Encode a space and the active subnet in it as the extra state of a supernet.

    Raises:
        ValueError: When the space has too many sections for it.
    """
    encoded = json.dumps({"space": space.to_dict(), "active": active.to_dict()}, separators=(",", ":")).encode()
    if len(encoded) > _EXTRA_STATE_BYTES:
        raise ValueError(f"the search space takes {len(encoded)} bytes of {_EXTRA_STATE_BYTES}; use fewer sections.")
    return torch.frombuffer(bytearray(encoded.ljust(_EXTRA_STATE_BYTES)), dtype=torch.uint8)


def describe_state(extra_state: Tensor) -> dict[str, Any]:
    """Decode the extra state of a supernet: its ``space`` and ``active`` subnet.

    Raises:
        ValueError: When the bytes are not a supernet's extra state.
    """
    try:
        return json.loads(bytes(extra_state.cpu().tolist()))
    except (ValueError, TypeError, AttributeError):
        raise ValueError("the extra state is not that of a prox_monai supernet.") from None


class _WithoutRandomInit(TorchFunctionMode):
    """Skip random initialisation: on the meta device it fills nothing, yet takes most of the time of a build."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return function(*args, **(kwargs or {}))


def _build_skeleton(architecture: Architecture, config: SubnetConfig) -> _Skeleton:
    with torch.device("meta"), _WithoutRandomInit():
        network = architecture.build(config)
    concatenated = architecture.concatenated(config)
    extents = {
        name: Extent.of(tensor.shape, concatenated.get(name))
        for name, tensor in (*network.named_parameters(), *network.named_buffers())
    }
    buffers = {name: extents.pop(name) for name, _ in network.named_buffers()}
    if joined := sorted(concatenated.keys() & buffers.keys()):
        raise ValueError(f"normalisation statistics of concatenated inputs are not supported: {joined[0]}.")
    return _Skeleton(network, extents, buffers)


def _grid(name: str, skeletons: list[_Skeleton]) -> Grid:
    try:
        return Grid.spanning([skeleton.parameters[name] for skeleton in skeletons])
    except (KeyError, ValueError) as error:
        raise ValueError(f"the networks of this architecture do not nest: {name}: {error}") from error


def _uniform(space: SearchSpace, *, width: float | None = None, kernel: int | None = None) -> SubnetConfig:
    """A deepest network with the same width and kernel everywhere, the largest unless given."""
    return SubnetConfig.uniform(
        space.sections, depth=space.depth[-1], width=width or space.width[-1], kernel=kernel or space.kernel[-1]
    )


def _without_resolution(network: nn.Module) -> nn.Module:
    return network.network if isinstance(network, AtResolution) else network


def _assign(network: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = network.get_submodule(path)
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(tensor)
    else:
        module._buffers[leaf] = tensor


def _key(name: str) -> str:
    return name.replace(".", "/")
