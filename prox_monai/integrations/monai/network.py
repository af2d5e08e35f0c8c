"""A bundle's ``network_def``: a supernet that runs the subnet it was told to run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from prox_monai.elastic import Architecture, Freeze, Supernet
from prox_monai.elastic.resolution import without_resolution
from prox_monai.elastic.skeleton import Skeleton
from prox_monai.evaluation.single_image import OneImage
from prox_monai.evaluation.subnets import read_rows
from prox_monai.integrations.monai.choice import best_within
from prox_monai.integrations.monai.statistics import digest, read_statistics
from prox_monai.space import SearchSpace, SubnetConfig


class SubnetNetwork(Supernet):
    """A supernet for hosts that build a network, load weights and run it, such as MONAI Label: no handler is needed.

    Its state dict is a supernet's. Whatever subnet was active when that was saved, this one runs its own choice.

    Args:
        architecture: rule from configuration to plain network.
        space: the subnets that exist; a loaded state brings its own.
        subnet: name of the subnet to run, any of the space; ``smallest``, ``largest``, or an alias that only ``table``
            knows, as ``middle``.
        max_latency_ms: run the best subnet known within this budget instead, in milliseconds; 0 or None: no budget.
        table: JSON lines of known subnets; needed for the budget.
        statistics: file of the normalisation statistics of subnets, which networks with BatchNorm need: those of the
            supernet mix all subnets. Both files are written by ``SubnetSamplingHandler``.

    Raises:
        ValueError: When there is no such subnet, none within the budget, or the budget comes without a table.
    """

    def __init__(
        self,
        architecture: Architecture,
        space: SearchSpace,
        *,
        subnet: str = "largest",
        max_latency_ms: float | None = None,
        table: str | Path | None = None,
        statistics: str | Path | None = None,
    ) -> None:
        super().__init__(architecture, space)
        self._rows = read_rows(table) if table else []
        self._statistics_file = statistics
        self._statistics: Mapping[SubnetConfig, Mapping[str, Tensor]] = {}
        self._on_device: tuple[Mapping[str, Tensor], torch.device, dict[str, Tensor]] | None = None
        self._model: str | None = None
        self.choose(subnet, max_latency_ms)

    def choose(self, subnet: str = "largest", max_latency_ms: float | None = None) -> SubnetConfig:
        """Run this subnet from now on, and return it.

        Raises:
            ValueError: When there is no such subnet, none within the budget, or it lacks normalisation statistics.
        """
        if max_latency_ms:
            row = best_within(self._known(), max_latency_ms)
            name, config = row["key"], SubnetConfig.from_dict(row["config"])
        else:
            name, config = subnet, self._find(subnet)
        normalised = next(self.buffers(), None) is not None
        if self._model is not None and normalised and self._own_statistics(config) is None:
            raise ValueError(
                f"subnet {name} has no normalisation statistics of its own in {self._statistics_file}; evaluate it "
                f"first, so that they are estimated on training images (configs/search.json of a bundle does)."
            )
        self.asked = (subnet, max_latency_ms)
        if self._model is None and max_latency_ms and config not in self.space:
            return config  # of the space that the weights will bring
        self.activate(config)
        self._prepare()
        return config

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False):
        """Load a supernet's state dict, then run this network's own choice.

        Raises:
            ValueError: As :meth:`choose`; known subnets and statistics of other weights do not count.
        """
        result = super().load_state_dict(state_dict, strict=strict, assign=assign)
        self._model = digest(self)
        if self._statistics_file is not None:
            self._statistics = read_statistics(self._statistics_file, self._model)
        self.choose(*self.asked)
        return result

    def extract(self, config: SubnetConfig) -> nn.Module:
        """Copy a subnet out as a plain network, with normalisation statistics of its own where they are known.

        Raises:
            ValueError: When the subnet is not in the search space.
        """
        network = super().extract(config)
        own = self._own_statistics(config) or {}
        for name, buffer in without_resolution(network).named_buffers():
            buffer.copy_(own.get(name, buffer))
        return network

    def _known(self) -> list[dict[str, Any]]:
        """Rows of the table; once weights are loaded, of these."""
        return [row for row in self._rows if self._model in (None, row["model"])]

    def _find(self, name: str) -> SubnetConfig:
        """The subnet of a name; one that only the table knows, as ``middle``, is that of its row."""
        try:
            return self.space.parse(name)
        except ValueError as error:
            rows = [row for row in self._known() if name in (row["name"], row["key"])]
            if not rows:
                raise ValueError(f"{error} Others, as middle, are known once they were searched.") from error
            return SubnetConfig.from_dict(rows[-1]["config"])

    def _own_statistics(self, config: SubnetConfig) -> Mapping[str, Tensor] | None:
        return self._statistics.get(self.architecture.canonical(config)) if self._statistics else None

    def forward(self, x: Tensor) -> Any:
        """Run the chosen subnet on an input of shape ``(B, C, *spatial)``, whose axes are multiples of the stride.

        One image on a CPU is computed by oneDNN (:class:`OneImage`).
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().forward(x)
        with OneImage.where_needed(x.device):
            return super().forward(x)

    @torch.no_grad()
    def _prepare(self) -> None:
        """Build and look up ahead what a forward pass keeps, which a trace of it must not record."""
        self._parameter_corners(self._skeleton(self.active), Freeze())

    def _corners(self, skeleton: Skeleton) -> dict[str, Tensor]:
        if _recorded():  # corners that are kept would be constants
            return self._parameter_corners(skeleton, Freeze())
        return super()._corners(skeleton)

    def _buffer_views(self, skeleton: Skeleton) -> dict[str, Tensor]:
        own = self._own_statistics(self.active)
        if self.training or own is None or self._skeleton(self.active) is not skeleton:
            return super()._buffer_views(skeleton)
        device = self._like.device
        if _recorded():
            return _moved(own, device)
        if self._on_device is None or self._on_device[0] is not own or self._on_device[1] != device:
            self._on_device = own, device, _moved(own, device)
        return self._on_device[2]


def _moved(buffers: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: buffer.to(device) for name, buffer in buffers.items()}


def _recorded() -> bool:
    """Whether this forward pass is traced or compiled."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


class SubnetInferer(Inferer):
    """Choose the subnet at every call, then infer: for hosts that rebuild the inferer but keep the network.

    One call at a time: the subnet that runs is a state of the network, which several threads must not share.

    Args:
        inferer: how to infer, for example a ``SlidingWindowInferer``.
        subnet: name of the subnet that a :class:`SubnetNetwork` is to run.
        max_latency_ms: run the best subnet known within this budget instead, in milliseconds; 0 or None: no budget.

    Raises:
        ValueError: When called with a network that has no such subnet.
    """

    def __init__(self, inferer: Inferer, subnet: str = "largest", max_latency_ms: float | None = None) -> None:
        super().__init__()
        self.inferer = inferer
        self.asked = (subnet, max_latency_ms)

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Infer with the subnet; a network that is no :class:`SubnetNetwork` is run as it is."""
        supernet = network.module if isinstance(network, DistributedDataParallel) else network
        if isinstance(supernet, SubnetNetwork) and supernet.asked != self.asked:
            supernet.choose(*self.asked)
        return self.inferer(inputs, network, *args, **kwargs)
