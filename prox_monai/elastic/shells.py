"""Nested shells of a shared tensor: what each further candidate of width or kernel adds to it.

Every tensor is seen as a block of *rows* (axis 0), *columns* (axis 1) and *taps* (the spatial axes of a kernel,
flattened). A subnet uses a corner of it: leading rows, leading columns of each concatenated input, the centre of
the kernel. Cut at the extents of all candidates, the block falls into cells; a corner is the union of whole
cells. A cell that no active corner touches has no gradient, no optimizer state and no cost.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

Cell = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Extent:
    """The size of one corner.

    Args:
        rows: length of axis 0; 1 for a tensor with fewer than two axes.
        columns: length of axis 1 (of the only axis, where there is one), one entry per concatenated input.
        taps: kernel size per spatial axis; ``()`` where there is none.
        ndim: number of axes of the tensor.
    """

    rows: int
    columns: tuple[int, ...]
    taps: tuple[int, ...]
    ndim: int

    @classmethod
    def of(cls, shape: Sequence[int], concatenated: Sequence[int] | None = None) -> Extent:
        """Read the extent off a shape; ``concatenated`` splits its input channels.

        Raises:
            ValueError: When the channels of the concatenated inputs do not add up to those of the tensor.
        """
        ndim = len(shape)
        rows, channels, *taps = (*shape,) if ndim > 1 else (1, *shape, *(1,) * (1 - ndim))
        columns = tuple(concatenated or (channels,))
        if sum(columns) != channels:
            raise ValueError(f"concatenated inputs of {columns} channels do not add up to {channels} channels.")
        return cls(rows, columns, tuple(taps), ndim)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        block = (self.rows, sum(self.columns), *self.taps)
        return block if self.ndim > 1 else block[1 : 1 + self.ndim]

    @property
    def block_shape(self) -> tuple[int, int, int]:
        """Rows, columns and flattened taps."""
        return self.rows, sum(self.columns), math.prod(self.taps)


@dataclass(frozen=True, slots=True)
class Grid:
    """The nested candidate extents of one tensor, each axis in increasing order."""

    rows: tuple[int, ...]
    columns: tuple[tuple[int, ...], ...]
    taps: tuple[tuple[int, ...], ...]
    ndim: int

    @classmethod
    def spanning(cls, extents: Sequence[Extent]) -> Grid:
        """Return the grid whose corners include all of ``extents``.

        Raises:
            ValueError: When the extents do not nest in each other, or differ in their number of axes.
        """
        if len({(e.ndim, len(e.columns), len(e.taps)) for e in extents}) != 1:
            raise ValueError(f"tensors of shapes {sorted({e.shape for e in extents})} differ in their axes.")
        columns = _nested({e.columns for e in extents}, "input channels")
        taps = _nested({e.taps for e in extents}, "kernels")
        if any((a - b) % 2 for small, large in itertools.pairwise(taps) for a, b in zip(small, large, strict=True)):
            raise ValueError(f"kernels {list(taps)} do not share a centre.")
        return cls(tuple(sorted({e.rows for e in extents})), columns, taps, extents[0].ndim)

    def locate(self, extent: Extent) -> Cell:
        """Return the index of the outermost cell of a corner.

        Raises:
            ValueError: When no combination of candidates has this extent.
        """
        try:
            return (
                self.rows.index(extent.rows),
                self.columns.index(extent.columns),
                self.taps.index(extent.taps),
            )
        except ValueError:
            raise ValueError(f"{extent} is not a corner of {self}.") from None

    def extent(self, corner: Cell) -> Extent:
        """Return the extent of a corner."""
        return Extent(self.rows[corner[0]], self.columns[corner[1]], self.taps[corner[2]], self.ndim)

    def cells(self, corner: Cell | None = None) -> list[Cell]:
        """List the cells that make up a corner, the innermost first; of the whole tensor by default."""
        corner = corner or (len(self.rows) - 1, len(self.columns) - 1, len(self.taps) - 1)
        return list(itertools.product(*(range(i + 1) for i in corner)))

    def core_share(self, cell: Cell) -> float:
        """Return the taps of the smallest kernel divided by those of the kernel that a cell completes."""
        return math.prod(self.taps[0]) / math.prod(self.taps[cell[2]])

    def cell_shape(self, cell: Cell) -> tuple[int, int, int]:
        """Return the rows, columns and taps that a cell adds."""
        i, j, k = cell
        rows = self.rows[i] - (self.rows[i - 1] if i else 0)
        columns = sum(self.columns[j]) - (sum(self.columns[j - 1]) if j else 0)
        taps = math.prod(self.taps[k]) - (math.prod(self.taps[k - 1]) if k else 0)
        return rows, columns, taps


def _nested(candidates: set[tuple[int, ...]], what: str) -> tuple[tuple[int, ...], ...]:
    ordered = sorted(candidates)
    for small, large in itertools.pairwise(ordered):
        if any(a > b for a, b in zip(small, large, strict=True)):
            raise ValueError(f"{what} {small} and {large} do not nest.")
    return tuple(ordered)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one cell lies within a corner's block: its rows, its columns in block and cell."""

    rows: slice
    columns: tuple[tuple[slice, slice], ...]

    def write(self, block: Tensor, cell: Tensor, taps: Tensor | None) -> None:
        for here, there in self.columns:
            part = cell[:, there]
            if taps is None:
                block[self.rows, here] = part
            else:
                block[self.rows, here].scatter_(2, taps.expand_as(part), part)

    def read(self, block: Tensor, taps: Tensor | None) -> Tensor:
        parts = [block[self.rows, here] for here, _ in self.columns]
        if taps is not None:
            parts = [part.gather(2, taps.expand(*part.shape[:2], -1)) for part in parts]
        return parts[0].contiguous() if len(parts) == 1 else torch.cat(parts, dim=1)


