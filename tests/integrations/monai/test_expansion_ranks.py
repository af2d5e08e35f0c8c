"""Two processes expand one supernet in MONAI's trainer. As a script, this file is one of them."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

if find_spec("monai") is None or find_spec("ignite") is None:
    pytest.skip('needs MONAI and ignite: pip install "prox-monai[monai]"', allow_module_level=True)

from ranks import join, run_ranks

from prox_monai.elastic import Supernet
from prox_monai.integrations.monai.handler import ExpansionHandler
from prox_monai.networks import UNetArchitecture
from prox_monai.space import PhaseSchedule, SearchSpace, unet_groups
from prox_monai.training import Distillation, ProgressiveTraining

STEPS = 2
ARCHITECTURE = UNetArchitecture(2, 1, 2, (4, 8), ((1, 1), (2, 2)))
SPACE = SearchSpace(3, (1, 2), (0.5, 1), (3,), groups=unet_groups(2))
SCHEDULE = PhaseSchedule.prox(SPACE, [1, 2, 1, 2], polish=True)  # smallest, depth, width, polishing
CUT = 2  # in the middle of the phase that opens depth


class Run:
    """A training in one of the processes, on data of its own."""

    def __init__(self, rank: int, resume: Path | None = None, **options) -> None:
        from ignite.engine import Events
        from monai.engines import SupervisedTrainer
        from monai.engines.utils import IterationEvents
        from monai.handlers import CheckpointLoader

        data = torch.Generator().manual_seed(rank)
        batches = [
            {"image": torch.randn(2, 1, 8, 8, generator=data), "label": torch.randint(2, (2, 8, 8), generator=data)}
            for _ in range(STEPS)
        ]
        torch.manual_seed(0)
        self.supernet = Supernet(ARCHITECTURE, SPACE)
        training = ProgressiveTraining(self.supernet, SCHEDULE, seed=3, distillation=Distillation(0.5))
        self.expansion = ExpansionHandler(training, learning_rate=0.01)
        self.optimizer = torch.optim.AdamW(self.supernet.parameter_groups(0.01))
        loaders = [CheckpointLoader(str(resume), self.saved)] if resume else []
        self.trainer = SupervisedTrainer(
            **{
                "device": torch.device("cpu"),
                "max_epochs": SCHEDULE.total_epochs,
                "train_data_loader": batches,
                "network": torch.nn.parallel.DistributedDataParallel(self.supernet, find_unused_parameters=True),
                "optimizer": self.optimizer,
                "loss_function": training.criterion(F.cross_entropy),
                "iteration_update": self.expansion.update,
                "train_handlers": [*loaders, self.expansion],
                "decollate": False,
                **options,
            }
        )
        self.record: dict[str, list] = {"subnets": [], "weights": [], "losses": []}
        self.trainer.add_event_handler(IterationEvents.FORWARD_COMPLETED, self.forward_completed)
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed)

    @property
    def saved(self) -> dict[str, object]:
        return {"expansion": self.expansion, "model": self.supernet, "optimizer": self.optimizer}

    def forward_completed(self, engine) -> None:
        self.record["subnets"].append((engine.state.iteration, self.supernet.active.name))

    def iteration_completed(self, engine) -> None:
        self.record["weights"].append(torch.cat([p.detach().flatten() for p in self.supernet.parameters()]))
        self.record["losses"].append(engine.state.output["loss"].item())


def worker(rank: int, folder: Path) -> None:
    """Train without a break, then the same with one."""
    from monai.handlers import CheckpointSaver

    join(rank, folder)
    straight = Run(rank)
    straight.trainer.run()
    first = Run(rank, max_epochs=CUT)
    CheckpointSaver(str(folder), first.saved, save_final=True, final_filename="middle.pt").attach(first.trainer)
    first.trainer.run()
    torch.distributed.barrier()  # the first process saves
    resumed = Run(rank, folder / "middle.pt")
    resumed.trainer.run()
    torch.save({"straight": straight.record, "resumed": resumed.record}, folder / f"{rank}.pth")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> list[dict[str, dict[str, list]]]:
    folder = tmp_path_factory.mktemp("ranks")
    return run_ranks(__file__, folder)


def test_both_train_the_same_subnets(records):
    """One a step, in polishing three: the largest, the smallest and one more."""
    ours, theirs = (record["straight"]["subnets"] for record in records)
    assert ours == theirs
    steps = [iteration for iteration, _ in ours]
    polishing = SCHEDULE.first_epoch(SCHEDULE.phases[-1]) * STEPS
    assert [steps.count(step) for step in sorted(set(steps))] == [1] * polishing + [3] * 2 * STEPS


def test_both_keep_the_same_weights(records):
    """After every step, though they see other data."""
    ours, theirs = (record["straight"] for record in records)
    assert len(ours["weights"]) == SCHEDULE.total_epochs * STEPS
    assert all(a != b for a, b in zip(ours["losses"], theirs["losses"], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(ours["weights"], theirs["weights"], strict=True))
    assert all(not torch.equal(a, b) for a, b in zip(ours["weights"], ours["weights"][1:], strict=False))


def test_both_go_on_as_if_they_had_not_been_broken_off(records):
    for record in records:
        straight, resumed = record["straight"], record["resumed"]
        assert resumed["subnets"] == [(step, name) for step, name in straight["subnets"] if step > CUT * STEPS]
        rest = straight["weights"][CUT * STEPS :]
        assert all(torch.equal(a, b) for a, b in zip(resumed["weights"], rest, strict=True))


if __name__ == "__main__":
    worker(int(sys.argv[1]), Path(sys.argv[2]))
