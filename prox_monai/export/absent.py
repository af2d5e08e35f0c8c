"""What to say where a format's package is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def named_extra(what: str, name: str = "export") -> Iterator[None]:
    """Imports that need an extra of the package.

    Args:
        what: the format or runtime that needs them.
        name: of the extra.

    Raises:
        ImportError: When one of them is not installed; the message says what to install.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(f'{what} needs an extra ({error}): pip install "prox-monai[{name}]"') from error
