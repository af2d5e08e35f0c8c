"""Two processes draw the same subnets and keep the same weights. As a script, this file is one of them."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from ranks import join, run_ranks

from prox_monai.elastic import Supernet
from prox_monai.networks import UNetArchitecture
from prox_monai.space import PhaseSchedule, SearchSpace, unet_groups
from prox_monai.training import Distillation, ProgressiveTraining

STEPS = 2
EPOCHS = 2


def worker(rank: int, folder: Path) -> None:
    """Train four steps, the last two with a teacher, and save subnets and weights after each."""
    join(rank, folder)
    torch.manual_seed(rank)
    space = SearchSpace(3, (1, 2), (1,), (3,), groups=unet_groups(2))
    supernet = Supernet(UNetArchitecture(2, 1, 2, (4, 8), ((1, 1), (2, 2))), space)
    network = torch.nn.parallel.DistributedDataParallel(supernet, find_unused_parameters=True)
    training = ProgressiveTraining(
        supernet, PhaseSchedule.prox(space, EPOCHS), freeze="both", distillation=Distillation(0.5)
    )
    loss = training.criterion(torch.nn.functional.cross_entropy)
    optimizer = torch.optim.AdamW(supernet.parameters(), lr=0.01)
    rows = []
    for epoch in range(EPOCHS):
        training.begin_epoch(epoch, [torch.randn(2, 1, 8, 8)])  # each rank opens depth on inputs of its own
        for step in range(STEPS):
            x, target = torch.randn(2, 1, 8, 8), torch.randint(2, (2, 8, 8))
            optimizer.zero_grad()
            for _ in training.begin_step(step):
                training.distill(x)
                loss(network(x), target).backward()
            optimizer.step()
            weights = torch.cat([parameter.detach().flatten() for parameter in supernet.parameters()])
            rows.append((supernet.active.name, x.sum().item(), weights))
    torch.save(rows, folder / f"{rank}.pth")
    torch.distributed.destroy_process_group()


def test_ranks_draw_the_same_subnets_and_keep_the_same_weights(tmp_path):
    ours, theirs = run_ranks(__file__, tmp_path)
    assert len(ours) == EPOCHS * STEPS
    assert [name for name, _, _ in ours] == [name for name, _, _ in theirs]
    assert len({name for name, _, _ in ours}) > 1
    previous = None
    for (_, our_data, our_weights), (_, their_data, their_weights) in zip(ours, theirs, strict=True):
        assert our_data != their_data
        assert torch.equal(our_weights, their_weights)
        assert previous is None or not torch.equal(our_weights, previous)
        previous = our_weights


if __name__ == "__main__":
    worker(int(sys.argv[1]), Path(sys.argv[2]))
