"""The folder of a generated algorithm: its file of parameters, and its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from prox_monai.data.complete import complete_file
from prox_monai.integrations.auto3dseg.parameters import Parameters
from prox_monai.integrations.auto3dseg.reading import read_parameters

CONFIG = "hyper_parameters.yaml"
SUPERNET_OF = "supernet_of"
_LOCATIONS = ("bundle_root", "ckpt_path", SUPERNET_OF)


@dataclass(frozen=True, slots=True)
class AlgoFolder:
    """Where a generated algorithm is, wherever its work directory was moved to.

    Args:
        root: the folder, with ``configs`` and ``scripts``.
        model: folder of the trained model: in it, or that of the supernet that this is a subnet of.
        is_member: whether this is a subnet of another folder's supernet, see ``add_subnet``.
    """

    root: Path
    model: Path
    is_member: bool = False

    @classmethod
    def at(cls, root: str | Path) -> AlgoFolder:
        """Return the algorithm in a folder.

        Raises:
            FileNotFoundError: When there is none.
        """
        root = Path(root).absolute()
        if not (root / "configs" / CONFIG).is_file():
            raise FileNotFoundError(f"{root} is no generated algorithm: it holds no configs/{CONFIG}.")
        content = ConfigParser.load_config_file(str(root / "configs" / CONFIG))
        if SUPERNET_OF in content:
            return cls(root, cls.at((root / content[SUPERNET_OF]).resolve()).model, is_member=True)
        parser = ConfigParser({**content, "bundle_root": str(root)})
        return cls(root, Path(parser.get_parsed_content("ckpt_path", default=str(root / "model"))))

    @classmethod
    def of(cls, config_file: str | Path | Sequence[str | Path] | None) -> AlgoFolder:
        """Return the algorithm of configuration files, as hosts name them: a list, or a text with commas.

        Raises:
            ValueError: When none of them is the file of parameters.
        """
        files = [config_file] if isinstance(config_file, (str, Path)) else list(config_file or ())
        if len(files) == 1 and not Path(files[0]).exists():
            files = [part.strip(" '\"") for part in str(files[0]).strip("[]()").split(",")]
        found = [Path(file) for file in files if Path(file).name == CONFIG and Path(file).is_file()]
        if not found:
            raise ValueError(f"config_file must name the algorithm's configs/{CONFIG}, got {config_file!r}.")
        return cls.at(found[0].absolute().parents[1])

    @property
    def training(self) -> Path:
        """Checkpoints of a training that has not ended."""
        return self.model / "training"

    @property
    def previous(self) -> Path:
        """The finished model of an earlier training, until the present training ends."""
        return self.model / "previous"

    @property
    def supernet(self) -> Path:
        """The trained supernet."""
        return self.model / "model.pt"

    @property
    def used(self) -> Path:
        """Parameters that the supernet was trained with."""
        return self.model / "parameters.yaml"

    @property
    def progress(self) -> Path:
        """Scores for Auto3DSeg; written last, so that it says that the algorithm is trained."""
        return self.model / "progress.yaml"

    @property
    def table(self) -> Path:
        """Known subnets, a JSON line each."""
        return self.model / "subnets.jsonl"

    def scores(self) -> list[dict[str, Any]]:
        """Return the scores of the evaluated subnets, the largest's last.

        Raises:
            FileNotFoundError: When the algorithm is not trained, or a second training of it was broken off.
        """
        if not self.progress.is_file():
            again = (
                f" A second training of it was broken off, while Auto3DSeg goes by the score of the first: run "
                f"AutoRunner with train=True to train it to the end, or move what is in {self.previous} back to "
                f"{self.model} to have the first model again."
            )
            raise FileNotFoundError(
                f"{self.root} is not trained: there is no {self.progress}.{again if self.previous.is_dir() else ''}"
            )
        return ConfigParser.load_config_file(str(self.progress))

    def config(self) -> dict[str, Any]:
        """Return what the file of parameters holds, without where things are."""
        content = ConfigParser.load_config_file(str(self.root / "configs" / CONFIG))
        return {name: value for name, value in content.items() if name not in _LOCATIONS}

    def parameters(self, override: Mapping[str, Any] | None = None) -> Parameters:
        """Return the parameters of a training that is to be.

        Raises:
            ValueError: As :func:`read_parameters`.
        """
        return self._with_datalist(read_parameters(self.config(), override))

    def trained_parameters(self, override: Mapping[str, Any] | None = None) -> Parameters:
        """Return the parameters of the trained supernet; the file of parameters says which subnet predicts.

        Raises:
            FileNotFoundError: When it is not trained.
            ValueError: As :func:`read_parameters`.
        """
        if not self.used.is_file() or not self.supernet.is_file():
            raise FileNotFoundError(f"{self.root} is not trained: there is no {self.supernet}.")
        trained = ConfigParser.load_config_file(str(self.used))
        config = self.config()
        chosen = {name: config[name] for name in ("subnet", "max_latency_ms") if name in config}
        return self._with_datalist(read_parameters({**trained, **chosen}, override))

    def _with_datalist(self, parameters: Parameters) -> Parameters:
        """Where the work directory was moved, its copy of the datalist moved with it."""
        moved = self.root.parent / Path(parameters.data_list_file_path).name
        if Path(parameters.data_list_file_path).exists() or not moved.exists():
            return parameters
        return replace(parameters, data_list_file_path=str(moved))


def write_config(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a YAML file, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_file(path) as partial:
        ConfigParser.export_config_file(content, str(partial), fmt="yaml", default_flow_style=None, sort_keys=False)
