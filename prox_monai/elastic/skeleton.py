"""Plain networks without data: what they compute and which tensors they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import get_ident

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from prox_monai.elastic.architecture import Architecture
from prox_monai.elastic.shells import Extent
from prox_monai.space import SubnetConfig

Slot = tuple[dict[str, Tensor | None], str, str]


@dataclass(slots=True)
class Skeleton:
    """A plain network on the meta device, and the extents of its tensors by name.

    Args:
        network: the network; a tensor that is registered twice has its first name here.
        parameters: extents of the parameters.
        buffers: extents of the buffers.
        slots: the places of all tensors: the dictionary of a module, the key in it, the name.
    """

    network: nn.Module
    parameters: dict[str, Extent]
    buffers: dict[str, Extent]
    slots: list[Slot]
    _frozen: tuple[str, ...] = field(default=(), init=False)

    def run(self, tensors: Mapping[str, Tensor], x: Tensor) -> Tensor | list[Tensor]:
        """Run the network on tensors that stand in for its own, as ``functional_call(strict=True)`` would.

        That function looks through all modules at every call, which takes longer than a small network's layer; here
        the places are known.
        """
        own = [owner[leaf] for owner, leaf, _ in self.slots]
        try:
            for owner, leaf, name in self.slots:
                owner[leaf] = tensors[name]
            return self.network(x)
        finally:
            for (owner, leaf, _), tensor in zip(self.slots, own, strict=True):
                owner[leaf] = tensor

    def set_mode(self, training: bool, frozen: tuple[str, ...]) -> None:
        """Set training or evaluation mode; blocks with a frozen prefix are always in evaluation mode."""
        if self.network.training == training and self._frozen == frozen:
            return
        self.network.train(training)
        for name, module in self.network.named_modules():
            if f"{name}.".startswith(frozen):
                module.eval()
        self._frozen = frozen

    def fill(self, tensors: Mapping[str, Tensor]) -> nn.Module:
        """Return the network with data of its own; the skeleton is used up."""
        data = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        data |= {name: nn.Parameter(data[name]) for name in self.parameters}
        for owner, leaf, name in self.slots:
            owner[leaf] = data[name]
        return self.network


def build_skeleton(architecture: Architecture, config: SubnetConfig) -> Skeleton:
    """Build the skeleton of a subnet.

    Raises:
        ValueError: When a concatenation does not fit a tensor, or has normalisation statistics.
    """
    with torch.device("meta"), _WithoutInit():
        network = architecture.build(config)
    concatenated = architecture.concatenated(config)
    parameters: dict[str, Extent] = {}
    buffers: dict[str, Extent] = {}
    slots: list[Slot] = []
    names: dict[int, str] = {}
    for path, module in network.named_modules():
        for owner, extents in ((module._parameters, parameters), (module._buffers, buffers)):
            for leaf, tensor in owner.items():
                if tensor is not None:
                    name = names.setdefault(id(tensor), f"{path}.{leaf}" if path else leaf)
                    slots.append((owner, leaf, name))
                    if name not in extents:
                        extents[name] = Extent.of(tensor.shape, concatenated.get(name))
    if joined := sorted(concatenated.keys() & buffers.keys()):
        raise ValueError(f"normalisation statistics of concatenated inputs are not supported: {joined[0]}.")
    return Skeleton(network, parameters, buffers, slots)


class _WithoutInit(TorchFunctionMode):
    """Skip initialisation: on the meta device it fills nothing, yet takes most of the time of a build.

    Torch's own layers call ``reset_parameters`` once their parameters are registered; it is not even begun.
    """

    def __enter__(self) -> _WithoutInit:
        self._layers: list[nn.Module] = []
        self._thread = get_ident()
        self._hook = register_module_parameter_registration_hook(self._skip_reset)
        return super().__enter__()

    def __exit__(self, *exception) -> None:
        super().__exit__(*exception)
        self._hook.remove()
        for layer in self._layers:
            vars(layer).pop("reset_parameters", None)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        fills = getattr(function, "__module__", None) == nn.init.__name__
        if fills or function in (Tensor.normal_, Tensor.uniform_):
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))

    def _skip_reset(self, layer: nn.Module, name: str, parameter: nn.Parameter) -> None:
        # The hook is called for all modules, also those that another thread builds.
        if get_ident() == self._thread and type(layer).__module__.startswith("torch.nn."):
            vars(layer)["reset_parameters"] = _nothing
            self._layers.append(layer)


def _nothing() -> None:
    """What is left of a layer's ``reset_parameters``."""
