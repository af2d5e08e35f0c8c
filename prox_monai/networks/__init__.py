"""Plain networks, and the rules that turn a configuration into one; they know no supernet."""

from prox_monai.networks.blocks import ConvBlock
from prox_monai.networks.unet import UNet, UNetArchitecture

__all__ = ["ConvBlock", "UNet", "UNetArchitecture"]
