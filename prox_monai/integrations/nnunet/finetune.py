"""A short training of an extracted subnet, in which the largest subnet teaches it."""

from __future__ import annotations

import copy
import io
import itertools
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn
from tqdm import tqdm

from prox_monai.elastic.memory_format import trained_fast
from prox_monai.integrations.nnunet.optimization import backward, optimize
from prox_monai.integrations.nnunet.repeatable import make_repeatable
from prox_monai.integrations.nnunet.trained import TrainedModel
from prox_monai.training.distillation import Distillation, output_distance

LEARNING_RATE = 3e-5  # a hundredth of the default that families are trained with; it falls to zero
_SEED = ("fine-tuning", 0)


def finetune(
    model: TrainedModel, network: nn.Module, steps: int, distillation: Distillation, *, on_cpu: bool = False
) -> nn.Module:
    """Return a copy of a network of a fold, trained on for some steps on nnU-Net's own batches, of the family's size.

    Args:
        model: the fold; its largest trained subnet teaches.
        network: an extracted subnet, or one with quantisation in place.
        steps: optimizer steps.
        distillation: how much it learns from the teacher.
        on_cpu: train on the CPU, also where there is a GPU.

    Raises:
        FloatingPointError: When the loss is not finite.
    """
    device = torch.device("cuda" if torch.cuda.is_available() and not on_cpu else "cpu")
    student = _trained_fast(copy.deepcopy(network).to(device).train())
    teacher = model.supernet.extract(model.space.largest()).to(device).eval()
    optimizer = torch.optim.Adam(student.parameters(), lr=LEARNING_RATE)
    task_loss, batches = _training(model, steps)
    for step, batch in enumerate(tqdm(batches, total=steps, desc="fine-tuning", disable=None, leave=False)):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (1 - step / steps)
        data, target = batch["data"].to(device), batch["target"].to(device)
        with torch.no_grad():
            taught = teacher(data)
        outputs = student(data)
        weight = distillation.weight
        loss = (1 - weight) * task_loss(outputs, target) + weight * output_distance(outputs, taught, distillation.form)
        if not math.isfinite(float(loss.detach())):
            raise FloatingPointError(f"the loss is not finite in step {step} of fine-tuning.")
        optimizer.zero_grad(set_to_none=True)
        backward(loss, None)
        optimize(student, optimizer, None)
    return student.cpu().eval()


def _trained_fast(network: nn.Module) -> nn.Module:
    """Lay out a network's parameters as the processor trains them fastest."""
    parameters = dict(network.named_parameters())
    for name, tensor in trained_fast({name: parameter.detach() for name, parameter in parameters.items()}).items():
        parameters[name].data = tensor
    return network


class _Batches(nnUNetTrainer):
    """nnU-Net's trainer as the source of a fold's augmented batches and of its loss."""

    mirror = True

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        """As nnU-Net does, with mirroring only if the family was trained with it."""
        rotation, dummy_2d, initial_patch_size, axes = (
            super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        return rotation, dummy_2d, initial_patch_size, axes if self.mirror else None


def _training(model: TrainedModel, steps: int) -> tuple[Callable[[Tensor, Tensor], Tensor], Iterable[dict]]:
    with _in_this_process(), redirect_stdout(io.StringIO()):
        plans = copy.deepcopy(model.plans) | {"continue_training": False}
        plans["configurations"][model.configuration_name]["batch_size"] = model.batch_size
        source = _Batches(plans, model.configuration_name, model.fold, model.dataset_json, torch.device("cpu"))
        source.mirror = model.mirroring_axes is not None
        source.enable_deep_supervision = False
        source._set_batch_size_and_oversample()
        loader, _ = source.get_dataloaders()
        return source._build_loss(), itertools.islice(make_repeatable(loader, lambda: _SEED), steps)


@contextmanager
def _in_this_process() -> Iterator[None]:
    """nnU-Net's trainer wants a folder for its log, and worker processes; both come from variables."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"nnUNet_results": folder, "nnUNet_n_proc_DA": "0"}
        try:
            yield
        finally:
            os.environ.clear()
            os.environ |= before
