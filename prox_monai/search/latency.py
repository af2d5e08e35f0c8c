"""A latency table: times of blocks and of some whole networks on one device and runtime, kept as JSON lines."""

from __future__ import annotations

import logging
import random
import socket
import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from prox_monai.elastic import Supernet
from prox_monai.evaluation.cost import device_name, instruction_set
from prox_monai.evaluation.table import Row, append_row, claim, read_lines
from prox_monai.search.blocks import Block, all_blocks, blocks_of, module_of
from prox_monai.search.sampling import random_subnets
from prox_monai.space import SearchSpace, SubnetConfig

logger = logging.getLogger(__name__)

FIT, HELD_OUT = "fit", "held out"
_TOGETHER = 8
_WARMUP = 2
_MIN_TURNS, _MAX_TURNS = 7, 40
_SECONDS = 1.5  # of the passes of networks that take turns


class Runtime(Protocol):
    """Runs one network: maps one image ``(1, C, *spatial)`` to what it makes of it."""

    name: str
    version: str
    device: str

    def __call__(self, x: Tensor) -> Tensor: ...


MakeRuntime = Callable[[nn.Module, Sequence[int]], Runtime]


@dataclass(frozen=True, slots=True)
class Conditions:
    """What times depend on beside the network.

    Args:
        runtime: its name.
        version: of the runtime.
        device: name of the processor, its widest instructions, and the arithmetic where the runtime says it.
        threads: CPU threads of one operation.
    """

    runtime: str
    version: str
    device: str
    threads: int

    @classmethod
    def here(cls, runtime: str, make: MakeRuntime, threads: int) -> Conditions:
        """Return those of this machine.

        Args:
            runtime: its name.
            make: makes a runtime of a network.
            threads: that ``make`` gives it.
        """
        probe = make(nn.Conv2d(1, 1, 3, padding=1), (1, 8, 8))
        device = ", ".join(filter(None, (device_name("cpu"), instruction_set(), probe.device)))
        return cls(runtime, probe.version, device, threads)

    @classmethod
    def of(cls, row: Row) -> Conditions:
        """Return those of a row."""
        return cls(*(row[name] for name in cls.__dataclass_fields__))

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.runtime} {self.version} on {self.device}, {threads}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Args:
        blocks: every block of the space, each with a subnet that has it.
        networks: whole subnets by their role: the predictor is fitted to some and tried on others.
    """

    blocks: dict[str, tuple[SubnetConfig, Block]]
    networks: dict[str, list[SubnetConfig]]

    @classmethod
    def of(
        cls,
        supernet: Supernet,
        space: SearchSpace,
        input_shape: Sequence[int],
        *,
        fit: int = 60,
        held_out: int = 50,
        seed: int = 0,
    ) -> Plan:
        """Choose subnets at random, the smallest and the largest among those that are fitted.

        Args:
            supernet: where the subnets come from.
            space: those that may be searched.
            input_shape: ``(C, *spatial)`` of one image.
            fit: number of subnets to fit to, beside the two ends.
            held_out: number of subnets to try the predictor on; where there are too few, a part of them.
            seed: of the draw.
        """
        ends = [space.smallest(), space.largest()]
        drawn = random_subnets(space, fit + held_out, seed, ends)
        if len(drawn) < fit + held_out:  # a small space
            held_out = len(drawn) * held_out // (fit + held_out)
        networks = {HELD_OUT: drawn[:held_out], FIT: ends + drawn[held_out:]}
        return cls(all_blocks(supernet.architecture, space, input_shape, seed), networks)

    @property
    def size(self) -> int:
        """Number of times that are taken."""
        return len(self.blocks) + sum(map(len, self.networks.values()))


def measure_latencies(
    supernet: Supernet,
    plan: Plan,
    input_shape: Sequence[int],
    make: MakeRuntime,
    conditions: Conditions,
    path: str | Path,
    seed: int = 0,
) -> Iterator[Row]:
    """Measure what a table lacks and append it, row by row; yields all rows of these conditions.

    Networks are timed a few at a time, which take turns: so each finds the caches as it does in use, and whatever else
    the machine does slows all of them down.

    Args:
        supernet: where the subnets come from.
        plan: what is measured.
        input_shape: ``(C, *spatial)`` of one image.
        make: makes a runtime of a network, which runs as ``conditions`` say.
        conditions: of the rows.
        path: the table; rows that it holds are not measured again.
        seed: of the order.

    Raises:
        RuntimeError: When this machine measures for this table already: both would slow each other down.
    """
    with claim(path, socket.gethostname()) as ours:
        if not ours:
            raise RuntimeError(f"{path} is being measured here already; two at once would slow each other down.")
        done = _measured(path, conditions)
        wanted = list(_jobs(supernet, plan, input_shape))
        jobs = [job for job in wanted if identity(job.about) not in done]
        asked = {identity(job.about) for job in wanted}
        yield from (row for what, row in done.items() if what in asked)
        random.Random(seed).shuffle(jobs)  # what the machine does meanwhile hits large and small alike
        for start in range(0, len(jobs), _TOGETHER):
            together = jobs[start : start + _TOGETHER]
            runs = [(make(job.network(), job.shape), torch.rand(1, *job.shape)) for job in together]
            for job, times in zip(together, _take_turns(runs), strict=True):
                row = job.about | asdict(conditions) | times
                append_row(row, path)
                yield row


def _measured(path: str | Path, conditions: Conditions) -> dict[Hashable, Row]:
    """The rows of these conditions by what was timed; of several the first."""
    done: dict[Hashable, Row] = {}
    for row in read_latencies(path):
        if Conditions.of(row) == conditions:
            done.setdefault(identity(row), row)
    return done


def read_latencies(path: str | Path) -> list[Row]:
    """Return the rows of a latency table; there are none where there is no file.

    Raises:
        ValueError: When the file is no latency table.
    """
    rows = read_lines(path)
    for row in rows:
        if row.get("kind") not in ("block", "network"):
            raise ValueError(f"{path} is not a latency table: a row has the kind {row.get('kind')!r}.")
    return rows


def identity(row: Row) -> Hashable:
    """Return what was timed: a block by its key, a network by its blocks, as families share names of subnets."""
    return row["kind"], row["key"], tuple(row.get("blocks", ()))


@dataclass(frozen=True, slots=True)
class _Job:
    """One time that is to be taken."""

    about: Row
    network: Callable[[], nn.Module]
    shape: tuple[int, ...]


def _jobs(supernet: Supernet, plan: Plan, input_shape: Sequence[int]) -> Iterator[_Job]:
    for key, (config, block) in plan.blocks.items():
        about = {"kind": "block", "key": key, "elements": block.elements, "weights": block.weights}
        yield _Job(about, lambda c=config, b=block: module_of(supernet, c, b), block.shape)
    for role, configs in plan.networks.items():
        for config in configs:
            blocks = [block.key for block in blocks_of(supernet.architecture, config, input_shape)]
            about = {"kind": "network", "key": _key(supernet, config), "role": role, "blocks": blocks}
            yield _Job(about, lambda c=config: supernet.extract(c).eval(), tuple(input_shape))


def _key(supernet: Supernet, config: SubnetConfig) -> str:
    return supernet.architecture.canonical(config).name


def _take_turns(runs: Iterable[tuple[Callable[[Tensor], Tensor], Tensor]]) -> list[dict[str, float]]:
    """Median and quartiles of the time of each run, in milliseconds."""
    runs = list(runs)
    times: list[list[float]] = [[] for _ in runs]
    start = time.perf_counter()
    for turn in range(_WARMUP + _MAX_TURNS):
        if turn >= _WARMUP + _MIN_TURNS and time.perf_counter() - start > _SECONDS:
            break
        for (run, x), taken in zip(runs, times, strict=True):
            before = time.perf_counter()
            run(x)
            taken.append((time.perf_counter() - before) * 1e3)
    quartiles = (statistics.quantiles(taken[_WARMUP:], n=4, method="inclusive") for taken in times)
    return [{"median_ms": median, "q1_ms": q1, "q3_ms": q3} for q1, median, q3 in quartiles]
