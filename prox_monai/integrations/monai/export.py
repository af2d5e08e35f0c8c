"""A subnet of a trained bundle as a plain bundle, which needs no plugin."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ckpt_export
from monai.transforms import ResizeWithPadOrCrop
from torch import Tensor, nn

from prox_monai.data.class_folders import SUFFIXES
from prox_monai.data.complete import check_free, complete_folder
from prox_monai.elastic import Architecture
from prox_monai.elastic.resolution import AtResolution
from prox_monai.export.parity import check_parity, compare
from prox_monai.export.torchscript import torchscript_allowed
from prox_monai.integrations.monai.bundle import FINAL, check_about, check_bundle_root, check_trained
from prox_monai.integrations.monai.inference import inference_file, inference_parser, own_errors
from prox_monai.integrations.monai.network import SubnetNetwork
from prox_monai.integrations.monai.stock_unet import PACKAGE, stock_definition, stock_state
from prox_monai.networks import UNetArchitecture
from prox_monai.space import SubnetConfig

COMPARED = 20  # images
_PREFIX = "prox_monai.integrations.monai."
logger = logging.getLogger(__name__)

_README = """# {subnet}

A subnet of the elastic network of the bundle `{bundle}`, as a network of its own. It needs no prox_monai.

    python -m monai.bundle run --config_file configs/inference.json --dataset_dir <folder of images>

`configs/metadata.json` has its depth, width, kernel and resolution, and what must be installed.
"""
_DROPPED = ("CheckChannelsd", "CheckLabelsd")
_PLUGIN = re.compile(r"prox_monai|\bprox\.")
_PLACES = ("dataset_dir", "output_dir")  # which people name as they like


def export_bundle(
    bundle: str | Path,
    destination: str | Path,
    *,
    subnet: str = "largest",
    max_latency_ms: float | None = None,
    ckpt_dir: str | Path | None = None,
    configs: Sequence[str | Path] = (),
    dataset_dir: str | Path | None = None,
) -> SubnetConfig:
    """Write a subnet of a trained bundle as a bundle of its own, which appears when it is complete.

    A plain U-Net at resolution 1 becomes nnU-Net's network class; everything else TorchScript, through MONAI's own
    ``ckpt_export``. Neither needs this package. The logits of what was written equal the subnet's within 1e-4 of the
    largest, on preprocessed images (without images: on random numbers).

    Args:
        bundle: folder of the bundle.
        destination: a folder that does not exist, or is empty.
        subnet: name or alias of the subnet.
        max_latency_ms: take the best subnet known within this budget instead, in milliseconds.
        ckpt_dir: where the trained model is, if not in ``models`` of the bundle.
        configs: configuration files that the training had beside ``train.json``, for example ``configs/quick.json``.
        dataset_dir: folder of images to compare on, as the inference of the bundle takes it.

    Returns:
        The subnet.

    Raises:
        FileExistsError: When the destination holds anything.
        ValueError: When there is no trained model, no such subnet, none within the budget, the model was trained
            with another patch or architecture than the configuration has, or ``dataset_dir`` holds no image.
        ImportError: When the package of nnU-Net's network class is not installed, and needed.
        RuntimeError: When the logits differ by more.
    """
    destination = Path(destination)
    check_free(destination)
    check_bundle_root(bundle)
    models = Path(ckpt_dir or Path(bundle, "models"))
    check_trained(models)
    chosen = {"ckpt_dir": str(models), "subnet": subnet, "max_latency_ms": max_latency_ms}
    parser = inference_parser(bundle, configs, chosen)
    images = _listed(parser, dataset_dir)
    with own_errors():
        check_about(models, parser.get_parsed_content("about") if "about" in parser.config else {})
        supernet: SubnetNetwork = parser.get_parsed_content("network_def")
    state = torch.load(models / FINAL, map_location="cpu", weights_only=True)
    supernet.load_state_dict(state.get("model", state))
    network = supernet.eval().extract(supernet.active)
    metadata = json.loads(Path(bundle, "configs", "metadata.json").read_text(encoding="utf-8"))
    with complete_folder(destination) as partial:
        (partial / "configs").mkdir(parents=True)
        (partial / "models").mkdir()
        _write_plain(_of_inference(parser.config, bundle), metadata, supernet, network, partial)
        (partial / "docs").mkdir()
        for name in ("LICENSE", "docs/data_license.txt"):
            shutil.copy(Path(bundle, name), partial / name)
        text = _README.format(bundle=Path(bundle).resolve().name, subnet=supernet.active)
        (partial / "docs" / "README.md").write_text(text, encoding="utf-8")
        inputs = _inputs(parser, images) if images else _noise(metadata)
        parity = compare(network.eval(), _written(partial), inputs)
        check_parity(parity, "the exported network")
        message = "logits differ by %.2g at most from the subnet's, on %s %s"
        logger.info(message, parity.max_difference, parity.patches, "images" if images else "patches of random numbers")
    return supernet.active


def _write_plain(
    config: Mapping[str, Any], metadata: dict[str, Any], supernet: SubnetNetwork, network: nn.Module, folder: Path
) -> None:
    """Write configuration, metadata and weights."""
    plain = _without_plugin(config)
    stock = isinstance(supernet.architecture, UNetArchitecture) and not isinstance(network, AtResolution)
    for key in ("_meta_", "displayable_configs", "subnet", "max_latency_ms", "architecture", "space", "about"):
        plain.pop(key, None)
    plain["imports"] = [line for line in plain["imports"] if "prox_monai" not in line] + ["$import glob"]
    plain |= {"bundle_root": ".", "ckpt_dir": "$@bundle_root + '/models'", "initialize": []}
    plain["images"] = _images(str(plain["images"]))
    loader, *handlers = plain["handlers"]
    if stock:
        plain["network_def"] = stock_definition(supernet.architecture, supernet.active)
        torch.save(stock_state(network), folder / "models" / FINAL)
    else:
        plain["network_def"] = "$torch.jit.load(@ckpt_dir + '/model.ts', map_location=@device)"
    plain["handlers"] = [loader, *handlers] if stock else handlers
    _describe(metadata, config, supernet.active, stock=stock)
    if _PLUGIN.search(json.dumps({key: value for key, value in plain.items() if key not in _PLACES})):
        raise RuntimeError("inference.json names something of prox_monai that a plain bundle cannot hold.")
    inference_file(folder).write_text(json.dumps(plain, indent=4), encoding="utf-8")
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata, indent=4), encoding="utf-8")
    if not stock:
        _torchscript(network, supernet.architecture, metadata, folder)


def _of_inference(config: Mapping[str, Any], bundle: str | Path) -> dict[str, Any]:
    """What of a configuration the bundle's own inference has; files of the training have more."""
    own = json.loads(inference_file(bundle).read_text(encoding="utf-8"))
    return {key: value for key, value in config.items() if key in own}


