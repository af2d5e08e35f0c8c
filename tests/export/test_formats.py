"""What can be written, and which latencies are its own."""

from __future__ import annotations

import pytest

from prox_monai.export.formats import FORMATS, PRECISIONS, check_precision, form_of, timed_runtime
from prox_monai.export.runtimes import RUNTIMES


@pytest.mark.parametrize(
    ("format", "precision", "message"),
    [
        ("onnx", "int8", "precision of onnx must be one of fp32, fp16, got 'int8'"),
        ("torch", "fp16", "precision of torch must be one of fp32, got 'fp16'"),
        ("tflite", "fp32", "format must be one of onnx, openvino, torch, bundle, got 'tflite'"),
    ],
)
def test_what_does_not_exist_is_refused(format, precision, message):
    with pytest.raises(ValueError, match=message):
        check_precision(format, precision)


def test_every_runtime_times_one_of_the_forms():
    forms = [(format, precision) for format, precisions in FORMATS.items() for precision in precisions]
    timed = [timed_runtime(*form) for form in forms]
    assert sorted(filter(None, timed)) == sorted(RUNTIMES)
    assert {precision for _, precision in forms} == set(PRECISIONS)
    assert timed_runtime("openvino", "fp16") is None


def test_every_runtime_has_the_form_that_it_was_timed_with():
    assert [timed_runtime(*form_of(runtime)) for runtime in RUNTIMES] == list(RUNTIMES)
    with pytest.raises(ValueError, match="runtime must be one of torch, .* got 'tensorrt'"):
        form_of("tensorrt")
