"""Subnets are run once, whoever runs them."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from threading import Timer

import pytest
import torch

if find_spec("monai") is None or find_spec("ignite") is None:
    pytest.skip('needs MONAI and ignite: pip install "prox-monai[monai]"', allow_module_level=True)

from ignite.engine import Events

from prox_monai.evaluation.subnets import read_rows
from prox_monai.integrations.monai import shared
from prox_monai.integrations.monai.choice import SubnetChoice
from prox_monai.integrations.monai.sampling import SubnetSamplingHandler
from prox_monai.integrations.monai.shared import SharedSubnets

NAMED = {name: (f"called {name}", name) for name in "abc"}


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(shared, "_POLL_SECONDS", 0.01)


def taken(subnets: SharedSubnets) -> list[str]:
    """All that one gets, each given up at once."""
    names = []
    while (named := subnets.take()) is not None:
        names.append(named[1])
        subnets.release()
    return names


def test_all_in_order_without_a_table():
    subnets = SharedSubnets(NAMED, set, None, "")
    assert len(subnets) == 3
    assert taken(subnets) == ["a", "b", "c"]
    assert len(subnets) == 0


def test_what_has_a_row_is_not_handed_out(tmp_path):
    done = {"b"}
    subnets = SharedSubnets(NAMED, lambda: done, tmp_path / "rows.jsonl", "dice")
    assert subnets.take() == NAMED["a"]
    subnets.release()
    done |= {"c"}  # by somebody else meanwhile
    assert subnets.take() is None


def test_rows_are_read_twice_for_a_subnet_however_many_there_are():
    reads, named = [], {str(number): (str(number), number) for number in range(50)}
    subnets = SharedSubnets(named, lambda: reads.append(1) or set(list(named)[:49]), None, "")
    assert subnets.take() == named["49"]
    assert len(reads) == 2


def test_none_is_run_by_two_and_those_of_the_dead_by_another(tmp_path):
    table, done = tmp_path / "rows.jsonl", set()
    one, other = (SharedSubnets(NAMED, lambda: done, table, "dice") for _ in range(2))
    assert one.take() == NAMED["a"]
    assert other.take() == NAMED["b"]
    done |= {"b"}
    other.release()
    assert other.take() == NAMED["c"]
    done |= {"c"}
    other.release()
    Timer(0.1, one.release).start()  # it has died without a row
    assert other.take() == NAMED["a"]
    done |= {"a"}
    other.release()
    assert one.take() is None
    assert not (tmp_path / "rows.jsonl.claims").exists()


def test_another_purpose_is_not_in_the_way(tmp_path):
    one, other = (SharedSubnets(NAMED, set, tmp_path / "rows.jsonl", purpose) for purpose in ("dice", "accuracy"))
    assert one.take() == other.take() == NAMED["a"]
    one.release()
    other.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the other process is forked")
def test_what_a_killed_process_was_running_is_run_here(plain_family, evaluation, table, tmp_path):
    def sweep(*more) -> tuple[SubnetSamplingHandler, list[int]]:
        supernet = plain_family.supernet()
        choice = SubnetChoice(["smallest", "d2-w.5-k3-r1", "largest"])
        sampling = SubnetSamplingHandler(supernet, (1, 8, 8), choice=choice, table=table)
        made = evaluation(plain_family, [sampling, *more], network=supernet)
        made.evaluator.run()
        return sampling, made.epochs

    class InTheSecond:
        """Says so, and stays there."""

        def attach(self, engine) -> None:
            engine.add_event_handler(Events.EPOCH_STARTED(once=2), self.stay)

        def stay(self, engine) -> None:
            (tmp_path / "running").touch()
            time.sleep(60)

    child = os.fork()
    if not child:
        torch.set_num_threads(1)
        try:
            sweep(InTheSecond())
        finally:
            os._exit(1)
    while not (tmp_path / "running").exists():
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        time.sleep(0.01)
    Timer(0.5, os.kill, (child, signal.SIGKILL)).start()
    sampling, epochs = sweep()
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert [row["name"] for row in sampling.rows] == ["smallest", "d2-w.5-k3-r1", "largest"]
    assert epochs == [1, 2]
    assert [row["name"] for row in read_rows(table)] == ["smallest", "largest", "d2-w.5-k3-r1"]


def test_two_evaluators_share_a_table(plain_family, evaluation, table):
    def run() -> list:
        supernet = plain_family.supernet()
        choice = SubnetChoice(["smallest", "d2-w.5-k3-r1", "largest"], per_bucket=2)
        sampling = SubnetSamplingHandler(supernet, (1, 8, 8), choice=choice, table=table)
        made = evaluation(plain_family, [sampling], network=supernet)
        made.evaluator.run()
        return [sampling.rows, len(made.epochs)]

    with ThreadPoolExecutor(2) as pool:
        (rows, epochs), (others, more) = (future.result() for future in [pool.submit(run), pool.submit(run)])
    assert rows == others
    assert len(rows) == epochs + more == len(read_rows(table)) == 13
    assert len({row["key"] for row in rows}) == 13