def _without_plugin(value: Any) -> Any:
    """Replace what this package offers to configurations: checks are left out, wrappers unwrapped."""
    if isinstance(value, list):
        kept = [item for item in value if not (isinstance(item, Mapping) and _name(item) in _DROPPED)]
        return [_without_plugin(item) for item in kept]
    if not isinstance(value, Mapping):
        return value
    if _name(value) == "SubnetInferer":
        return _without_plugin(value["inferer"])
    if _name(value) == "ClassPredictionSaver":
        return {"_target_": "monai.data.CSVSaver", "output_dir": value["output_dir"]}
    if _name(value) == "RegionsToLabelsd":
        return {"_target_": "Lambdad", "keys": value["keys"], "func": _labels_of(value["regions"], value["labels"])}
    return {key: _without_plugin(item) for key, item in value.items()}


def _name(component: Mapping[str, Any]) -> str:
    return str(component.get("_target_", "")).removeprefix(_PREFIX)


def _images(expression: str) -> str:
    """An expression that lists what the bundle's own function lists, ``grey_images_of`` or ``images_of``."""
    if "grey_images_of" in expression:
        found = "glob.glob(glob.escape(@dataset_dir) + '/*') + glob.glob(glob.escape(@dataset_dir) + '/*/*')"
        return f"$sorted(path for path in {found} if path.lower().endswith({SUFFIXES}))"
    folders = (
        " + ".join(f"glob.glob(glob.escape(@dataset_dir) + '{folder}/*{suffix}')" for suffix in (".nii", ".nii.gz"))
        for folder in ("", "/imagesTs", "/imagesTr")
    )
    return f"$sorted({' or '.join(folders)})"


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError as error:
        raise ImportError(f'a plain U-Net becomes nnU-Net\'s, in {package}: pip install "prox-monai[monai]"') from error


def _labels_of(regions: list[int], labels: list[int]) -> str:
    """An expression that turns regions into labels, the last that holds first."""
    chosen = "torch.zeros_like(x[:1])"
    for region, label in zip(regions, labels, strict=True):
        chosen = f"torch.where(x[{region}:{region + 1}] > 0, {label}.0, {chosen})"
    return f"$lambda x: {chosen}"


