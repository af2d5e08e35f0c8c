"""One subnet as an immutable value."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from typing import Any


class Dimension(StrEnum):
    """What can be elastic, in the order of ProX's stages (ProX, section 3)."""

    DEPTH = "depth"
    WIDTH = "width"
    KERNEL = "kernel"
    RESOLUTION = "resolution"


_ALLOWED = {
    Dimension.DEPTH: "an integer >= 1",
    Dimension.WIDTH: "a number > 0",
    Dimension.KERNEL: "an odd integer >= 1",
    Dimension.RESOLUTION: "a number > 0 and <= 1",
}

_NUMBER = r"(?:[0-9]+|[0-9]*\.[0-9]+)"
_NAME = re.compile(
    r"d(?P<depth>[0-9]+(?:\.[0-9]+)*)"
    rf"-w(?P<width>{_NUMBER}(?:_{_NUMBER})*)"
    r"-k(?P<kernel>[0-9]+(?:\.[0-9]+)*)"
    rf"-r(?P<resolution>{_NUMBER})"
)


def is_integer(value: object) -> bool:
    """Whether a value is an integer and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_value(dimension: Dimension, value: Any) -> float:
    """Return a value of a dimension: an int for depth and kernel, a float for width and resolution.

    Raises:
        ValueError: When the dimension does not allow the value, its type included.
    """
    if dimension in (Dimension.DEPTH, Dimension.KERNEL):
        valid = is_integer(value) and value >= 1 and (dimension is Dimension.DEPTH or value % 2 == 1)
    else:
        limit = 1 if dimension is Dimension.RESOLUTION else math.nextafter(math.inf, 0)
        valid = (is_integer(value) or isinstance(value, float)) and 0 < value <= limit
    if not valid:
        raise ValueError(f"{dimension} must be {_ALLOWED[dimension]}, got {value!r}.")
    return int(value) if dimension in (Dimension.DEPTH, Dimension.KERNEL) else float(value)


def check_fields(what: str, data: object, required: Collection[str], optional: Collection[str] = ()) -> None:
    """Check that a mapping read from JSON has the expected fields.

    Raises:
        ValueError: When ``data`` is no mapping, a required field is missing, or a field is unknown.
    """
    fields = ", ".join([*required, *optional])
    if not isinstance(data, Mapping):
        raise ValueError(f"{what} must be a mapping with the fields {fields}, got {data!r}.")
    for field in required:
        if field not in data:
            raise ValueError(f"{what} lacks the field '{field}'; its fields are {fields}.")
    for field in data:
        if field not in required and field not in optional:
            raise ValueError(f"{what} has no field {field!r}; its fields are {fields}.")


@dataclass(frozen=True, slots=True, order=True)
class SectionConfig:
    """One section of a subnet.

    Args:
        depth: number of active blocks.
        width: multiplier of the planned channels, or a family's expansion ratio.
        kernel: edge length of the convolutions in voxels, odd.

    Raises:
        ValueError: When a value is not allowed.
    """

    depth: int
    width: float
    kernel: int

    def __post_init__(self) -> None:
        for dimension in (Dimension.DEPTH, Dimension.WIDTH, Dimension.KERNEL):
            object.__setattr__(self, dimension, check_value(dimension, getattr(self, dimension)))


@dataclass(frozen=True, slots=True, order=True)
class SubnetConfig:
    """One subnet of a supernet: its sections in the order they run, and the resolution it runs at.

    Args:
        sections: at least one section.
        resolution: fraction of the native patch, in (0, 1].

    Raises:
        ValueError: When there is no section, or ``resolution`` is not allowed.
    """

    sections: tuple[SectionConfig, ...]
    resolution: float = 1.0

    def __post_init__(self) -> None:
        sections = self.sections
        if not (
            isinstance(sections, tuple | list)
            and sections
            and all(isinstance(section, SectionConfig) for section in sections)
        ):
            raise ValueError(f"sections must be a non-empty tuple of SectionConfig, got {sections!r}.")
        object.__setattr__(self, "sections", tuple(sections))
        object.__setattr__(self, "resolution", check_value(Dimension.RESOLUTION, self.resolution))

    @classmethod
    def uniform(cls, sections: int, depth: int, width: float, kernel: int, resolution: float = 1.0) -> SubnetConfig:
        """Return a subnet of ``sections`` equal sections."""
        return cls((SectionConfig(depth, width, kernel),) * sections, resolution)

    def at_depth(self, depth: int) -> SubnetConfig:
        """Return the subnet with another depth, the same in all sections."""
        return replace(self, sections=tuple(replace(section, depth=depth) for section in self.sections))

    @property
    def depths(self) -> tuple[int, ...]:
        """The active blocks of each section."""
        return tuple(section.depth for section in self.sections)

    @property
    def widths(self) -> tuple[float, ...]:
        """The width multiplier of each section."""
        return tuple(section.width for section in self.sections)

    @property
    def kernels(self) -> tuple[int, ...]:
        """The kernel size of each section, in voxels."""
        return tuple(section.kernel for section in self.sections)

    @property
    def name(self) -> str:
        """The subnet in files and on the command line, such as ``d2.2.1-w.5-k3.5.3-r.8``; exact."""
        depths, widths = _joined(".", self.depths), _joined("_", self.widths)
        return f"d{depths}-w{widths}-k{_joined('.', self.kernels)}-r{_short(self.resolution)}"

    def __str__(self) -> str:
        return self.name

    @classmethod
    def from_name(cls, name: str, sections: int) -> SubnetConfig:
        """Return the subnet that a name says, the inverse of :attr:`name`.

        Args:
            name: depths, widths, kernels and resolution; a single value stands for all sections.
            sections: number of sections of the subnet.

        Raises:
            ValueError: When the name is malformed, has another number of sections, or says a value that is
                not allowed.
        """
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(
                f"subnet name {name!r} must have the form 'd2.1-w.5_1-k3-r.8': depths, widths, kernels, "
                "resolution; a single value stands for all sections."
            )
        columns = {
            "depth": [int(text) for text in match["depth"].split(".")],
            "width": [float(text) for text in match["width"].split("_")],
            "kernel": [int(text) for text in match["kernel"].split(".")],
        }
        for field, values in columns.items():
            if len(values) not in (1, sections):
                raise ValueError(
                    f"{field} of subnet name {name!r} must have 1 or {sections} values, got {len(values)}."
                )
        rows = zip(*(v if len(v) == sections else v * sections for v in columns.values()), strict=True)
        return cls(tuple(SectionConfig(*row) for row in rows), float(match["resolution"]))

    def to_dict(self) -> dict[str, Any]:
        """Return the subnet as JSON primitives: a list per section dimension, and the resolution."""
        return {
            "depth": list(self.depths),
            "width": list(self.widths),
            "kernel": list(self.kernels),
            "resolution": self.resolution,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SubnetConfig:
        """Return the subnet of :meth:`to_dict`.

        Raises:
            ValueError: When a field is missing, unknown or not allowed, or the lists differ in length.
        """
        check_fields("subnet", data, tuple(Dimension))
        columns = [data[field] for field in ("depth", "width", "kernel")]
        if not all(isinstance(column, tuple | list) and len(column) == len(columns[0]) for column in columns):
            raise ValueError(
                "depth, width and kernel of a subnet must be lists with one value per section, "
                f"got {columns[0]!r}, {columns[1]!r} and {columns[2]!r}."
            )
        rows = zip(*columns, strict=True)
        return cls(tuple(SectionConfig(*row) for row in rows), data["resolution"])


def _joined(separator: str, values: tuple[float, ...]) -> str:
    return separator.join(_short(value) for value in (values if len(set(values)) > 1 else values[:1]))


def _short(value: float) -> str:
    """Write a number as ``%g`` does, without a leading zero or an exponent, in as many digits as it has."""
    text = f"{Decimal(repr(value)):f}".lstrip("0")
    return text.rstrip("0").rstrip(".") if "." in text else text
