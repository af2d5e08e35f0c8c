"""Training: phases, freezing, distillation and checkpoints."""

from prox_monai.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from prox_monai.training.distillation import Distillation, DistillationLoss
from prox_monai.training.freezing import FreezeRule, freeze_of
from prox_monai.training.progressive import ProgressiveTraining
from prox_monai.training.recipe import PRESETS, Recipe

__all__ = [
    "PRESETS",
    "Checkpoint",
    "Distillation",
    "DistillationLoss",
    "FreezeRule",
    "ProgressiveTraining",
    "Recipe",
    "freeze_of",
    "load_checkpoint",
    "save_checkpoint",
]
