"""A subnet of a trained model as an ONNX, OpenVINO or torch model, with its preprocessing described beside it."""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from prox_monai.data.complete import check_free, complete_folder, is_free
from prox_monai.evaluation.cost import parameters
from prox_monai.export.description import FILE as DESCRIPTION
from prox_monai.export.description import Description, file_digest
from prox_monai.export.exported import NETWORK_FILES, load_exported, open_runtime, write_network
from prox_monai.export.formats import check_installed, check_precision
from prox_monai.export.parity import check_parity, compare
from prox_monai.export.runtime import RuntimeNetwork
from prox_monai.export.runtimes import PlainRuntime
from prox_monai.export.timing import side_by_side
from prox_monai.integrations.nnunet.bundle import BUNDLE_FILES, bundled_dice, write_bundle
from prox_monai.integrations.nnunet.bundle_config import check_bundled
from prox_monai.integrations.nnunet.calibration import PARITY_PATCHES, Cases, patches_to_compare
from prox_monai.integrations.nnunet.compression import DISTILLATION, Compression, write_int8
from prox_monai.integrations.nnunet.describing import describe_export
from prox_monai.integrations.nnunet.finetune import finetune
from prox_monai.integrations.nnunet.trained import TrainedModel
from prox_monai.space import SubnetConfig

logger = logging.getLogger(__name__)

_COPIED = ("plans.json", "dataset.json")  # nnU-Net reads preprocessing from them
_PLAIN = Compression()


def deploy(
    model: TrainedModel,
    config: SubnetConfig,
    format: str,
    destination: str | Path,
    *,
    cases: Cases | None = None,
    compression: Compression = _PLAIN,
    overwrite: bool = False,
) -> Description:
    """Export a subnet; the folder appears when it is complete and checked.

    The logits of ``fp32`` equal the plain network's within 1e-4 of the largest, on patches of unseen cases (without
    cases: of random numbers). Of ``fp16``, ``int8`` and whatever is fine-tuned, the mean Dice on the tuning half of the
    unseen cases is compared, and that on the reporting half, which has no say in what is written, is told. Of a bundle
    the label maps of raw images are compared by Dice, too, where they are there.

    Args:
        model: the trained model.
        config: the subnet; its resolution is part of what is exported.
        format: ``onnx``, ``openvino``, ``torch`` or ``bundle`` (of MONAI).
        destination: a folder that does not exist, or is empty.
        cases: what to calibrate and to compare on; needed where Dice is compared.
        compression: precision, and how it is reached.
        overwrite: replace an export that is there, once the new one is complete; nothing else.

    Raises:
        FileExistsError: When the destination holds anything, with ``overwrite`` anything beside an export.
        ImportError: When a package that the format needs is not installed.
        ValueError: When the subnet is not in the search space, the format does not come in this precision, or cases
            are needed.
        RuntimeError: When the exported network differs from the plain one by more than is allowed.
    """
    destination = Path(destination)
    replace = overwrite and _is_export(destination)
    if overwrite and not replace and not is_free(destination):
        raise FileExistsError(f"{destination} holds something else than an export; choose another folder or remove it.")
    if not overwrite:
        check_free(destination)
    check_precision(format, compression.precision)
    check_installed(format, compression.precision)
    if format == "bundle":
        check_bundled(model)
    model.supernet.space.check(config)
    if cases is None and compression.needs_cases:
        raise ValueError("fp16, int8 and fine-tuning are compared by Dice, which needs preprocessed cases.")
    plain = model.supernet.extract(config).eval()
    with complete_folder(destination.resolve(), replace=replace) as folder:
        folder.mkdir(parents=True)
        written = _write(model, config, plain, format, folder, cases, compression)
        runtime = open_runtime(folder / written.files[0], format, compression.precision, torch.get_num_threads())
        exported = RuntimeNetwork(runtime, model.input_shape).eval()
        checks = _checks(model, plain, written.network, exported, cases, compression)
        if format == "bundle":
            checks |= _label_maps(model, config, folder, cases, compression)
        size = sum((folder / name).stat().st_size for name in written.files)
        checks["megabytes"] = {"plain": parameters(plain) * 4 / 1e6, "exported": size / 1e6}
        description = describe_export(
            model,
            config,
            format=format,
            precision=compression.precision,
            files={name: file_digest(folder / name) for name in (*written.files, *_COPIED)},
            steps=written.steps,
            checks=checks,
        )
        description.write(folder)
        load_exported(folder)
    return description


