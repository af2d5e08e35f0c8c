from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.func import functional_call

from prox_monai.elastic.shells import Extent, Grid, ShellTensor

GRIDS = {
    "vector": Grid((1,), ((2,), (5,)), ((),), 1),
    "scalar": Grid((1,), ((1,),), ((),), 0),
    "linear": Grid((2, 3), ((1,), (4,)), ((),), 2),
    "one candidate": Grid((3,), ((2,),), ((3, 3),), 4),
    "kernels": Grid((2,), ((2,),), ((1, 1), (3, 3), (5, 5)), 4),
    "anisotropic": Grid((1, 3), ((2,), (3,)), ((1, 3, 3), (1, 5, 5)), 5),
    "concatenated": Grid((2, 4), ((1, 2), (2, 4)), ((3, 3), (5, 5)), 4),
    "one input grows": Grid((1, 2), ((2, 1), (2, 3)), ((1, 1),), 4),
    "three inputs": Grid((1, 2, 4), ((1, 1, 1), (2, 1, 3), (2, 4, 3)), ((3,), (5,), (7,)), 3),
}


def sliced(dense: torch.Tensor, grid: Grid, corner: tuple[int, int, int]) -> torch.Tensor:
    """The corner of a dense tensor, by plain slicing."""
    if dense.ndim == 0:
        return dense
    if dense.ndim == 1:
        return dense[: sum(grid.columns[corner[1]])]
    starts = itertools.accumulate(grid.columns[-1][:-1], initial=0)
    parts = [dense[:, a : a + n] for a, n in zip(starts, grid.columns[corner[1]], strict=True)]
    centre = (slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(grid.taps[-1], grid.taps[corner[2]], strict=True))
    return torch.cat(parts, 1)[(slice(grid.rows[corner[0]]), slice(None), *centre)]


def filled(grid: Grid) -> tuple[ShellTensor, torch.Tensor]:
    largest = grid.extent(grid.cells()[-1])
    dense = torch.randn(largest.shape, dtype=torch.float64)
    shells = ShellTensor(grid).double()
    shells.write(largest, dense)
    return shells, dense


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
def test_every_corner_equals_plain_slicing(grid):
    shells, dense = filled(grid)
    assert sum(p.numel() for p in shells.parameters()) == dense.numel()
    for corner in grid.cells():
        assert torch.equal(shells.corner(grid.extent(corner)), sliced(dense, grid, corner))


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
def test_gradients_equal_those_of_plain_slicing(grid):
    """Cells of the corner get their part, the others get none at all."""
    largest = grid.extent(grid.cells()[-1])
    for corner in grid.cells():
        shells, dense = filled(grid)
        dense.requires_grad_()
        weight = torch.randn(grid.extent(corner).shape, dtype=torch.float64)
        (shells.corner(grid.extent(corner)) * weight).sum().backward()
        (sliced(dense, grid, corner) * weight).sum().backward()
        expected = ShellTensor(grid).double()
        expected.write(largest, dense.grad)
        for cell in grid.cells():
            gradient = shells.cell(cell).grad
            if cell in grid.cells(corner):
                assert torch.equal(gradient, expected.cell(cell))
            else:
                assert gradient is None


@pytest.mark.parametrize("name", ["kernels", "concatenated", "three inputs"])
def test_gradcheck(name):
    grid = GRIDS[name]
    shells, _ = filled(grid)
    extent = grid.extent(grid.cells()[-1])

    class Corner(nn.Module):
        def __init__(self):
            super().__init__()
            self.shells = shells

        def forward(self):
            return self.shells.corner(extent)

    names, cells = zip(*((n, p.detach().clone().requires_grad_()) for n, p in shells.named_parameters()), strict=True)

    def assemble(*tensors):
        swapped = {f"shells.{n}": t for n, t in zip(names, tensors, strict=True)}
        return functional_call(Corner(), swapped, ())

    assert torch.autograd.gradcheck(assemble, cells)


