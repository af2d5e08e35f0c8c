from __future__ import annotations

import json
import sys

import device_lines
import pytest
import reversible
import torch
from reversible import Plan, Size

from prox_monai.networks.reversible import ReversibleBlocks

TINY = Size(depth=2, channels=2, patch=(16, 16, 16))


def test_stored_and_reversible_are_one_function():
    torch.manual_seed(0)
    networks = {name: reversible.build(name, TINY) for name in reversible.NETWORKS}
    networks["stored"].load_state_dict(networks["reversible"].state_dict())
    x = torch.randn(1, 1, *TINY.patch)
    assert all(map(torch.equal, networks["stored"](x), networks["reversible"](x)))
    recomputing = {name: any(isinstance(m, ReversibleBlocks) for m in net.modules()) for name, net in networks.items()}
    assert recomputing == {"plain": False, "inverted": False, "stored": False, "reversible": True}


def test_a_measurement_in_a_process_of_its_own():
    size = Size(2, 8, (48, 48, 48))
    row = reversible.measure("reversible", size, "cpu", threads=1, steps=1)
    assert row["network"] == "reversible"
    assert (row["depth"], row["channels"], row["patch"]) == (2, 8, (48, 48, 48))
    assert row["seconds"] > 0
    assert row["memory_bytes"] > 4 * 8 * 48**3  # what one layer gives


@pytest.mark.parametrize(
    ("budget", "expected"), [(99, (None, False)), (100, (1, False)), (250, (2, False)), (300, (3, True))]
)
def test_the_largest_that_fits(budget, expected):
    sizes = [Size(2, channels, (8, 8, 8)) for channels in (1, 2, 3)]
    largest, all_of_them = reversible.largest_that_fits(sizes, budget, lambda size: 100 * size.channels)
    assert (largest and largest.channels, all_of_them) == expected


@pytest.fixture
def made_up(monkeypatch) -> list:
    """Memory and time by formula: per voxel and channel, a unit for each block that is stored; sizes as measured."""
    measured = []

    def measure(network, size, device, threads, steps):
        measured.append((network, size, steps))
        blocks = {"plain": 1, "inverted": 5, "stored": 4, "reversible": 0}[network] * size.depth + 8
        row = {"network": network, "depth": size.depth, "channels": size.channels, "patch": list(size.patch)}
        seconds = 1.0 + (network == "reversible") if steps else None
        return row | {"memory_bytes": blocks * size.channels * size.voxels, "seconds": seconds}

    monkeypatch.setattr(reversible, "measure", measure)
    return measured


def test_what_fits_is_found_in_each_respect(made_up):
    """A base of 16 units stored, 18 inverted, 8 reversible: twice the volume and the channels fit, and any depth."""
    base = Size(2, 4, (16, 16, 16))
    sizes = {
        "volume": tuple(Size(2, 4, (16 * n, 16, 16)) for n in (2, 3, 4)),
        "depth": (Size(4, 4, (16, 16, 16)), Size(8, 4, (16, 16, 16))),
        "channels": tuple(Size(2, n, (16, 16, 16)) for n in (6, 9, 12, 16)),
    }
    result = reversible.compare(Plan(base, (Size(3, 4, (16, 16, 16)),), sizes), "cpu", 1, 1)
    assert [size for name, size, _ in made_up if name == "plain"] == [base, Size(3, 4, (16, 16, 16))]
    assert len(set(made_up)) == len(made_up)
    assert all(steps == (1 if size == base else 0) for _, size, steps in made_up)
    assert result["fits"]["volume"]["stored"] == {"times": 2.0, "at_least": False}
    assert result["fits"]["depth"]["inverted"] == {"times": 4.0, "at_least": True}
    assert result["fits"]["channels"] == {
        "stored": {"times": 1.5, "at_least": False},
        "inverted": {"times": 2.25, "at_least": False},
    }
    assert device_lines.reversible_table(result)[2] == [
        ("stored", "0 MiB", "x 2.00", ">= 4.00", "x 1.50", "x 2.00"),
        ("inverted", "0 MiB", "x 2.00", ">= 4.00", "x 2.25", "x 2.00"),
    ]


def test_sizes_of_the_plan_increase_and_suit_the_strides():
    plan = reversible.planned()
    for respect, sizes in plan.series.items():
        times = [reversible.times_larger(respect, size, plan.base) for size in sizes]
        assert times == sorted(set(times))
        assert times[0] > 1
    every = [plan.base, *plan.others, *(size for sizes in plan.series.values() for size in sizes)]
    assert all(axis % 2 ** (reversible.LEVELS - 1) == 0 for size in every for axis in size.patch)


def test_the_command(made_up, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(reversible, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(sys, "argv", ["reversible.py", "--quick"])
    reversible.main()
    assert "| stored |" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()
    monkeypatch.setattr(sys, "argv", ["reversible.py", "--threads", "2", "--steps", "4"])
    reversible.main()
    result = json.loads((tmp_path / "results" / "reversible_cpu.json").read_text())
    assert result["command"] == "python benchmarks/reversible.py --device cpu --threads 2 --steps 4"
    assert set(result["fits"]) == {"volume", "depth", "channels"}
