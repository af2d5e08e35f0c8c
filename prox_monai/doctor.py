"""What an installation lacks to train with nnU-Net, and for each problem the line that mends it."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from prox_monai.plugin_files import plugin_folder

DISTRIBUTIONS = ("torch", "nnunetv2", "monai", "setuptools")
GIB = 2**30
RESULTS_GIB = 20  # checkpoints and validation of a usual plan (30 M parameters, kernels of 5^3) take about 15
_EXTRA = 'pip install "prox-monai[nnunet]"'


class Level(StrEnum):
    """How bad a finding is."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; ``mend`` is a line for the shell, empty if nothing is to be mended."""

    check: str
    level: Level
    message: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Environment:
    """All that the checks look at, folders on disk excepted.

    Args:
        python: version of the interpreter, ``(major, minor, micro)``.
        versions: versions of the installed distributions among :data:`DISTRIBUTIONS`.
        variables: environment variables.
        gpus: names of the CUDA devices that torch sees.
        find_trainer: nnU-Net's own search for ProXTrainer; raises what it raises.
    """

    python: tuple[int, int, int]
    versions: Mapping[str, str]
    variables: Mapping[str, str]
    gpus: tuple[str, ...]
    find_trainer: Callable[[], type]

    @classmethod
    def current(cls) -> Environment:
        """Describe this process."""
        versions = {name: found for name in DISTRIBUTIONS if (found := _version(name))}
        gpus = _gpus() if "torch" in versions else ()
        return cls(sys.version_info[:3], versions, os.environ, gpus, _find_trainer)


def check_python(environment: Environment) -> Finding:
    """Python 3.11 or newer; from 3.12 on nnU-Net's planning needs setuptools, for ``distutils``."""
    found = ".".join(map(str, environment.python))
    if environment.python < (3, 11):
        return Finding("Python", Level.FAIL, f"{found}; 3.11 or newer is needed", "python3.11 -m venv .venv")
    if environment.python >= (3, 12) and "setuptools" not in environment.versions:
        message = f"{found} has no distutils, which nnUNetv2_plan_and_preprocess imports"
        return Finding("Python", Level.FAIL, message, "pip install setuptools")
    return Finding("Python", Level.OK, found)


def check_torch(environment: Environment) -> Finding:
    """Torch 2.6 or newer, and not 2.9."""
    found = environment.versions.get("torch")
    if found is None or _numbers(found) < (2, 6):
        message = f"{found or 'not installed'}; 2.6 or newer is needed"
        return Finding("torch", Level.FAIL, message, 'pip install "torch>=2.6,!=2.9.*"')
    if _numbers(found)[:2] == (2, 9):
        message = f"{found} runs 3-D convolutions in mixed precision 4 times slower; nnU-Net excludes it"
        return Finding("torch", Level.WARN, message, 'pip install "torch>=2.6,!=2.9.*"')
    return Finding("torch", Level.OK, found)


def check_nnunet(environment: Environment) -> Finding:
    """An nnU-Net that looks for trainers outside itself."""
    found = environment.versions.get("nnunetv2")
    mend = 'pip install "nnunetv2>=2.8.0,<3"'
    if found is None:
        return Finding("nnunetv2", Level.FAIL, "not installed", mend)
    if _numbers(found) < (2, 8, 0):
        message = f"{found} knows no external trainers (nnUNet_extTrainer); 2.8.0 is the first that does"
        return Finding("nnunetv2", Level.FAIL, message, mend)
    if _numbers(found) >= (3,):
        return Finding("nnunetv2", Level.WARN, f"{found} is newer than ProXTrainer was made for", mend)
    return Finding("nnunetv2", Level.OK, found)


def check_monai(environment: Environment) -> Finding:
    """MONAI, which is optional for nnU-Net users."""
    found = environment.versions.get("monai")
    mend = 'pip install "monai>=1.6"'
    if found is None:
        message = "not installed; needed for nnUNetV2Runner, bundles and downloading data only"
        return Finding("monai", Level.WARN, message, mend)
    if _numbers(found) < (1, 6):
        return Finding("monai", Level.WARN, f"{found}; 1.6 or newer is needed", mend)
    return Finding("monai", Level.OK, found)


def check_trainer(environment: Environment) -> Finding:
    """``nnUNet_extTrainer`` names our folder, and nnU-Net finds ProXTrainer there."""
    name = "nnUNet_extTrainer"
    value = environment.variables.get(name, "")
    ours = plugin_folder("nnunet")
    mend = f'export {name}="$(prox-monai nnunet-path)"'
    if not value:
        return Finding(name, Level.FAIL, "not set, so nnU-Net does not know ProXTrainer", mend)
    if ours.resolve() not in [Path(path).resolve() for path in value.split(os.pathsep) if path]:
        appended = f'export {name}="${name}{os.pathsep}$(prox-monai nnunet-path)"'
        return Finding(name, Level.FAIL, f"{value} does not contain {ours}", appended)
    try:
        environment.find_trainer()
    except Exception as error:  # nnU-Net imports whatever lies in those folders, which can raise anything
        message = f"nnU-Net finds no ProXTrainer in {value}: {type(error).__name__}: {error}"
        missing = _EXTRA if isinstance(error, ModuleNotFoundError) else ""
        return Finding(name, Level.FAIL, message, check_nnunet(environment).mend or missing or mend)
    return Finding(name, Level.OK, f"ProXTrainer found in {ours}")