def test_writing_one_cell_leaves_the_others():
    grid = GRIDS["concatenated"]
    shells, _ = filled(grid)
    before = {cell: shells.cell(cell).clone() for cell in grid.cells()}
    shells.write(grid.extent((1, 1, 0)), torch.zeros(4, 6, 3, 3, dtype=torch.float64), only=(0, 1, 0))
    changed = [cell for cell in grid.cells() if not torch.equal(shells.cell(cell), before[cell])]
    assert changed == [(0, 1, 0)]
    assert not shells.cell((0, 1, 0)).any()


def test_writing_a_small_corner_leaves_what_is_outside():
    grid = GRIDS["three inputs"]
    shells, dense = filled(grid)
    corner = (1, 1, 1)
    new = torch.randn(grid.extent(corner).shape, dtype=torch.float64)
    shells.write(grid.extent(corner), new)
    assert torch.equal(shells.corner(grid.extent(corner)), new)
    outside = [cell for cell in grid.cells() if cell not in grid.cells(corner)]
    reference = ShellTensor(grid).double()
    reference.write(grid.extent(grid.cells()[-1]), dense)
    assert outside
    assert all(torch.equal(shells.cell(cell), reference.cell(cell)) for cell in outside)


def test_frozen_cells_have_no_gradient():
    grid = GRIDS["concatenated"]
    shells, _ = filled(grid)
    extent = grid.extent((1, 1, 1))
    assert not shells.corner(extent, frozen=True).requires_grad
    shells.corner(extent, frozen_kernel=3).sum().backward()
    assert all((shells.cell(cell).grad is None) == (cell[2] == 0) for cell in grid.cells())


def test_a_kernel_that_is_not_elastic_is_no_frozen_core():
    shells, _ = filled(GRIDS["one candidate"])
    assert shells.corner(Extent(3, (2,), (3, 3), 4), frozen_kernel=3).requires_grad


def test_a_corner_after_inference_mode_still_learns():
    shells, _ = filled(Grid((2,), ((2,),), ((3, 3), (9, 9)), 4))
    extent = Extent(2, (2,), (9, 9), 4)
    with torch.inference_mode():
        shells.corner(extent)
    shells.corner(extent).square().sum().backward()
    assert torch.equal(shells.cell((0, 0, 1)).grad, 2 * shells.cell((0, 0, 1)))


@pytest.mark.parametrize("shape", [(), (3,), (3, 2), (4, 2, 3), (4, 2, 3, 3), (4, 2, 1, 3, 3)])
def test_extent_keeps_the_shape(shape):
    assert Extent.of(shape).shape == shape


def test_concatenated_channels_must_add_up():
    with pytest.raises(ValueError, match=r"concatenated inputs of \(2, 3\) channels do not add up to 4 channels"):
        Extent.of((8, 4, 3, 3), (2, 3))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(2, 2), (2, 2, 3)], "differ in their axes"),
        ([(2, 2, 3, 5), (2, 2, 5, 3)], r"kernels \(3, 5\) and \(5, 3\) do not nest"),
        ([(2, 2, 3), (2, 2, 4)], "do not share a centre"),
    ],
)
def test_extents_that_do_not_nest_are_refused(shapes, message):
    with pytest.raises(ValueError, match=message):
        Grid.spanning([Extent.of(shape) for shape in shapes])


def test_inputs_that_do_not_nest_are_refused():
    with pytest.raises(ValueError, match=r"input channels \(1, 3\) and \(2, 2\) do not nest"):
        Grid.spanning([Extent.of((1, 4), (1, 3)), Extent.of((1, 4), (2, 2))])


def test_an_extent_between_the_candidates_is_no_corner():
    with pytest.raises(ValueError, match=r"is not a corner of"):
        GRIDS["linear"].locate(Extent.of((2, 2)))
