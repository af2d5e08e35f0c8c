"""Which subnets exist: sample, enumerate, vary and restrict them."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from prox_monai.space.groups import PER_SECTION, checked_groups
from prox_monai.space.subnet import (
    Dimension,
    SectionConfig,
    SubnetConfig,
    check_fields,
    check_value,
    is_integer,
)


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """The set of subnets that some candidates span; an immutable, hashable value.

    A subnet takes one depth, width and kernel per *choice* and one resolution. By default every section has
    choices of its own; ``groups`` lets sections share one.

    Args:
        sections: number of sections of every subnet.
        depth: candidate depths in blocks, increasing.
        width: candidate width multipliers, increasing; of inverted residuals their expansion ratios.
        kernel: candidate kernel sizes in voxels, odd, increasing.
        resolution: candidate fractions of the native patch, increasing.
        groups: for depth, width and kernel, the index of each section's choice, from 0 without gaps;
            sections with equal indices share a choice.
        pairs: the depths and widths that go together, increasing in both; all do if empty. Sections that share a
            width then share the depth, too. See :meth:`coupled`.

    Raises:
        ValueError: When a field is not as described.
    """

    sections: int
    depth: tuple[int, ...]
    width: tuple[float, ...]
    kernel: tuple[int, ...]
    resolution: tuple[float, ...] = (1.0,)
    # Not hashed: hashes of its keys, which are strings, differ between processes.
    groups: Mapping[Dimension, tuple[int, ...]] = field(default_factory=dict, hash=False)
    pairs: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        if not is_integer(self.sections) or self.sections < 1:
            raise ValueError(f"sections must be an integer >= 1, got {self.sections!r}.")
        for dimension in Dimension:
            object.__setattr__(self, dimension, _checked_candidates(dimension, self.candidates(dimension)))
        object.__setattr__(self, "groups", checked_groups(self.groups, self.sections))
        object.__setattr__(self, "pairs", self._checked_pairs())

    def __reduce__(self) -> tuple[Any, ...]:
        return SearchSpace.from_dict, (self.to_dict(),)

    def candidates(self, dimension: Dimension) -> tuple[Any, ...]:
        """Return the candidates of a dimension, increasing."""
        return getattr(self, dimension)

    def choices(self) -> list[tuple[Any, ...]]:
        """Return the candidates of every choice: depths, widths, kernels in order of their index, resolution.

        Where depth and width are coupled a choice of both takes the place of theirs.
        """
        per_section: dict[Dimension, tuple[Any, ...]] = {d: self.candidates(d) for d in PER_SECTION}
        if self.pairs:
            per_section = {Dimension.WIDTH: self.pairs, Dimension.KERNEL: self.kernel}
        choices = [candidates for d, candidates in per_section.items() for _ in set(self.groups[d])]
        return [*choices, self.resolution]

    def assemble(self, values: Iterable[Any]) -> SubnetConfig:
        """Return the subnet with these values of the choices, in the order of :meth:`choices`."""
        remaining = iter(values)
        columns = []
        for dimension in PER_SECTION[1:] if self.pairs else PER_SECTION:
            indices = self.groups[dimension]
            shared = list(itertools.islice(remaining, max(indices) + 1))
            columns.append([shared[index] for index in indices])
        if self.pairs:
            columns[:1] = zip(*columns[0], strict=True)
        sections = tuple(SectionConfig(*row) for row in zip(*columns, strict=True))
        return SubnetConfig(sections, next(remaining))

    def smallest(self) -> SubnetConfig:
        """Return the subnet with the smallest candidate everywhere."""
        return self.assemble(candidates[0] for candidates in self.choices())

    def largest(self) -> SubnetConfig:
        """Return the subnet with the largest candidate everywhere."""
        return self.assemble(candidates[-1] for candidates in self.choices())

    def sample(self, rng: random.Random) -> SubnetConfig:
        """Return a subnet, all equally probable; one random number is drawn per choice."""
        return self.assemble(_pick(candidates, rng) for candidates in self.choices())

    def mutate(self, config: SubnetConfig, rng: random.Random, p: float) -> SubnetConfig:
        """Return a subnet with every choice drawn anew with probability ``p``.

        Raises:
            ValueError: When ``config`` is not in the space, or ``p`` is not in [0, 1].
        """
        if not 0 <= p <= 1:
            raise ValueError(f"p must be a number in [0, 1], got {p!r}.")
        kept = self._values(config)
        drawn = [(rng.random() < p, _pick(candidates, rng)) for candidates in self.choices()]
        return self.assemble(new if redraw else old for old, (redraw, new) in zip(kept, drawn, strict=True))

    def crossover(self, a: SubnetConfig, b: SubnetConfig, rng: random.Random) -> SubnetConfig:
        """Return a subnet that takes every choice from ``a`` or ``b``, with equal probability.

        Raises:
            ValueError: When ``a`` or ``b`` is not in the space.
        """
        pairs = zip(self._values(a), self._values(b), strict=True)
        return self.assemble(_pick(pair, rng) for pair in pairs)

    def restrict(
        self,
        *,
        depth: Sequence[int] | None = None,
        width: Sequence[float] | None = None,
        kernel: Sequence[int] | None = None,
        resolution: Sequence[float] | None = None,
    ) -> SearchSpace:
        """Return the sub-space of some of the candidates; a dimension left out keeps all of its own.

        Raises:
            ValueError: When candidates are not valid, or not candidates of this space.
        """
        given = zip(Dimension, (depth, width, kernel, resolution), strict=True)
        chosen = {dimension: values for dimension, values in given if values is not None}
        if self.pairs:
            chosen |= self._paired(chosen.get(Dimension.DEPTH, self.depth), chosen.get(Dimension.WIDTH, self.width))
        restricted = replace(self, **chosen)
        for dimension in Dimension:
            for value in restricted.candidates(dimension):
                if value not in self.candidates(dimension):
                    raise ValueError(f"{dimension} {value} is not in the search space {self.candidates(dimension)}.")
        return restricted

    def coupled(self) -> SearchSpace:
        """Return the sub-space in which a section that is deeper is wider, too.

        Depth and width go up together, one candidate after the other; where there are fewer of one, each of them
        goes with several of the other (Sahni et al., "CompOFA", ICLR 2021, section 3).
        """
        count = max(len(self.depth), len(self.width))
        pairs = (
            (self.depth[i * len(self.depth) // count], self.width[i * len(self.width) // count]) for i in range(count)
        )
        return replace(self, groups={**self.groups, Dimension.DEPTH: self.groups[Dimension.WIDTH]}, pairs=tuple(pairs))

    def around(self, config: SubnetConfig) -> SearchSpace:
        """Return the smallest sub-space of candidates that holds a subnet.

        Raises:
            ValueError: When the subnet is not in this space.
        """
        self.check(config)
        used = {d.value: sorted({getattr(section, d) for section in config.sections}) for d in PER_SECTION}
        return self.restrict(**used, resolution=[config.resolution])

    def size(self) -> int:
        """Return the number of subnets."""
        return math.prod(len(candidates) for candidates in self.choices())

    def __iter__(self) -> Iterator[SubnetConfig]:
        """Yield every subnet once, lazily, from the smallest to the largest."""
        return map(self.assemble, itertools.product(*self.choices()))

    def __contains__(self, config: object) -> bool:
        return isinstance(config, SubnetConfig) and self._objection(config) is None

    def check(self, config: SubnetConfig) -> None:
        """Check that a subnet is in the space.

        Raises:
            ValueError: When it is not; the message says which value is not, or which sections must agree.
        """
        objection = self._objection(config)
        if objection is not None:
            raise ValueError(objection)

    def check_includes(self, other: SearchSpace) -> None:
        """Check that every subnet of another space is in this one.

        Raises:
            ValueError: When one is not; the message says which value is not, or which sections must agree.
        """
        if self.pairs:
            for pair in other.pairs or itertools.product(other.depth, other.width):
                if pair not in self.pairs:
                    raise ValueError(f"depth {pair[0]} and width {pair[1]} do not go together in {self.pairs}.")
        for dimension in Dimension:
            for value in other.candidates(dimension):
                self.check(other.restrict(**{dimension: (value,)}).smallest())
        for dimension in PER_SECTION:
            ours, theirs = self.groups[dimension], other.groups[dimension]
            if len(other.candidates(dimension)) > 1 and len({*zip(ours, theirs, strict=True)}) > len({*ours}):
                raise ValueError(f"groups {ours} of {dimension} tie sections that are free in groups {theirs}.")

    def parse(self, name: str) -> SubnetConfig:
        """Return the subnet of a name, or of the aliases ``smallest`` and ``largest``.

        Raises:
            ValueError: When there is no such subnet; the message says which there are.
        """
        aliases = {"smallest": self.smallest, "largest": self.largest}
        if name in aliases:
            return aliases[name]()
        try:
            config = SubnetConfig.from_name(name, self.sections)
            self.check(config)
        except ValueError as error:
            existing = ", ".join(f"{dimension} {self.candidates(dimension)}" for dimension in Dimension)
            raise ValueError(
                f"there is no subnet {name!r}: {error} The search space has {self.sections} sections with "
                f"{existing}; its aliases are {', '.join(aliases)}."
            ) from error
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return the space as JSON primitives."""
        return {
            "sections": self.sections,
            **{dimension.value: list(self.candidates(dimension)) for dimension in Dimension},
            "groups": {dimension.value: list(indices) for dimension, indices in self.groups.items()},
            **({"pairs": [list(pair) for pair in self.pairs]} if self.pairs else {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SearchSpace:
        """Return the space of :meth:`to_dict`; ``resolution``, ``groups`` and ``pairs`` may be left out.

        Raises:
            ValueError: When a field is missing, unknown or not allowed.
        """
        check_fields("search space", data, ("sections", *PER_SECTION), ("resolution", "groups", "pairs"))
        return cls(**data)

    def _values(self, config: SubnetConfig) -> list[Any]:
        """The values of the choices of a subnet of the space, in the order of :meth:`choices`."""
        self.check(config)
        values: list[Any] = []
        for dimension in PER_SECTION[1:] if self.pairs else PER_SECTION:
            indices = self.groups[dimension]
            for index in range(max(indices) + 1):
                section = config.sections[indices.index(index)]
                coupled = self.pairs and dimension is Dimension.WIDTH
                values.append((section.depth, section.width) if coupled else getattr(section, dimension))
        return [*values, config.resolution]

    def _paired(self, depth: Sequence[int], width: Sequence[float]) -> dict[str, tuple[Any, ...]]:
        """The fields of a restriction to these candidates: those that go together."""
        pairs = tuple(pair for pair in self.pairs if pair[0] in depth and pair[1] in width)
        if not pairs:
            raise ValueError(f"depth {tuple(depth)} and width {tuple(width)} do not go together in {self.pairs}.")
        depths, widths = (tuple(sorted(set(column))) for column in zip(*pairs, strict=True))
        return {Dimension.DEPTH: depths, Dimension.WIDTH: widths, "pairs": pairs}

    def _checked_pairs(self) -> tuple[tuple[int, float], ...]:
        pairs = tuple((check_value(Dimension.DEPTH, d), check_value(Dimension.WIDTH, w)) for d, w in self.pairs)
        if not pairs:
            return pairs
        if any(a[0] > b[0] or a[1] > b[1] or a == b for a, b in itertools.pairwise(pairs)):
            raise ValueError(f"pairs must increase in depth and width, got {pairs}.")
        if any(depth not in self.depth or width not in self.width for depth, width in pairs):
            raise ValueError(f"pairs must be of depths {self.depth} and widths {self.width}, got {pairs}.")
        if self.groups[Dimension.DEPTH] != self.groups[Dimension.WIDTH]:
            raise ValueError(f"pairs need equal groups of depth and width, got {dict(self.groups)}.")
        return pairs

    def _objection(self, config: SubnetConfig) -> str | None:
        """Why a subnet is not in the space; None when it is."""
        if len(config.sections) != self.sections:
            return f"the subnet has {len(config.sections)} sections, the search space has {self.sections}."
        for dimension in PER_SECTION:
            indices = self.groups[dimension]
            values = [getattr(section, dimension) for section in config.sections]
            for section, value in enumerate(values):
                if value not in self.candidates(dimension):
                    allowed = self.candidates(dimension)
                    return f"{dimension} {value} of section {section} is not in the search space {allowed}."
                first = indices.index(indices[section])
                if value != values[first]:
                    got = f"{values[first]} and {value}"
                    return f"sections {first} and {section} share one {dimension}, got {got}."
        for number, section in enumerate(config.sections):
            if self.pairs and (section.depth, section.width) not in self.pairs:
                got = f"depth {section.depth} and width {section.width}"
                return f"{got} of section {number} do not go together in {self.pairs}."
        if config.resolution not in self.resolution:
            return f"resolution {config.resolution} is not in the search space {self.resolution}."
        return None


def _pick(candidates: Sequence[float], rng: random.Random) -> float:
    return candidates[int(rng.random() * len(candidates))]


def _checked_candidates(dimension: Dimension, values: Any) -> tuple[float, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise ValueError(f"{dimension} must be a non-empty sequence of candidates, got {values!r}.")
    candidates = tuple(check_value(dimension, value) for value in values)
    if any(a >= b for a, b in itertools.pairwise(candidates)):
        raise ValueError(f"{dimension} must have strictly increasing candidates, got {candidates}.")
    return candidates
