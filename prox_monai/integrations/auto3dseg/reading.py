"""Parameters as files and command lines give them: every value checked, all that is wrong said at once."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any

from prox_monai.integrations.auto3dseg.parameters import Parameters
from prox_monai.training import PRESETS

_Read = Callable[[Any], Any]


def read_parameters(given: Mapping[str, Any], override: Mapping[str, Any] | None = None) -> Parameters:
    """Read parameters as a file or a command line gives them.

    Args:
        given: name and value of every parameter that has no default; others are refused.
        override: parameters that take the place of those given. Lists may be texts such as ``'16,16,16'``, which
            Auto3DSeg makes of them.

    Raises:
        ValueError: When a parameter is unknown, nested or missing, or a value is not allowed.
    """
    values = {**given, **(override or {})}
    problems = _objections(values)
    fields = dataclasses.fields(Parameters)
    missing = [field.name for field in fields if field.default is dataclasses.MISSING and field.name not in values]
    if missing:
        problems.append(f"{', '.join(missing)} must be given.")
    if problems:
        raise ValueError(" ".join(problems))
    return Parameters(**read_values(values))


def read_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Read some parameters, each for itself; returns their values.

    Args:
        given: name and value, as for :func:`read_parameters`.

    Raises:
        ValueError: When a parameter is unknown or nested, or a value is not allowed.
    """
    if problems := _objections(given):
        raise ValueError(" ".join(problems))
    return {name: _READERS[name][1](_plain(value)) for name, value in given.items()}


def _objections(given: Mapping[str, Any]) -> list[str]:
    return [problem for name, value in given.items() if (problem := _objection(name, value))]


def _objection(name: str, value: Any) -> str | None:
    if any(mark in name for mark in ("#", "::", ".")) or isinstance(_plain(value), Mapping):
        return f"{name} is nested: the parameters of prox are flat, {', '.join(_READERS)}."
    if name not in _READERS:
        close = difflib.get_close_matches(name, _READERS, n=1)
        meant = f", did you mean {close[0]!r}?" if close else ";"
        return f"unknown parameter {name!r}{meant} The parameters of prox are {', '.join(_READERS)}."
    allowed, read = _READERS[name]
    try:
        read(_plain(value))
    except (TypeError, ValueError):
        return f"{name} must be {allowed}, got {value!r}."
    return None


def _plain(value: Any) -> Any:
    """What a text stands for: ``'16,16,16'``, with or without quotes and brackets, is three numbers."""
    while isinstance(value, str):
        try:
            read = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            break
        value = read
    return value


def _integer(least: int) -> _Read:
    def read(value: Any) -> int:
        if isinstance(value, (bool, str)) or int(value) != value or value < least:
            raise ValueError
        return int(value)

    return read


def _number(least: float, most: float = math.inf) -> _Read:
    def read(value: Any) -> float:
        if isinstance(value, (bool, str)) or not least <= value <= most or not math.isfinite(value):
            raise ValueError
        return float(value)

    return read


def _positive(value: Any) -> float:
    if _number(0)(value) == 0:
        raise ValueError
    return float(value)


def _list(read: _Read, length: int | None = None) -> _Read:
    def read_all(value: Any) -> tuple[Any, ...]:
        values = tuple(map(read, value if isinstance(value, (list, tuple)) else (value,)))
        if not values or len(values) != (length or len(values)):
            raise ValueError
        return values

    return read_all


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _one_of(*allowed: str) -> tuple[str, _Read]:
    def read(value: Any) -> str:
        if value not in allowed:
            raise ValueError
        return value

    return f"one of {', '.join(allowed)}", read


def _intensity(value: Any) -> tuple[float, ...]:
    return _list(_number(-math.inf), 4)(value) if value else ()


def read_names(value: Any) -> tuple[str, ...]:
    """Return the names of subnets: one, several separated by commas, or a list.

    Raises:
        ValueError: When there is none, or one is no text.
    """
    given = _plain(value)
    names = [name.strip() for name in given.split(",")] if isinstance(given, str) else given
    try:
        return _list(_text)(names)
    except (TypeError, ValueError) as error:
        raise ValueError(f"subnet must be a subnet's name, or several, got {value!r}.") from error


_COUNT = ("an integer >= 1", _integer(1))
_FRACTION = ("a number in [0, 1]", _number(0, 1))
_PATH = ("a path", _text)

_READERS: dict[str, tuple[str, _Read]] = {
    "data_list_file_path": _PATH,
    "data_file_base_dir": _PATH,
    "fold": ("an integer >= 0", _integer(0)),
    "input_channels": _COUNT,
    "output_classes": ("an integer >= 2", _integer(2)),
    "roi_size": ("three integers >= 1", _list(_integer(1), 3)),
    "resample_resolution": ("three numbers > 0", _list(_positive, 3)),
    "normalize_mode": _one_of("ct", "image", "nonzero"),
    "intensity": ("four numbers, or none", _intensity),
    "num_epochs": _COUNT,
    "num_epochs_per_validation": _COUNT,
    "num_images_per_batch": _COUNT,
    "num_sw_batch_size": _COUNT,
    "overlap_ratio": ("a number in [0, 0.95]", _number(0, 0.95)),
    "learning_rate": ("a number > 0", _positive),
    "num_workers": ("an integer >= 0", _integer(0)),
    "cache_rate": _FRACTION,
    "amp": ("true or false", _flag),
    "prox_preset": _one_of(*(name for name in PRESETS if name != "standalone")),
    "prox_iterations_per_epoch": _COUNT,
    "prox_depth": ("integers >= 1", _list(_integer(1))),
    "prox_width": ("numbers > 0", _list(_positive)),
    "prox_kernel": ("odd integers", _list(_integer(1))),
    "prox_resolution": ("numbers in (0, 1]", _list(_positive)),
    "prox_channels": _COUNT,
    "prox_seed": ("an integer >= 0", _integer(0)),
    "prox_per_bucket": ("an integer >= 0", _integer(0)),
    "subnet": ("a subnet's name, or several", read_names),
    "max_latency_ms": ("a number >= 0", _number(0)),
}