@lru_cache(maxsize=4096)
def _place(grid: Grid, corner: Cell, cell: Cell) -> _Place:
    start = grid.rows[cell[0] - 1] if cell[0] else 0
    large, outer = grid.columns[corner[1]], grid.columns[cell[1]]
    inner = grid.columns[cell[1] - 1] if cell[1] else (0,) * len(outer)
    columns, offset, within = [], 0, 0
    for width, low, high in zip(large, inner, outer, strict=True):
        columns.append((slice(offset + low, offset + high), slice(within, within + high - low)))
        offset, within = offset + width, within + high - low
    return _Place(slice(start, grid.rows[cell[0]]), tuple(columns))


@lru_cache(maxsize=1024)
def _tap_positions(taps: tuple[tuple[int, ...], ...], corner: int, shell: int, device: torch.device) -> Tensor | None:
    """Positions of a shell of taps within a corner's flattened kernel; None where the shell is all of it."""
    if corner == 0:
        return None
    owner = torch.full(taps[corner], corner)
    for inner in range(corner - 1, -1, -1):
        owner[tuple(slice((n - m) // 2, (n + m) // 2) for n, m in zip(taps[corner], taps[inner], strict=True))] = inner
    return (owner.flatten() == shell).nonzero().flatten().to(device)


class _Assemble(torch.autograd.Function):
    """Cells to corner; the gradient of a corner is cut back into those of its cells."""

    @staticmethod
    def forward(ctx, grid: Grid, corner: Cell, cells: tuple[Cell, ...], *tensors: Tensor) -> Tensor:
        ctx.layout = grid, corner, cells
        return _assembled(grid, corner, cells, tensors)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        grid, corner, cells = ctx.layout
        block = gradient.reshape(grid.extent(corner).block_shape)
        parts = (
            _read(grid, corner, cell, block) if want else None
            for cell, want in zip(cells, ctx.needs_input_grad[3:], strict=True)
        )
        return None, None, None, *parts


def _assembled(grid: Grid, corner: Cell, cells: Sequence[Cell], tensors: Sequence[Tensor]) -> Tensor:
    extent = grid.extent(corner)
    block = tensors[0].new_empty(extent.block_shape)
    for cell, tensor in zip(cells, tensors, strict=True):
        taps = _tap_positions(grid.taps, corner[2], cell[2], block.device)
        _place(grid, corner, cell).write(block, tensor, taps)
    return block.view(extent.shape)


def _read(grid: Grid, corner: Cell, cell: Cell, block: Tensor) -> Tensor:
    return _place(grid, corner, cell).read(block, _tap_positions(grid.taps, corner[2], cell[2], block.device))


class ShellTensor(nn.Module):
    """One shared tensor of a supernet, kept as nested shells.

    Args:
        grid: the candidate extents of the tensor; cells are allocated for all of them, filled with zeros.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        for cell in grid.cells():
            self.register_parameter(_cell_name(cell), nn.Parameter(torch.zeros(grid.cell_shape(cell))))

    def cell(self, cell: Cell) -> nn.Parameter:
        """Return one cell, of shape (rows, columns, taps)."""
        return self._parameters[_cell_name(cell)]

    def corner(self, extent: Extent, *, frozen: bool = False, frozen_kernel: int = 0) -> Tensor:
        """Put a corner together.

        Args:
            extent: size of the corner.
            frozen: hand over every cell detached.
            frozen_kernel: hand over the cells of elastic kernels up to this size detached.
        """
        corner = self.grid.locate(extent)
        cells = self.grid.cells(corner)
        tensors = []
        for cell in cells:
            tensor = self.cell(cell)
            tensors.append(tensor.detach() if frozen or self._in_frozen_core(cell, frozen_kernel) else tensor)
        if len(cells) == 1:
            return tensors[0].view(extent.shape)
        if extent.ndim == 1 and len(extent.columns) == 1:
            return torch.cat(tensors, dim=1).view(extent.shape)
        if not torch.is_grad_enabled():  # torch.jit.trace fails at a function with a backward of its own
            return _assembled(self.grid, corner, cells, tensors)
        return _Assemble.apply(self.grid, corner, tuple(cells), *tensors)

    @torch.no_grad()
    def write(self, extent: Extent, tensor: Tensor, *, only: Cell | None = None) -> None:
        """Fill the cells of a corner, or ``only`` one of them, from a tensor of the corner's extent."""
        corner = self.grid.locate(extent)
        block = tensor.reshape(extent.block_shape)
        for cell in self.grid.cells(corner) if only is None else [only]:
            self.cell(cell).copy_(_read(self.grid, corner, cell, block))

    def _in_frozen_core(self, cell: Cell, frozen_kernel: int) -> bool:
        return len(self.grid.taps) > 1 and max(self.grid.taps[cell[2]]) <= frozen_kernel


def _cell_name(cell: Cell) -> str:
    return "_".join(map(str, cell))