def _shape(metadata: Mapping[str, Any]) -> list[int]:
    """Shape of a batch of one."""
    image = metadata["network_data_format"]["inputs"]["image"]
    return [1, image["num_channels"], *image["spatial_shape"]]


def _describe(metadata: dict[str, Any], config: Mapping[str, Any], subnet: SubnetConfig, *, stock: bool) -> None:
    """Let the family's metadata describe one subnet, at the size of its configuration: a trace is of that size."""
    size = config.get("patch", config.get("size"))
    data = metadata["network_data_format"]
    native = data["inputs"]["image"]["spatial_shape"]
    for item in (*data["inputs"].values(), *data["outputs"].values()):
        if item.get("spatial_shape") == native:
            item["spatial_shape"] = size
    packages = metadata["required_packages_version"]
    packages.pop("prox-monai", None)
    if stock:
        packages[PACKAGE] = _installed(PACKAGE)
    for key in ("search_space", "subnets", "eval_metrics"):  # of the family
        metadata.pop(key, None)
    metadata["name"] = f"{metadata['name']}, subnet {subnet}"
    metadata["description"] = f"The subnet {subnet} of an elastic network, as a network of its own"
    metadata["subnet"] = subnet.to_dict()


def plain_network(architecture: Architecture, config: Mapping[str, Any]) -> nn.Module:
    """Build the plain network of a subnet, which works at the subnet's resolution; for ``ckpt_export``.

    Args:
        architecture: rule from configuration to plain network.
        config: of ``SubnetConfig.to_dict``.
    """
    subnet = SubnetConfig.from_dict(config)
    network = architecture.build(subnet)
    return network if subnet.resolution == 1 else AtResolution(network, architecture.stride, subnet.resolution)


def _torchscript(network: nn.Module, architecture: Architecture, metadata: Mapping[str, Any], folder: Path) -> None:
    """Let MONAI trace the network and write it with metadata and the configuration of inference.

    MONAI Deploy takes its transforms from the ``extra/inference.json`` that is in the file then.
    """
    family = f"{type(architecture).__module__}.{type(architecture).__qualname__}"
    rule = {"_target_": family, **dataclasses.asdict(architecture)}
    definition = {"_target_": f"{__name__}.plain_network", "architecture": rule, "config": metadata["subnet"]}
    with tempfile.TemporaryDirectory() as temporary:
        weights = Path(temporary, "weights.pt")
        torch.save(network.state_dict(), weights)
        with torchscript_allowed():
            ckpt_export(
                net_id="network_def",
                filepath=str(folder / "models" / "model.ts"),
                ckpt_file=str(weights),
                meta_file=str(folder / "configs" / "metadata.json"),
                config_file=str(inference_file(folder)),
                use_trace=True,
                input_shape=_shape(metadata),
                network_def=definition,  # in the file it is what is written here
            )


def _listed(parser: ConfigParser, dataset_dir: str | Path | None) -> list[str]:
    """The first images of a folder, as the bundle's inference lists them."""
    if dataset_dir is None:
        return []
    own = ConfigParser({**parser.config, "dataset_dir": str(dataset_dir)})  # nothing of it is written
    with own_errors():
        return own.get_parsed_content("images")[:COMPARED]


def _inputs(parser: ConfigParser, images: Iterable[str]) -> Iterator[Tensor]:
    """Yield what the network gets of images: preprocessed, of larger ones the middle."""
    preprocessing = parser.get_parsed_content("preprocessing")
    fitted = ResizeWithPadOrCrop(parser.get_parsed_content("patch" if "patch" in parser.config else "size"))
    for image in images:
        yield fitted(preprocessing({"image": image})["image"]).as_tensor()[None]


def _noise(metadata: Mapping[str, Any]) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(_shape(metadata), generator=generator) for _ in range(COMPARED))


def _written(folder: Path) -> nn.Module:
    """The network as the written bundle makes it."""
    parser = ConfigParser()
    parser.read_config(inference_file(folder))
    parser["bundle_root"], parser["device"] = str(folder), "$torch.device('cpu')"
    with torchscript_allowed():
        network = parser.get_parsed_content("network_def")
    if (folder / "models" / FINAL).exists():
        network.load_state_dict(torch.load(folder / "models" / FINAL, weights_only=True))
    return network.eval()
