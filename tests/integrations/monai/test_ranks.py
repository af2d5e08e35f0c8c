"""Two processes run the same subnets, and the first writes. As a script, this file is one of them."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

if find_spec("monai") is None or find_spec("ignite") is None:
    pytest.skip('needs MONAI and ignite: pip install "prox-monai[monai]"', allow_module_level=True)

from ranks import join, run_ranks

from prox_monai.data import write_synthetic_decathlon
from prox_monai.elastic import Supernet
from prox_monai.evaluation.batch_norm import recalibrate
from prox_monai.evaluation.subnets import read_rows
from prox_monai.integrations.monai import datalists
from prox_monai.integrations.monai.choice import SubnetChoice
from prox_monai.integrations.monai.network import SubnetNetwork
from prox_monai.integrations.monai.ranks import of_first_rank
from prox_monai.integrations.monai.sampling import SubnetSamplingHandler
from prox_monai.integrations.monai.statistics import digest, read_statistics
from prox_monai.networks import UNetArchitecture
from prox_monai.space import SearchSpace, unet_groups

ARCHITECTURE = UNetArchitecture(2, 1, 3, (4, 8), ((1, 1), (2, 2)), norm="batch")
SPACE = SearchSpace(3, (1, 2), (0.5, 1), (3,), (0.5, 1), unet_groups(2))
CHOICES = (SubnetChoice(["smallest", "largest"], per_bucket=2, buckets=1), SubnetChoice(max_latency_ms=1e-6))
X = torch.linspace(-2, 2, 64).reshape(1, 1, 8, 8)


def worker(rank: int, folder: Path) -> None:
    """Sweep over cases of its own, then ask for the impossible."""
    from ignite.engine import Events
    from monai.data import DataLoader, Dataset
    from monai.engines import SupervisedEvaluator
    from monai.handlers import MeanDice, from_engine
    from monai.transforms import AsDiscreted

    join(rank, folder)
    torch.manual_seed(0)
    supernet = Supernet(ARCHITECTURE, SPACE)
    network = torch.nn.parallel.DistributedDataParallel(supernet, find_unused_parameters=True)
    torch.manual_seed(rank)
    cases = [{"image": torch.randn(1, 8, 8), "label": torch.randint(2, (3, 8, 8)).float()} for _ in range(2)]
    calibration = torch.randn(4, 1, 8, 8)
    record: dict[str, object] = {"subnets": [], "statistics": [], "calibration": calibration}
    for choice in CHOICES:
        sampling = SubnetSamplingHandler(
            supernet,
            (1, 8, 8),
            choice=choice,
            table=folder / "subnets.jsonl",
            calibration=calibration,
            statistics=folder / "statistics.pth",
        )
        evaluator = SupervisedEvaluator(
            device=torch.device("cpu"),
            val_data_loader=DataLoader(Dataset(cases), batch_size=1, num_workers=0),
            network=network,
            postprocessing=AsDiscreted("pred", argmax=True, to_onehot=3),
            key_val_metric={"dice": MeanDice(output_transform=from_engine(["pred", "label"]))},
            val_handlers=[sampling],
        )
        evaluator.add_event_handler(
            Events.EPOCH_COMPLETED,
            lambda engine: record["statistics"].append([buffer.clone() for buffer in engine.network.buffers()]),
        )
        try:
            for _ in range(2):  # the second time all rows are there
                evaluator.run()
                record["subnets"].append(evaluator.state.epoch)
        except ValueError as error:
            record["error"] = str(error)
        record.setdefault("score", evaluator.state.metrics.get("dice"))
        assert evaluator.network is network
    refusals = [refusal(kind) for kind in (ValueError, RuntimeError, OSError)]
    record |= {"download": downloads(folder), "refusals": refusals}
    torch.save(record, folder / f"{rank}.pth")
    torch.distributed.destroy_process_group()


def downloads(folder: Path) -> tuple[int, list[str]]:
    """How often this process downloads data that all of them need, and the cases that it has then."""
    asked = []

    def download(task: str, root: Path) -> Path:
        asked.append(task)
        return write_synthetic_decathlon(root / task, cases=4, size=(12, 12, 12))

    datalists.download_decathlon = download
    options = {"channels": 1, "labels": ["background", "head", "tail"], "fold": "all", "download": "Task99"}
    split = datalists.decathlon_split(folder / "Task99", **options)
    return len(asked), [item["case"] for item in split["training"]]


def refusal(kind: type[Exception]) -> str:
    """What this process raises where the first one fails."""

    def fail() -> None:
        raise kind("the first process says so")

    try:
        of_first_rank(fail)
    except kind as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> tuple[Path, list[dict[str, object]]]:
    folder = tmp_path_factory.mktemp("ranks")
    return folder, run_ranks(__file__, folder)


def test_both_run_all_subnets_and_none_again(records):
    _, (ours, theirs) = records
    assert ours["subnets"] == theirs["subnets"] == [4, 0]
    assert ours["score"] == theirs["score"]


def test_both_normalise_alike(records):
    """Each was given calibration images of its own."""
    _, (ours, theirs) = records
    assert len(ours["statistics"]) == 4
    for mine, yours in zip(ours["statistics"], theirs["statistics"], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, yours, strict=True))


def test_each_row_is_written_once(records):
    folder, _ = records
    rows = read_rows(folder / "subnets.jsonl")
    assert len({row["key"] for row in rows}) == len(rows) == 4
    assert [row["name"] for row in rows[:2]] == ["smallest", "largest"]


def test_statistics_are_the_first_ranks_and_complete(records):
    folder, _ = records
    torch.manual_seed(0)
    supernet = Supernet(ARCHITECTURE, SPACE)
    assert len(read_statistics(folder / "statistics.pth", digest(supernet))) == 4
    network = SubnetNetwork(ARCHITECTURE, SPACE, subnet="smallest", statistics=folder / "statistics.pth")
    network.load_state_dict(supernet.state_dict())
    for rank, same in enumerate((True, False)):
        plain = supernet.extract(SPACE.smallest()).eval()
        recalibrate(plain, [records[1][rank]["calibration"]])
        with torch.no_grad():
            assert torch.equal(plain(X), network.eval()(X)) is same


def test_one_downloads_for_all(records):
    _, (ours, theirs) = records
    assert (ours["download"][0], theirs["download"][0]) == (1, 0)
    assert len(ours["download"][1]) == 4
    assert ours["download"][1] == theirs["download"][1]


def test_what_the_first_refuses_all_refuse(records):
    _, (ours, theirs) = records
    assert ours["refusals"] == theirs["refusals"] == ["the first process says so"] * 3
    assert ours["error"] == theirs["error"]
    assert "no known subnet has a latency <= 1e-06 ms" in ours["error"]


if __name__ == "__main__":
    worker(int(sys.argv[1]), Path(sys.argv[2]))
