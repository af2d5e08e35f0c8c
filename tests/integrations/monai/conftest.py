from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prox_monai.elastic import Supernet
from prox_monai.networks import UNetArchitecture
from prox_monai.space import SearchSpace, unet_groups

SPACE = SearchSpace(3, (1, 2), (0.5, 1), (3, 5), (0.5, 1), unet_groups(2))


@dataclass(frozen=True)
class Family:
    """A tiny U-Net family with trained weights, and data for it."""

    architecture: UNetArchitecture
    space: SearchSpace
    state: dict[str, Tensor]
    data: tuple[dict[str, Tensor], ...]
    calibration: Tensor | None

    def supernet(self) -> Supernet:
        """A supernet of these weights; its smallest subnet is active."""
        supernet = Supernet(self.architecture, self.space)
        supernet.load_state_dict(self.state)
        return supernet.eval()


def make_family(norm: str = "instance", space: SearchSpace = SPACE, channels: tuple[int, int] = (4, 8)) -> Family:
    """Noise in every tensor, so that all subnets differ."""
    noise = torch.Generator().manual_seed(1)
    architecture = UNetArchitecture(2, 1, 3, channels, ((1, 1), (2, 2)), norm=norm)
    supernet = Supernet(architecture, space)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.normal_(std=0.3, generator=noise)
        for name, buffer in supernet.named_buffers():
            if not name.endswith("num_batches_tracked"):
                buffer.uniform_(0.5, 1.5, generator=noise)
    supernet.activate(space.smallest())
    data = tuple(
        {
            "image": torch.randn(1, 1, 12, 12, generator=noise),
            "label": nn.functional.one_hot(torch.randint(3, (1, 12, 12), generator=noise)).movedim(-1, 1),
        }
        for _ in range(3)
    )
    calibration = torch.randn(4, 1, 8, 8, generator=noise) if norm == "batch" else None
    return Family(architecture, space, supernet.state_dict(), data, calibration)


@pytest.fixture
def family_of() -> Callable[..., Family]:
    """Makes a family of a norm, a space and numbers of channels."""
    return make_family


@pytest.fixture(params=["instance", "batch"])
def family(request: pytest.FixtureRequest) -> Family:
    return make_family(request.param)


@pytest.fixture
def plain_family() -> Family:
    """Without statistics."""
    return make_family()


class Evaluation:
    """What an evaluator did: epoch, network and outputs of each pass over the data."""

    def __init__(self, evaluator: Any) -> None:
        from monai.engines.utils import IterationEvents

        self.evaluator = evaluator
        self.epochs: list[int] = []
        self.networks: list[nn.Module] = []
        self.outputs: list[list[Tensor]] = []
        evaluator.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._iteration)

    def _iteration(self, engine: Any) -> None:
        if not self.networks or self.networks[-1] is not engine.network or self.epochs[-1] != engine.state.epoch:
            self.epochs.append(engine.state.epoch)
            self.networks.append(engine.network)
            self.outputs.append([])
        self.outputs[-1].append(engine.state.output["pred"].clone())


@pytest.fixture
def evaluation() -> Callable[..., Evaluation]:
    """Makes an evaluator with a sliding window and a Dice of each class; it is not run yet."""
    from monai.engines import SupervisedEvaluator
    from monai.handlers import MeanDice, from_engine
    from monai.inferers import SlidingWindowInferer
    from monai.transforms import AsDiscreted

    def make(family: Family, handlers: Sequence[Any], *, metric: bool = True, **options: Any) -> Evaluation:
        arguments = {
            "device": torch.device("cpu"),
            "val_data_loader": list(family.data),
            "network": family.supernet(),
            "inferer": SlidingWindowInferer((8, 8), overlap=0.5),
            "postprocessing": AsDiscreted("pred", argmax=True, to_onehot=3),
            "key_val_metric": {"dice": MeanDice(output_transform=from_engine(["pred", "label"]))} if metric else None,
            "val_handlers": list(handlers),
        }
        return Evaluation(SupervisedEvaluator(**arguments | options))

    return make


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "results" / "subnets.jsonl"