def _is_export(folder: Path) -> bool:
    """Whether a folder holds an export, which may be damaged, and nothing else."""
    if not (folder / DESCRIPTION).is_file():
        return False
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    return names <= {DESCRIPTION, *_COPIED, *NETWORK_FILES, *BUNDLE_FILES}


@dataclass(frozen=True, slots=True)
class _Written:
    """What was written: the files, the one to open first; how it was made; the network that it should equal."""

    files: tuple[str, ...]
    steps: tuple[str, ...]
    network: nn.Module


def _write(
    model: TrainedModel,
    config: SubnetConfig,
    plain: nn.Module,
    format: str,
    folder: Path,
    cases: Cases | None,
    compression: Compression,
) -> _Written:
    network, steps = plain, []
    if compression.finetune:
        network = finetune(model, plain, compression.finetune, DISTILLATION)
        steps.append(f"fine-tuned for {compression.finetune} steps")
    if compression.precision == "int8":
        files, made = write_int8(cases, network, plain, folder, compression)
        steps.append(made)
    elif format == "bundle":
        files = write_bundle(model, config, network, folder)
    else:
        files = write_network(network, model.input_shape, folder, format, compression.precision)
    for name, content in zip(_COPIED, (model.plans, model.dataset_json), strict=True):
        (folder / name).write_text(json.dumps(content, indent=4))
    return _Written(files, tuple(steps), network)


def _checks(
    model: TrainedModel,
    plain: nn.Module,
    network: nn.Module,
    exported: RuntimeNetwork,
    cases: Cases | None,
    compression: Compression,
) -> dict[str, Any]:
    """Compare what was written with the network that was to be written, and with the plain subnet."""
    what = f"{compression.precision} in {exported.runtime.name}"
    logger.info("comparing %s with the plain subnet", what)
    patches, source = patches_to_compare(model, cases)
    parity = compare(network, exported, patches)
    if compression.precision == "fp32":
        check_parity(parity, what)
    in_torch = PlainRuntime(plain, torch.get_num_threads())
    checks = {
        "parity": dataclasses.asdict(parity) | {"patches_of": source},
        "latency_ms": side_by_side({"plain": in_torch, "exported": exported}, patches[0]),
        "runtime": {"name": exported.runtime.name, "version": exported.runtime.version},
        "device": exported.runtime.device,
        "threads": torch.get_num_threads(),
    }
    if compression.needs_cases:
        dice = _dice(plain, exported, cases, "tuning")
        compression.check(dice["plain"] - dice["exported"], what, dice["cases"])
        checks["dice"] = dice
        if cases.reporting:
            checks["dice_reporting"] = _dice(plain, exported, cases, "reporting")
    return checks


def _label_maps(
    model: TrainedModel, config: SubnetConfig, folder: Path, cases: Cases | None, compression: Compression
) -> dict[str, Any]:
    """Compare the label maps of raw images, which a bundle's own transforms lead to, with those of the plain subnet."""
    if cases is None or cases.raw is None:
        logger.warning("label maps are not compared: the raw data set, with its images, is not in nnUNet_raw")
        return {}
    compared = cases.tuning[:PARITY_PATCHES]
    logger.info("comparing label maps of %d cases, from image to image", len(compared))
    dice = bundled_dice(model, config, folder, cases.raw, compared)
    compression.check(dice["plain"] - dice["exported"], "the bundle", len(compared))
    return {"label_maps": {"half": "tuning", "cases": len(compared), **dice}}


def _dice(
    plain: nn.Module, exported: nn.Module, cases: Cases, half: Literal["tuning", "reporting"]
) -> dict[str, float | int | str]:
    dice = {"plain": cases.dice(plain, half), "exported": cases.dice(exported, half)}
    return {"half": half, "cases": len(getattr(cases, half)), **dice}
