"""The stack on which a thread's signal handlers run, kept from OpenVINO."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Give the thread its signal stack back at the end.

    On Linux every ``openvino.Core`` that compiles puts a stack of its own in the place of the one that it finds, and
    puts that back when it is destroyed. Of two that are not destroyed in the reverse order the thread is left with a
    stack that is no longer mapped, and the next signal, of a child that ended or of Ctrl-C, is a segmentation fault.
    """
    if sys.platform != "linux":
        yield
        return
    sigaltstack, before = ctypes.CDLL(None).sigaltstack, _Stack()
    sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        sigaltstack(ctypes.byref(before), None)
