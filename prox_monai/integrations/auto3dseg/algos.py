"""The value of ``AutoRunner(algos=...)``."""

from __future__ import annotations

from typing import Any

from prox_monai.integrations.auto3dseg.reading import read_values
from prox_monai.plugin_files import plugin_folder

TARGET = "prox_monai.integrations.auto3dseg.ProxAlgo"


def algos(**settings: Any) -> dict[str, dict[str, Any]]:
    """Return ``prox`` as ``AutoRunner`` and ``BundleGen`` take algorithms: nothing is downloaded, no folder searched.

    Others stand beside it: ``algos() | {"segresnet": {"_target_": "segresnet.scripts.algo.SegresnetAlgo",
    "template_path": "<folder that holds segresnet>"}}``.

    Args:
        **settings: parameters that are not to be planned from the data, see :class:`Parameters`.

    Raises:
        ValueError: When a setting is unknown or nested, or its value is not allowed.
    """
    read_values(settings)
    entry: dict[str, Any] = {"_target_": TARGET, "template_path": str(plugin_folder("auto3dseg"))}
    return {"prox": entry | ({"settings": settings} if settings else {})}
