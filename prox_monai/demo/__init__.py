"""The demonstration: from images to a family of networks that stock nnU-Net runs, in one command."""

from prox_monai.demo.run import run_demo

__all__ = ["run_demo"]
