"""For BundleGen, which looks for this file in a folder of templates."""

from prox_monai.integrations.auto3dseg.algo import ProxAlgo

__all__ = ["ProxAlgo"]
