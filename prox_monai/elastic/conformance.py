"""The promises of an architecture as checks that third parties run on theirs."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prox_monai.elastic.architecture import Architecture, ReorderableArchitecture
from prox_monai.elastic.reorder import channel_importance, permute_channels
from prox_monai.elastic.resolution import without_resolution
from prox_monai.elastic.shells import Extent, Grid
from prox_monai.elastic.supernet import Supernet
from prox_monai.space import Dimension, SearchSpace, SubnetConfig

_RANDOM_SUBNETS = 8
_LEAST_VOXELS = 8


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is checked, and the plain networks (without data) of the subnets it is checked on."""

    architecture: Architecture
    space: SearchSpace
    networks: dict[SubnetConfig, nn.Module]

    @property
    def largest(self) -> nn.Module:
        return self.networks[self.space.largest()]


def check_architecture(
    architecture: Architecture, space: SearchSpace, *, input_size: Sequence[int] | None = None
) -> None:
    """Check on some subnets of a space that an architecture keeps the promises of :class:`Architecture`.

    Args:
        architecture: rule from configuration to plain network.
        space: checked are its smallest and largest subnet, those with one dimension at its largest, and
            random ones.
        input_size: ``(C, *spatial)`` of the input that networks are run on; by default the input channels of
            the first weight, and about the smallest size of at least 8 voxels per axis that suits them.

    Raises:
        ValueError: When a promise is broken; the message says which one, and by what.
    """
    _check_value(architecture)
    _check_sections(architecture, space)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        subject = _Subject(architecture, space, _build_all(architecture, space))
        for check in (_check_concatenated, _check_nesting, _check_blocks, _check_canonical):
            check(subject)
        supernet = _randomised_supernet(subject)
        x = torch.randn(2, *(input_size or _input_size(subject)))
        for check_run in (_check_outputs, _check_backward, _check_depth, _check_kernels, _check_channel_groups):
            check_run(subject, supernet, x)


def _check_value(architecture: Architecture) -> None:
    if not isinstance(architecture, Architecture):
        promised = sorted(name for name in vars(Architecture) if not name.startswith("_"))
        missing = ", ".join(name for name in promised if not hasattr(architecture, name))
        raise ValueError(f"{architecture!r} is no architecture; it lacks {missing}.")
    kind = type(architecture)
    if not dataclasses.is_dataclass(architecture) or not kind.__dataclass_params__.frozen:
        raise ValueError(f"{kind.__name__} must be a frozen dataclass.")
    with _explaining(f"{kind.__name__} must be hashable"):
        hash(architecture)
    if dataclasses.replace(architecture) != architecture:
        raise ValueError(f"{kind.__name__} rebuilt from its fields must equal itself.")


def _check_sections(architecture: Architecture, space: SearchSpace) -> None:
    if architecture.sections != space.sections:
        raise ValueError(f"the architecture has {architecture.sections} sections, the search space {space.sections}.")
    if len(architecture.stride) != architecture.spatial_dims:
        raise ValueError(f"stride {architecture.stride} must have {architecture.spatial_dims} spatial axes.")


def _build_all(architecture: Architecture, space: SearchSpace) -> dict[SubnetConfig, nn.Module]:
    rng = random.Random(0)
    configs = [space.smallest(), space.largest()]
    configs += [space.restrict(**{d: space.candidates(d)[-1:]}).smallest() for d in Dimension]
    configs += [space.sample(rng) for _ in range(_RANDOM_SUBNETS)]
    return {config: _build_on_meta(architecture, config) for config in configs}


def _build_on_meta(architecture: Architecture, config: SubnetConfig) -> nn.Module:
    with _explaining(f'build({config}) fails under torch.device("meta")'), torch.device("meta"):
        network = architecture.build(config)
    for name, tensor in _tensors(network).items():
        if not tensor.is_meta:
            raise ValueError(f'build({config}) puts {name} on {tensor.device} under torch.device("meta").')
    return network


def _check_concatenated(subject: _Subject) -> None:
    for config, network in subject.networks.items():
        tensors = _tensors(network)
        for name, channels in subject.architecture.concatenated(config).items():
            if name not in tensors:
                raise ValueError(f"concatenated({config}) names {name}, which that network does not have.")
            with _explaining(f"concatenated({config}) of {name}"):
                Extent.of(tensors[name].shape, channels)