def check_folder(name: str, written: bool, environment: Environment) -> Finding:
    """One of nnU-Net's three folders: named by its variable, there, and writable if nnU-Net writes to it."""
    value = environment.variables.get(name)
    if not value:
        return Finding(name, Level.FAIL, "not set", f'export {name}="$HOME/{name}"')
    if not Path(value).is_dir():
        return Finding(name, Level.FAIL, f"{value} is not a folder", f'mkdir -p "{value}"')
    if written and not os.access(value, os.W_OK | os.X_OK):
        return Finding(name, Level.FAIL, f"{value} is not writable", f'chmod u+rwx "{value}"')
    return Finding(name, Level.OK, value)


def check_disk(environment: Environment) -> Finding:
    """Room for the checkpoints, in ``nnUNet_results``."""
    folder = environment.variables.get("nnUNet_results", "")
    if not folder or not Path(folder).is_dir():
        message = "unknown without a folder in nnUNet_results"
        return Finding("free disk", Level.WARN, message, 'export nnUNet_results="$HOME/nnUNet_results"')
    free = shutil.disk_usage(folder).free / GIB
    if free < RESULTS_GIB:
        message = f"{free:.1f} GiB in nnUNet_results; a training may need {RESULTS_GIB}"
        return Finding("free disk", Level.WARN, message, 'export nnUNet_results="/on/a/larger/disk"')
    return Finding("free disk", Level.OK, f"{free:.0f} GiB in nnUNet_results")


def check_settings(environment: Environment) -> Finding:
    """The settings file that ``PROX_CONFIG`` names, read as ``ProXTrainer`` will where nnU-Net is installed."""
    value = environment.variables.get("PROX_CONFIG")
    if not value:
        return Finding("PROX_CONFIG", Level.OK, "not set; ProXTrainer's own settings are used")
    if not Path(value).is_file():
        return Finding("PROX_CONFIG", Level.FAIL, f"{value} is not a file", "unset PROX_CONFIG")
    if "nnunetv2" in environment.versions:
        try:
            from prox_monai.integrations.nnunet.settings import ProXSettings, resolve_settings

            resolve_settings(ProXSettings(), environment.variables)
        except ModuleNotFoundError as error:
            return Finding("PROX_CONFIG", Level.FAIL, f"{value} cannot be read: {error}", _EXTRA)
        except (ValueError, OSError) as error:
            return Finding("PROX_CONFIG", Level.FAIL, " ".join(str(error).split()), f'"${{EDITOR:-vi}}" "{value}"')
    return Finding("PROX_CONFIG", Level.OK, value)


def check_gpu(environment: Environment) -> Finding:
    """A CUDA device, without which training takes days."""
    if not environment.gpus:
        message = "torch sees none; training takes days on a CPU, which nnU-Net uses when told to"
        return Finding("GPU", Level.WARN, message, "nnUNetv2_train ... -device cpu")
    return Finding("GPU", Level.OK, ", ".join(environment.gpus))


CHECKS: tuple[Callable[[Environment], Finding], ...] = (
    check_python,
    check_torch,
    check_nnunet,
    check_monai,
    check_trainer,
    partial(check_folder, "nnUNet_raw", False),
    partial(check_folder, "nnUNet_preprocessed", True),
    partial(check_folder, "nnUNet_results", True),
    check_disk,
    check_settings,
    check_gpu,
)


def examine(environment: Environment) -> list[Finding]:
    """Make all checks, in the order in which their problems are best mended."""
    return [check(environment) for check in CHECKS]


def table(findings: Sequence[Finding]) -> str:
    """Lay findings out as plain text, the mending line below its problem."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<4}  {finding.check:<{width}}  {finding.message}")
        if finding.mend:
            lines.append(f"{'':{width + 8}}-> {finding.mend}")
    return "\n".join(lines)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _numbers(found: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", found)[:3])


def _gpus() -> tuple[str, ...]:
    import torch

    if not torch.cuda.is_available():
        return ()
    return tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def _find_trainer() -> type:
    """Search as ``nnUNetv2_train -tr ProXTrainer`` does: seconds, since nnU-Net imports all its trainers."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
        from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

        return recursive_find_trainer_class_by_name("ProXTrainer")
