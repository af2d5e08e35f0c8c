"""A plain U-Net of this package as nnU-Net's network class: the same tensors under other names."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from prox_monai.networks import UNetArchitecture
from prox_monai.networks.blocks import NEGATIVE_SLOPE
from prox_monai.space import SubnetConfig

TARGET = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
PACKAGE = "dynamic_network_architectures"

_NAMES = (
    (r"encoder\.(\d+)\.blocks\.(\d+)\.(conv|norm)\.", r"encoder.stages.\1.0.convs.\2.\3."),
    (r"decoder\.(\d+)\.blocks\.(\d+)\.(conv|norm)\.", r"decoder.stages.\1.convs.\2.\3."),
    (r"decoder\.(\d+)\.upsample\.", r"decoder.transpconvs.\1."),
    (r"decoder\.(\d+)\.head\.", r"decoder.seg_layers.\1."),
)


def stock_definition(architecture: UNetArchitecture, config: SubnetConfig) -> dict[str, Any]:
    """Return a ``network_def`` that builds a subnet without this package, as JSON primitives.

    Args:
        architecture: of the supernet.
        config: the subnet; its resolution plays no part.
    """
    dims, levels, depths = architecture.spatial_dims, len(architecture.channels), config.depths
    norm = {"instance": "InstanceNorm", "batch": "BatchNorm"}[architecture.norm]
    return {
        "_target_": TARGET,
        "input_channels": architecture.in_channels,
        "n_stages": levels,
        "features_per_stage": architecture.channels_of(config),
        "conv_op": f"$torch.nn.Conv{dims}d",
        "kernel_sizes": [list(kernel) for kernel in architecture.kernels_of(config)],
        "strides": [list(stride) for stride in architecture.strides],
        "n_conv_per_stage": list(depths[:levels]),
        "num_classes": architecture.out_channels,
        "n_conv_per_stage_decoder": list(depths[levels:]),
        "conv_bias": True,
        "norm_op": f"$torch.nn.{norm}{dims}d",
        "norm_op_kwargs": {"affine": True},
        "nonlin": "$torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True, "negative_slope": NEGATIVE_SLOPE},
        "deep_supervision": False,
    }


def stock_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of an extracted U-Net under the names of nnU-Net's class.

    That registers its encoder a second time within its decoder, and every convolution and norm a second time.
    """
    state = {}
    for name, tensor in network.state_dict().items():
        stock = name
        for ours, theirs in _NAMES:
            stock = re.sub(f"^{ours}", theirs, stock)
        twice = stock.replace(".conv.", ".all_modules.0.").replace(".norm.", ".all_modules.1.")
        for again in dict.fromkeys((stock, twice)):
            state[again] = tensor
            if again.startswith("encoder."):
                state[f"decoder.{again}"] = tensor
    return state
