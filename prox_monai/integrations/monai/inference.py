"""A bundle's own inference, from a folder of images to what it writes of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ignite.handlers import ProgressBar
from monai.bundle import ConfigParser

from prox_monai.data.complete import check_free
from prox_monai.export.torchscript import torchscript_allowed
from prox_monai.integrations.monai.bundle import check_bundle_root
from prox_monai.integrations.monai.images import check_images

_FILES = (".nii", ".nii.gz", ".csv")


def inference_file(bundle: str | Path) -> Path:
    """Return where a bundle has the configuration of its inference."""
    return Path(bundle, "configs", "inference.json")


def inference_parser(bundle: str | Path, configs: Sequence[str | Path], given: Mapping[str, Any]) -> ConfigParser:
    """Read a bundle's inference.

    Args:
        bundle: folder of the bundle.
        configs: configuration files that the training had beside ``train.json``.
        given: entries that override the files', such as ``subnet``.

    Raises:
        ValueError: When the folder holds no bundle.
    """
    check_bundle_root(bundle)
    parser = ConfigParser()
    parser.read_meta(Path(bundle, "configs", "metadata.json"))
    parser.read_config([str(path) for path in (inference_file(bundle), *configs)])
    for key, value in {"bundle_root": str(bundle), **given}.items():
        parser[key] = value
    parser.parse()
    return parser


@contextmanager
def own_errors() -> Iterator[None]:
    """Raise what is behind an error of MONAI's, which only says which entry or transform it was."""
    try:
        yield
    except RuntimeError as error:
        cause = error.__cause__
        while cause is not None and not isinstance(cause, ValueError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from None


def predict_bundle(
    bundle: str | Path,
    source: str | Path,
    target: str | Path,
    *,
    choice: Mapping[str, Any] | None = None,
    configs: Sequence[str | Path] = (),
    overwrite: bool = False,
) -> list[Path]:
    """Run a bundle's own inference, as ``python -m monai.bundle run`` does: label maps, or a table of classes.

    A bundle's configuration is a program; run those only whose makers you trust. Images are checked first. What is
    written appears when all of it is complete.

    Args:
        bundle: folder of a trained bundle, or of one of its subnets.
        source: a folder of images, or one image.
        target: folder for what the bundle writes.
        choice: of a trained bundle, ``subnet`` or ``max_latency_ms``.
        configs: of a trained bundle, configuration files that the training had beside ``train.json``.
        overwrite: replace files of the same names in the target.

    Returns:
        The files that were written.

    Raises:
        FileExistsError: When the target holds anything, and ``overwrite`` is not set.
        FileNotFoundError: When there are no images.
        ValueError: When the bundle is not one of ours, not trained, or leaves no such choice, or an image cannot be
            predicted.
    """
    source, target = Path(source), Path(target)
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist; give an image, or a folder of images.")
    if target.name.endswith(_FILES) and not target.is_dir():
        raise ValueError(f"{target} looks like a file, but a bundle names its files itself; give a folder.")
    if not overwrite:
        check_free(target, "give another folder, or --overwrite")
    images = {"dataset_dir": str(source)} if source.is_dir() else {"images": [str(source)]}
    with tempfile.TemporaryDirectory(dir=_made(target.parent), prefix=f".{target.name}.") as partial:
        parser = inference_parser(bundle, configs, {**images, "output_dir": partial, **(choice or {})})
        if missing := [name for name in ("images", "initialize", "evaluator", "run") if name not in parser.config]:
            raise ValueError(f"{inference_file(bundle)} has no {', '.join(missing)}; run it by python -m monai.bundle.")
        if choice and "space" not in parser.config:
            raise ValueError(f"{bundle} holds one subnet, {', '.join(choice)} has no say; give a trained bundle.")
        with own_errors(), torchscript_allowed():
            parser.get_parsed_content("initialize")
            _check(parser, source)
            ProgressBar(desc="images", persist=False, disable=None).attach(parser.get_parsed_content("evaluator"))
            parser.get_parsed_content("run")
        return _moved(Path(partial), target)


def _check(parser: ConfigParser, source: Path) -> None:
    images, expected = parser.get_parsed_content("images"), parser["_meta_::network_data_format::inputs::image"]
    if not images:
        raise FileNotFoundError(f"{source} holds no image that the bundle takes.")
    check_images(images, expected["num_channels"], len(expected["spatial_shape"]))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _moved(partial: Path, target: Path) -> list[Path]:
    """Move what was written to where it belongs."""
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    placed = [target / path.relative_to(partial) for path in files]
    for path, place in zip(files, placed, strict=True):
        path.replace(_made(place.parent) / place.name)
    return placed
