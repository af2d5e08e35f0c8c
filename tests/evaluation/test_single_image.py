"""In ``OneImage`` oneDNN computes what torch would unfold, and nothing else changes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from prox_monai.evaluation.single_image import OneImage


@pytest.fixture
def computed(monkeypatch) -> list[tuple[int, ...]]:
    """The shapes of the images that oneDNN was called for."""
    shapes, convolve = [], torch.mkldnn_convolution

    def noted(image, *arguments):
        shapes.append(tuple(image.shape))
        return convolve(image, *arguments)

    monkeypatch.setattr(torch, "mkldnn_convolution", noted)
    return shapes


def layer(**options) -> nn.Conv3d:
    torch.manual_seed(0)
    return nn.Conv3d(**{"in_channels": 8, "out_channels": 4, "kernel_size": 3, "padding": 1, **options}).eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2},
        {"bias": False},
        {"dilation": 2},
        {"kernel_size": (3, 1, 3), "padding": (1, 0, 1)},
        {"kernel_size": (5, 5, 3)},
    ],
)
def test_values_are_the_same(options, computed):
    convolution, x = layer(**options), torch.randn(1, 8, 8, 12, 10)
    with torch.inference_mode():
        expected = convolution(x)
        with OneImage():
            found = convolution(x)
    assert computed == [(1, 8, 8, 12, 10)]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (2, 8, 8, 8, 8)),  # a batch
        ({}, (1, 8, 52, 52, 4)),  # torch gives it to oneDNN itself
        ({"kernel_size": (3, 5, 5), "padding": 0}, (1, 8, 8, 8, 8)),
        ({"kernel_size": 1, "padding": 0}, (1, 8, 8, 8, 8)),
        ({"groups": 4}, (1, 8, 8, 8, 8)),
        ({"padding": "same"}, (1, 8, 8, 8, 8)),
        ({"dtype": torch.float64}, (1, 8, 8, 8, 8)),
        ({"device": "meta"}, (1, 8, 8, 8, 8)),
    ],
)
def test_all_else_is_torchs(options, shape, computed):
    convolution = layer(**options)
    x = torch.randn(shape, dtype=convolution.weight.dtype, device=convolution.weight.device)
    with torch.inference_mode():
        expected = convolution(x)
        with OneImage():
            found = convolution(x)
    assert computed == []
    assert found.is_meta or torch.equal(found, expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
def test_gradients_and_traces_are_torchs(computed):
    convolution, x = layer(), torch.randn(1, 8, 8, 8, 8)
    with OneImage():
        convolution(x).sum().backward()
        with torch.no_grad():
            traced = torch.jit.trace(convolution, x, check_trace=False)
    assert computed == []
    assert "aten::_convolution" in str(traced.inlined_graph)


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 0}])
def test_the_layers_of_an_exported_program_are_known(options, computed):
    convolution, x = layer(**options), torch.randn(1, 8, 8, 8, 8)
    program = torch.export.export(convolution, (x,)).module()
    with torch.inference_mode():
        expected = program(x)
        with OneImage():
            found = program(x)
    assert computed == [(1, 8, 8, 8, 8)]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_network_may_be_covered(computed):
    network, x = OneImage.cover(nn.Sequential(layer(), nn.ReLU())), torch.randn(1, 8, 8, 8, 8)
    with torch.inference_mode():
        network(x)
        assert len(computed) == 1
        copy.deepcopy(network)(x)
        assert len(computed) == 2
        with pytest.raises(RuntimeError):
            network(x[:, :3])
        layer()(x)
    assert len(computed) == 3  # the context ended with the pass that failed


def test_a_wrong_number_of_channels_is_an_error(computed):
    with torch.inference_mode(), OneImage(), pytest.raises(RuntimeError):
        layer()(torch.randn(1, 3, 8, 8, 8))


def test_under_autocast_all_is_torchs(computed):
    with torch.inference_mode(), OneImage(), torch.autocast("cpu"):
        layer()(torch.randn(1, 8, 8, 8, 8))
    assert computed == []


def test_where_onednn_is_switched_off_all_is_torchs(computed, monkeypatch):
    monkeypatch.setattr(torch._C, "_get_mkldnn_enabled", lambda: False)
    with torch.inference_mode(), OneImage():
        layer()(torch.randn(1, 8, 8, 8, 8))
    assert computed == []


def test_an_image_without_a_batch_axis_is_torchs(computed):
    convolution, x = layer(in_channels=1), torch.randn(1, 8, 8, 8)
    with torch.inference_mode(), OneImage():
        assert convolution(x).shape == (4, 8, 8, 8)
    assert computed == []


def test_numbers_stand_for_all_axes(computed):
    x, kernel = torch.randn(1, 2, 8, 8, 8), torch.randn(4, 2, 3, 3, 3)
    with torch.inference_mode():
        expected = torch.conv3d(x, kernel, None, 2, 1)
        with OneImage():
            torch.testing.assert_close(torch.conv3d(x, kernel, None, 2, 1), expected, rtol=1e-4, atol=1e-5)
    assert computed == [(1, 2, 8, 8, 8)]


def test_the_function_of_a_layer_is_known():
    """Of another version of torch: nothing would be wrong, but slow."""
    assert nn.functional.conv3d is torch.conv3d
