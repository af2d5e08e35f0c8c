"""What a family of networks must offer so that it can become elastic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from prox_monai.space import SubnetConfig

Moments = tuple[Tensor, Tensor]
"""Mean and standard deviation of each channel, of shape ``(C,)`` each."""

ChannelGroups = Mapping[str, tuple[tuple[str | None, ...], str | None]]


@runtime_checkable
class Architecture(Protocol):
    """A rule that turns a configuration into a plain network.

    Implementations are frozen dataclasses: hashable, compared by value, rebuilt from their fields. The networks
    of two configurations must *nest*: equal tensor names (fewer where a section is shallower), and every tensor
    of the smaller network is the corner of the larger network's tensor of that name (leading channels, centre
    of the kernel). :func:`prox_monai.elastic.check_architecture` tests this.
    """

    @property
    def spatial_dims(self) -> int:
        """Number of spatial dimensions of the input, 2 or 3."""

    @property
    def sections(self) -> int:
        """Number of sections (runs of blocks at one resolution)."""

    @property
    def stride(self) -> tuple[int, ...]:
        """Product of the strides along each spatial axis; input sizes must be multiples of it."""

    def build(self, config: SubnetConfig) -> nn.Module:
        """Build the plain network, initialised as its host does; must work under ``torch.device("meta")``.

        It maps ``(B, C, *spatial)``, whose spatial axes are multiples of :attr:`stride`, to a tensor, or to a list of
        them, one per level of deep supervision. Outputs with spatial axes are images of the input's size or a fraction
        of it.

        Raises:
            ValueError: When the configuration is none of this architecture's.
        """

    def canonical(self, config: SubnetConfig) -> SubnetConfig:
        """Return the one configuration that names this network: equal networks, equal results."""

    def concatenated(self, config: SubnetConfig) -> Mapping[str, tuple[int, ...]]:
        """Map a tensor's name to the channels of each input that is concatenated before it, in order.

        They split axis 1 of a weight (axis 0 of a tensor with one axis).
        """

    def block_prefix(self, section: int, block: int) -> str:
        """Return the prefix of the names of all tensors of one block, with its trailing dot."""

    def continue_depth(self, network: nn.Module, section: int, block: int, moments: Moments | None = None) -> None:
        """Initialise a block (counted from 1) of a built network so that it hardly changes its input.

        ``moments`` are those of its input, where they were measured.
        """


@runtime_checkable
class ReorderableArchitecture(Architecture, Protocol):
    """An architecture that also knows which channels belong together; only re-ordering them asks for it."""

    def channel_groups(self, config: SubnetConfig) -> ChannelGroups:
        """Map the prefix of the names of a module's tensors to the channels that it reads and writes.

        Channels that must be in one order, such as those that the blocks of a section write where any of them may be
        the last, are one group, named by any string. A module reads one group per concatenated input, in order, and
        writes one; None stands for channels whose order is given (images, classes). Weights have an axis for each,
        tensors with one axis follow what is written.
        """
