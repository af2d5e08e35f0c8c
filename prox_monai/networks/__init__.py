"""Plain networks, and the rules that turn a configuration into one; they know no supernet."""

from prox_monai.networks.blocks import ConvBlock, InvertedResidual
from prox_monai.networks.mobilenet import MobileNet, MobileNetArchitecture
from prox_monai.networks.unet import UNet, UNetArchitecture

__all__ = ["ConvBlock", "InvertedResidual", "MobileNet", "MobileNetArchitecture", "UNet", "UNetArchitecture"]
