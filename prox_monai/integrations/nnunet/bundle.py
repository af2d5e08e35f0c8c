"""A subnet as a MONAI bundle: nnU-Net's preprocessing in MONAI's transforms around the network in TorchScript."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
from torch import nn

from prox_monai import __version__
from prox_monai.export.absent import named_extra
from prox_monai.export.torchscript import FILE as TORCHSCRIPT
from prox_monai.export.torchscript import torchscript_allowed, write_torchscript
from prox_monai.integrations.nnunet.bundle_config import POSTFIX, inference_config, window_order, window_size
from prox_monai.integrations.nnunet.case_predictor import CasePredictor
from prox_monai.integrations.nnunet.deployed import from_trained
from prox_monai.integrations.nnunet.describing import channel_names
from prox_monai.integrations.nnunet.images import Case
from prox_monai.integrations.nnunet.scoring import mean_dice
from prox_monai.integrations.nnunet.trained import TrainedModel
from prox_monai.space import SubnetConfig

_INFERENCE, _METADATA, _README = "configs/inference.json", "configs/metadata.json", "docs/README.md"
_NETWORK = f"models/{TORCHSCRIPT}"
BUNDLE_FILES = (_NETWORK, _INFERENCE, _METADATA, _README)
"""What a bundle of a subnet holds, the network first."""

_PACKAGES = ("pytorch-ignite", "fire", "nibabel", "scipy")
_SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
_TEXT = """# {subnet}

A subnet of a family of networks that was trained on {dataset} with nnU-Net and prox-monai {version}. It needs neither:

    python -m monai.bundle run --config_file configs/inference.json --dataset_dir IMAGES --output_dir PREDICTIONS

Images are named as nnU-Net wants it, `CASE_0000{ending}` for the first channel; those of the only channel as you like.
Preprocessing is nnU-Net's in MONAI's transforms, without mirroring. Where voxels have another size than in training,
label maps differ a little from nnU-Net's: MONAI's voxels have the planned size exactly, nnU-Net's fill the image. They
differ more where an image's voxels are over three times as long as wide, but the planned ones are not: there nnU-Net
lays splines in the plane only, MONAI along all axes.
"""


def write_bundle(model: TrainedModel, config: SubnetConfig, network: nn.Module, folder: str | Path) -> tuple[str, ...]:
    """Write a network as a bundle which needs neither this package nor nnU-Net.

    Args:
        model: the trained model, whose images and labels the bundle has, see ``check_bundled``.
        config: the subnet.
        network: its plain network.
        folder: where to write.

    Returns:
        The names of the files, the network first.

    Raises:
        ImportError: When MONAI is not installed.
    """
    folder = Path(folder)
    text = _TEXT.format(
        subnet=config,
        dataset=model.plans["dataset_name"],
        version=__version__,
        ending=model.dataset_json["file_ending"],
    )
    texts = {
        _INFERENCE: json.dumps(inference_config(model), indent=4),
        _METADATA: json.dumps(_metadata(model, config), indent=4),
        _README: text,
    }
    for name, content in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    (folder / _NETWORK).parent.mkdir()
    inside = {Path(name).name: texts[name] for name in (_INFERENCE, _METADATA)}  # where MONAI's own applications look
    write_torchscript(network, model.input_shape, window_order(model), folder / _NETWORK, inside)
    return BUNDLE_FILES


def _metadata(model: TrainedModel, config: SubnetConfig) -> dict[str, Any]:
    with named_extra("a MONAI bundle", "monai"):
        import monai
    channels, labels = channel_names(model.dataset_json), model.dataset_json["labels"]
    computed = "CTNormalization" in model.configuration.normalization_schemes
    heads = [name for name in labels if name != "ignore"]
    if model.labels.has_regions:
        heads.remove("background")

    def image(kind: str, channels: Sequence[str], **more: str) -> dict[str, Any]:
        return {
            "type": "image",
            "format": kind,
            **more,
            "num_channels": len(channels),
            "spatial_shape": window_size(model),
            "dtype": "float32",
            "value_range": [],
            "is_patch_data": True,
            "channel_def": {str(number): name for number, name in enumerate(channels)},
        }

    names = [channels[str(number)] for number in range(len(channels))]
    modality = {"modality": ", ".join(names)}
    return {
        "schema": _SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": "first version"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {name: version(name) for name in _PACKAGES},
        "supported_apps": {},
        "name": f"{model.plans['dataset_name']}, subnet {config}",
        "task": f"Segmentation of {', '.join(name for name in heads if name != 'background')}",
        "description": "A subnet of an elastic network that was trained with nnU-Net, as a network of its own",
        "authors": "those who trained it",
        "copyright": "of those who trained it",
        "data_type": model.dataset_json["file_ending"],
        "intended_use": "Research; not for diagnosis",
        "network_data_format": {
            "inputs": {"image": image("hounsfield" if computed else "magnitude", names, **modality)},
            "outputs": {"pred": image("segmentation", heads)},
        },
        "subnet": config.to_dict(),
    }


def bundled_dice(
    model: TrainedModel, config: SubnetConfig, bundle: str | Path, raw: str | Path, cases: Sequence[str]
) -> dict[str, float]:
    """Return the mean Dice of label maps by nnU-Net with the plain subnet, and by the bundle, both without mirroring.

    Args:
        model: the trained model.
        config: the subnet.
        bundle: folder of :func:`write_bundle`.
        raw: nnU-Net's folder of the raw data set.
        cases: identifiers of cases in it.
    """
    known = get_filenames_of_train_images_and_targets(str(raw), dict(model.dataset_json))
    images = {case: tuple(Path(file) for file in known[case]["images"]) for case in cases}
    predictor, ending = CasePredictor(from_trained(model, config), mirror=False), model.dataset_json["file_ending"]
    with tempfile.TemporaryDirectory() as folder:
        _predict_by_bundle(bundle, list(images.values()), Path(folder))
        by_bundle = {
            case: Path(folder, f"{files[0].name.removesuffix(ending)}_{POSTFIX}{ending}")
            for case, files in images.items()
        }
        by_nnunet = {
            case: predictor.write(Case(case, files), Path(folder, f"{case}{ending}")).path
            for case, files in images.items()
        }
        return {
            name: mean_dice({case: _dice(model, known[case]["label"], path) for case, path in paths.items()})
            for name, paths in (("plain", by_nnunet), ("exported", by_bundle))
        }


def _predict_by_bundle(bundle: str | Path, images: Sequence[Sequence[Path]], output: Path) -> None:
    """Write label maps of images, given by their files, as the bundle's own configuration does."""
    with named_extra("a MONAI bundle", "monai"):
        from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(Path(bundle, _INFERENCE))
    parser["images"] = [[str(file) for file in files] for files in images]
    parser["bundle_root"], parser["output_dir"], parser["handlers"] = str(bundle), str(output), []
    parser["device"] = "$torch.device('cpu')"
    parser["postprocessing"]["transforms"][-1]["print_log"] = False  # a line for each file
    with torchscript_allowed():
        parser.get_parsed_content("run")


def _dice(model: TrainedModel, reference: str, prediction: Path) -> dict[str, float]:
    """Compare label maps on the image's own grid with nnU-Net's metrics."""
    labels, reader = model.labels, model.plans_manager.image_reader_writer_class()
    of = labels.foreground_regions if labels.has_regions else labels.foreground_labels
    metrics = compute_metrics(reference, str(prediction), reader, of, labels.ignore_label)["metrics"]
    return {str(label): float(values["Dice"]) for label, values in metrics.items()}