def _check_nesting(subject: _Subject) -> None:
    """Names and shapes of every subnet nest in the largest's."""
    largest = _extents(subject, subject.space.largest())
    for config in subject.networks:
        for name, extent in _extents(subject, config).items():
            if name not in largest:
                raise ValueError(f"{name} of {config} is not in the largest network.")
            with _explaining(f"{name} of {config} does not nest in the largest network's"):
                Grid.spanning([extent, largest[name]])
                if any(n > m for n, m in zip(extent.block_shape, largest[name].block_shape, strict=True)):
                    raise ValueError(f"shape {extent.shape} exceeds {largest[name].shape}.")


def _check_blocks(subject: _Subject) -> None:
    """Block prefixes are disjoint and name the blocks that a subnet's depths say, no more and no fewer."""
    depths = subject.space.largest().depths
    blocks = [(section, block) for section, depth in enumerate(depths) for block in range(depth)]
    prefixes = {place: subject.architecture.block_prefix(*place) for place in blocks}
    for name in _tensors(subject.largest):
        owners = [place for place, prefix in prefixes.items() if name.startswith(prefix)]
        if len(owners) > 1:
            raise ValueError(f"block_prefix{owners[0]} and block_prefix{owners[1]} both match {name}.")
    for config, network in subject.networks.items():
        for (section, block), prefix in prefixes.items():
            exists = any(name.startswith(prefix) for name in _tensors(network))
            if exists != (block < config.depths[section]):
                found = "matches a tensor" if exists else "matches no tensor"
                raise ValueError(f"block_prefix({section}, {block}) = {prefix!r} {found} of {config}.")


def _check_canonical(subject: _Subject) -> None:
    """Equal networks have equal canonical configurations, different networks different ones."""
    rng, space, canonical_of = random.Random(0), subject.space, subject.architecture.canonical
    networks = dict(subject.networks)
    for config in subject.networks:
        variant = space.mutate(config, rng, 1 / space.sections)
        networks[variant] = _build_on_meta(subject.architecture, variant)
    seen: dict[object, tuple[SubnetConfig, SubnetConfig]] = {}
    for config, network in networks.items():
        canonical = canonical_of(config)
        if (again := canonical_of(canonical)) != canonical:
            raise ValueError(f"canonical is not idempotent: {config} becomes {canonical}, which becomes {again}.")
        identity = _identity(network, config)
        if _identity(_build_on_meta(subject.architecture, canonical), canonical) != identity:
            raise ValueError(f"canonical({config}) = {canonical} is another network.")
        other, name = seen.setdefault(identity, (config, canonical))
        if name != canonical:
            raise ValueError(f"{config} and {other} are one network, but canonical gives {canonical} and {name}.")


def _randomised_supernet(subject: _Subject) -> Supernet:
    """A supernet in evaluation mode whose kernel rings and late channels are not zero."""
    with _explaining("the search space's uniform widths and kernels do not span the networks"):
        supernet = Supernet(subject.architecture, subject.space, growth="host").eval()
        for config in subject.networks:
            supernet.extract(config)
    for ring in _rings(supernet):
        nn.init.normal_(ring, std=0.01)
    return supernet


def _input_size(subject: _Subject) -> tuple[int, ...]:
    first = next(parameter for parameter in subject.largest.parameters() if parameter.ndim > 1)
    size = [s * math.ceil(_LEAST_VOXELS / s) for s in subject.architecture.stride]
    size[-1] *= math.ceil(2 / subject.space.resolution[0])
    return first.shape[1], *size


def _check_outputs(subject: _Subject, supernet: Supernet, x: Tensor) -> None:
    """The supernet, the extracted network and a loaded one give the same output, bitwise."""
    for config in subject.networks:
        supernet.activate(config)
        extracted = supernet.extract(config)
        with _explaining(f"forward of {config} fails"), torch.no_grad():
            ours, theirs = supernet(x), extracted(x)
        if not _equal(ours, theirs):
            raise ValueError(f"{config} as a part of the supernet and extracted give different outputs.")
        inner = extracted if config.resolution == 1 else extracted.network
        loaded = subject.architecture.build(config).eval()
        with _explaining(f"build({config}) does not take the tensors of the extracted network"):
            loaded.load_state_dict(inner.state_dict())
        with torch.no_grad():
            if not _equal(inner(x), loaded(x)):
                raise ValueError(f'{config} built under torch.device("meta") computes something else.')


