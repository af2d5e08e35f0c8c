"""For Auto3DSeg, which loads this file to predict."""

from prox_monai.integrations.auto3dseg.infer import InferClass

__all__ = ["InferClass"]
