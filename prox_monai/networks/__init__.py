"""Plain networks, and the rules that turn a configuration into one; they know no supernet."""

from prox_monai.networks.blocks import ConvBlock, InvertedResidual
from prox_monai.networks.inverted_unet import InvertedUNet, InvertedUNetArchitecture
from prox_monai.networks.mobilenet import MobileNet, MobileNetArchitecture
from prox_monai.networks.unet import UNet, UNetArchitecture

__all__ = [
    "ConvBlock",
    "InvertedResidual",
    "InvertedUNet",
    "InvertedUNetArchitecture",
    "MobileNet",
    "MobileNetArchitecture",
    "UNet",
    "UNetArchitecture",
]