def _check_backward(subject: _Subject, supernet: Supernet, x: Tensor) -> None:
    supernet.train()
    for config in (subject.space.smallest(), subject.space.largest()):
        supernet.activate(config)
        with _explaining(f"backward of {config} fails (is there activation checkpointing in the network?)"):
            torch.stack([output.square().mean() for output in _as_list(supernet(x))]).sum().backward()
    supernet.eval().zero_grad()


@torch.no_grad()
def _check_depth(subject: _Subject, supernet: Supernet, x: Tensor) -> None:
    """Opening a depth changes no subnet of a smaller one."""
    depths = subject.space.depth
    for shallow, deep in itertools.pairwise(depths):
        supernet.activate(subject.space.restrict(depth=(shallow,)).largest())
        before = supernet(x)
        with _explaining(f"continue_depth fails to open depth {deep}"):
            supernet.open_depth(deep)
        if not _equal(supernet(x), before):
            raise ValueError(f"continue_depth changes subnets of depth {shallow} when depth {deep} is opened.")


@torch.no_grad()
def _check_kernels(subject: _Subject, supernet: Supernet, x: Tensor) -> None:
    """A larger kernel with a zero ring is the same function (ProX, section 3.3)."""
    supernet.double()
    for ring in _rings(supernet):
        ring.zero_()
    kernels = subject.space.kernel
    outputs = []
    for kernel in kernels:
        supernet.activate(subject.space.restrict(kernel=(kernel,)).largest())
        outputs.append(_as_list(supernet(x.double())))
        for ours, theirs in zip(outputs[-1], outputs[0], strict=True):
            if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-9, atol=1e-9):
                raise ValueError(f"kernel {kernel} with a zero ring is another function than {kernels[0]}.")


@torch.no_grad()
def _check_channel_groups(subject: _Subject, supernet: Supernet, x: Tensor) -> None:
    """The widest networks of all depths are the same functions when channels are in another order."""
    architecture, space, config = subject.architecture, subject.space, subject.space.largest()
    if not isinstance(architecture, ReorderableArchitecture):
        return
    network = without_resolution(supernet.double().extract(config))
    tensors = _tensors(network)
    for prefix in architecture.channel_groups(config):
        if not any(name.startswith(prefix) for name in tensors):
            raise ValueError(f"channel_groups({config}) names {prefix!r}, which matches no tensor of that network.")
    for tensor in tensors.values():
        if tensor.ndim == 1:
            nn.init.uniform_(tensor, 0.5, 1.5)
    with _explaining(f"channel_groups({config}) do not fit that network"):
        sizes = {g: len(norms) for g, norms in channel_importance(architecture, config, network).items()}
        permuted = copy.deepcopy(network)
        permute_channels(architecture, config, permuted, {g: torch.randperm(n) for g, n in sizes.items()})
    outputs = []
    for largest in (network, permuted):
        supernet.absorb(config, largest)
        outputs.append([])
        for depth in space.depth:
            supernet.activate(space.restrict(depth=(depth,)).largest())
            outputs[-1] += _as_list(supernet(x.double()))
    if not all(torch.allclose(ours, theirs, rtol=1e-9, atol=1e-9) for ours, theirs in zip(*outputs, strict=True)):
        raise ValueError("channels in another order, as channel_groups says, are another function.")


@contextlib.contextmanager
def _explaining(what: str) -> Iterator[None]:
    """Turn whatever an architecture raises into an error that says what was asked of it."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{what}: {error}") from error


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.named_parameters()) | dict(network.named_buffers())


def _extents(subject: _Subject, config: SubnetConfig) -> dict[str, Extent]:
    concatenated = subject.architecture.concatenated(config)
    tensors = _tensors(subject.networks[config])
    return {name: Extent.of(tensor.shape, concatenated.get(name)) for name, tensor in tensors.items()}


def _identity(network: nn.Module, config: SubnetConfig) -> object:
    """What two configurations of one network have in common."""
    return config.resolution, frozenset((name, tuple(t.shape)) for name, t in _tensors(network).items())


def _rings(supernet: Supernet) -> Iterator[nn.Parameter]:
    for shells in supernet.tensors.values():
        yield from (shells.cell(cell) for cell in shells.grid.cells() if cell[2] > 0)


def _equal(ours: Tensor | Sequence[Tensor], theirs: Tensor | Sequence[Tensor]) -> bool:
    pairs = zip(_as_list(ours), _as_list(theirs), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def _as_list(outputs: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)
