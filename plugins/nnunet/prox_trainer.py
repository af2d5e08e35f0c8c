"""The folder of this file is the value of ``nnUNet_extTrainer``; nnU-Net finds ``ProXTrainer`` in it.

nnU-Net forgets every module it loads from that folder, and a class of a forgotten module cannot be pickled
into worker processes. So the class lives in the package, and this file only names it.
"""

from prox_monai.integrations.nnunet.trainer import ProXTrainer

__all__ = ["ProXTrainer"]
