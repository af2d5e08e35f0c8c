from __future__ import annotations

from prox_monai.networks import UNetArchitecture
from prox_monai.space import SectionConfig, SubnetConfig


def test_groups_of_a_unet():
    """Written out: an encoder section is read by the next one and by the decoder section of its level."""
    architecture = UNetArchitecture(2, 1, 3, (4, 8, 8), ((1, 1), (2, 2), (2, 2)))
    config = SubnetConfig(tuple(SectionConfig(depth, 1, 3) for depth in (1, 2, 1, 2, 1)))
    assert architecture.channel_groups(config) == {
        "encoder.0.blocks.0.": ((None,), "section 0"),
        "encoder.1.blocks.0.": (("section 0",), "section 1"),
        "encoder.1.blocks.1.": (("section 1",), "section 1"),
        "encoder.2.blocks.0.": (("section 1",), "section 2"),
        "decoder.0.upsample.": (("section 2",), "up 0"),
        "decoder.0.blocks.0.": (("up 0", "section 1"), "section 3"),
        "decoder.0.blocks.1.": (("section 3",), "section 3"),
        "decoder.0.head.": (("section 3",), None),
        "decoder.1.upsample.": (("section 3",), "up 1"),
        "decoder.1.blocks.0.": (("up 1", "section 0"), "section 4"),
        "decoder.1.head.": (("section 4",), None),
    }


def test_every_tensor_is_in_one_group():
    architecture = UNetArchitecture(3, 1, 3, (4, 8, 8), ((1, 1, 1), (2, 2, 2), (2, 2, 2)), norm="batch")
    config = SubnetConfig.uniform(5, 2, 1, 3)
    groups = architecture.channel_groups(config)
    for name in architecture.build(config).state_dict():
        assert len([prefix for prefix in groups if name.startswith(prefix)]) == 1, name
