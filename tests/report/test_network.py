from __future__ import annotations

import pytest
import torch

from prox_monai import UNetArchitecture
from prox_monai.networks import InvertedUNetArchitecture, MobileNetArchitecture
from prox_monai.report.network import DrawnSection, drawn_sections, network_picture
from prox_monai.space import SectionConfig, SubnetConfig

STRIDES = ((1, 1, 1), (1, 2, 2))


def test_sections_are_those_of_the_network():
    architecture = UNetArchitecture(3, 1, 2, channels=(8, 16), strides=STRIDES)
    config = SubnetConfig((SectionConfig(1, 0.5, 3), SectionConfig(2, 1.0, 5), SectionConfig(1, 0.5, 3)))
    assert drawn_sections(architecture, config, (1, 4, 16, 8)) == (
        DrawnSection(1, (3, 3, 3), 4, (4, 16, 8)),
        DrawnSection(2, (5, 5, 5), 16, (4, 8, 4)),
        DrawnSection(1, (3, 3, 3), 4, (4, 16, 8)),
    )


def test_a_subnet_at_a_lower_resolution_sees_fewer_voxels():
    architecture = UNetArchitecture(2, 1, 2, channels=(8, 16), strides=((1, 1), (2, 2)))
    first = drawn_sections(architecture, SubnetConfig.uniform(3, 1, 1.0, 3, 0.5), (1, 16, 32))[0]
    assert first.voxels == (8, 16)


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        (UNetArchitecture(3, 1, 2, channels=(4, 8), strides=STRIDES), (1, 8, 16, 16)),
        (InvertedUNetArchitecture(3, 1, 2, channels=(4, 8), strides=STRIDES), (1, 8, 16, 16)),
        (InvertedUNetArchitecture(3, 1, 2, channels=(4, 8), strides=STRIDES, reversible=True), (1, 8, 16, 16)),
        (MobileNetArchitecture(2, 3, 4), (3, 64, 64)),
    ],
    ids=["unet", "inverted", "reversible", "mobilenet"],
)
def test_every_family_is_drawn(architecture, shape, tmp_path):
    image = pytest.importorskip("matplotlib.image")
    config = SubnetConfig.uniform(architecture.sections, 2, 2.0, 3)
    state = torch.random.get_rng_state()
    network_picture(architecture, config, shape, tmp_path / "network.png", title="made up")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert min(image.imread(tmp_path / "network.png").shape[:2]) > 300
    assert [section.blocks for section in drawn_sections(architecture, config, shape)] == [2] * architecture.sections
