"""``ProxAlgo``: what Auto3DSeg generates, trains, scores and predicts with."""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.apps.auto3dseg import BundleAlgo
from monai.bundle import ConfigParser
from monai.utils import run_cmd

from prox_monai.integrations.auto3dseg.check import check_keys
from prox_monai.integrations.auto3dseg.data import read_split
from prox_monai.integrations.auto3dseg.folder import CONFIG, AlgoFolder, write_config
from prox_monai.integrations.auto3dseg.parameters import Parameters
from prox_monai.integrations.auto3dseg.planning import FIRST_CHANNELS, DataSummary, foreground_names, plan
from prox_monai.integrations.auto3dseg.reading import read_parameters, read_values
from prox_monai.plugin_files import plugin_folder

TEMPLATE = "prox"

logger = logging.getLogger(__name__)


class ProxAlgo(BundleAlgo):
    """A supernet as an algorithm of Auto3DSeg: configured from the statistics of the data, trained by expansion.

    Args:
        template_path: the folder that holds the template ``prox``, by default this package's.
        settings: parameters that are not to be planned, see :class:`Parameters`; of this algorithm alone, while
            training parameters go to all algorithms of a run.
    """

    def __init__(self, template_path: str | None = None, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(template_path or str(plugin_folder("auto3dseg")))
        self.settings = dict(settings or {})

    def state_dict(self) -> dict[str, Any]:
        """Return what a saved algorithm keeps."""
        return {**super().state_dict(), "settings": self.settings}

    def export_to_disk(self, output_path: str, algo_name: str, **kwargs: Any) -> None:
        """Write the folder of the algorithm, with its parameters filled; one of that name is replaced.

        Args:
            output_path: folder that it is written into.
            algo_name: name of the folder.
            **kwargs: ``fold``, parameters that are not to be planned, and ``fill_with_datastats=False``, with which
                those in the present folder of the algorithm are the base, and nothing is planned; MONAI's
                ``fill_template``.

        Raises:
            ValueError: With ``copy_dirs=False``, which would write into the template; when something about the data or
                a parameter is not as it must be: before anything is written or removed.
            FileNotFoundError: With ``fill_with_datastats=False``, when the present folder is gone.
        """
        if not kwargs.pop("copy_dirs", True):
            raise ValueError("copy_dirs must be true: else the template itself would be written into, got False.")
        fill = kwargs.pop("fill_template", True)
        # before MONAI removes what is there: a trained model outlives a mistake
        filled = self._filled(kwargs).to_dict() if fill else {}
        if not Path(str(self.template_path), TEMPLATE).is_dir():  # that of another machine
            self.template_path = str(plugin_folder("auto3dseg"))
        name, self.name = self.name, TEMPLATE  # the name that the input gives this algorithm may be another
        try:
            super().export_to_disk(os.path.abspath(output_path), algo_name, fill_template=fill, **filled)
        finally:
            self.name = name

    def fill_template_config(self, data_stats_filename: str, algo_path: str, **kwargs: Any) -> dict[str, Any]:
        """Write the parameters into the folder of the algorithm.

        Args:
            data_stats_filename: not read: :meth:`export_to_disk` has planned.
            algo_path: the folder.
            **kwargs: the parameters, all of them.

        Returns:
            What was written, by file.
        """
        where = {"bundle_root": os.path.abspath(algo_path), "ckpt_path": "$@bundle_root + '/model'"}
        write_config(Path(algo_path, "configs", CONFIG), where | kwargs)
        return {CONFIG: kwargs}

    def _filled(self, given: dict[str, Any]) -> Parameters:
        """The parameters of a folder that is to be written: planned, or those of the present one."""
        given.pop("bundle_root", None)
        given.pop("gpu_customization_specs", None)
        if given.pop("gpu_customization", False):
            logger.info("gpu_customization is not needed: prox plans for the memory of the device.")
        if given.pop("fill_with_datastats", True) or not self.output_path:
            parameters = read_parameters(self._planned({**self.settings, **given}))
        else:
            parameters = AlgoFolder.at(self.output_path).parameters(given)
        read_split(parameters.data_list_file_path, parameters.data_file_base_dir, parameters.fold)
        return parameters

    def _planned(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What is planned from the data, and what is given in place of it."""
        source = ConfigParser.load_config_file(self.data_list_file)
        check_keys(source)
        names, values = foreground_names(source), read_values(given)
        try:
            planned = plan(
                DataSummary.of(ConfigParser.load_config_file(self.data_stats_files)),
                modality=str(source["modality"]),
                class_names=names,
                spacing=values.get("resample_resolution"),
                first_channels=values.get("prox_channels", FIRST_CHANNELS),
            )
        except ValueError as error:
            raise ValueError(
                f"{error} Auto3DSeg keeps its analysis: after mending the data, run with analyze=True."
            ) from error
        return {
            "data_list_file_path": os.path.abspath(source["datalist"]),
            "data_file_base_dir": os.path.abspath(source["dataroot"]),
            "fold": 0,
            **planned.to_dict(),
            **given,
        }

    def train(self, train_params: dict | None = None, device_setting: dict | None = None) -> Any:
        """Train in a process of its own, or in one per GPU.

        Args:
            train_params: parameters of this training, see :class:`Parameters`.
            device_setting: see MONAI's ``AutoRunner.set_device_info``.

        Raises:
            ValueError: When a parameter is not as it must be: before anything is started.
            RuntimeError: When the training fails; the message holds its output.
        """
        folder = AlgoFolder.at(self.output_path)
        if folder.is_member:
            logger.info("%s is a subnet of a supernet: there is nothing to train.", folder.root.name)
            return None
        params = {name: value for name, value in (train_params or {}).items() if name != "CUDA_VISIBLE_DEVICES"}
        if chosen := [name for name in ("subnet", "max_latency_ms") if name in params]:
            raise ValueError(
                f"{' and '.join(chosen)} must not be given to a training, in which all subnets are trained: give it to "
                f"the prediction, as set_prediction_params({{'algo_spec_params': {{'prox': ...}}}}), or to algos(...)."
            )
        folder.parameters(params)
        return super().train(params, device_setting)

    def get_score(self, *args: Any, **kwargs: Any) -> float:
        """Return the mean Dice of the largest subnet on the validation cases; that of a member is its subnet's.

        Raises:
            FileNotFoundError: When the algorithm is not trained, a second training of it was broken off, or the
                supernet of a member was trained again.
        """
        folder = AlgoFolder.at(self.output_path)
        entries = folder.scores()
        if folder.is_member:
            (subnet,) = folder.trained_parameters().subnet
            entries = [entry for entry in entries if subnet in (entry["name"], entry["subnet"])]
            if not entries:
                raise FileNotFoundError(
                    f"{folder.root} has no score: its supernet in {folder.model.parent} was trained again. Call "
                    f"add_subnet({str(folder.model.parent)!r}, {subnet!r}) again, or remove the folder."
                )
        return float(entries[-1]["best_avg_dice_score"])

    def _create_cmd(self, train_params: dict | None = None) -> tuple[Any, str]:
        """Return the command: a list, so that paths may hold spaces, and this Python, which may not be on the PATH."""
        setting = self.device_setting
        if int(setting["NUM_NODES"]) > 1:
            return super()._create_cmd(train_params)
        prefix, devices = str(setting["CMD_PREFIX"] or "").strip(), int(setting["n_devices"])
        prefix = "" if prefix == "None" else prefix
        start = [prefix or sys.executable] if Path(prefix or ".").is_file() or not prefix else shlex.split(prefix)
        if devices > 1 and len(start) == 1:  # an interpreter, which would train on the first GPU alone
            module = [] if Path(start[0]).name == "torchrun" else ["-m", "torch.distributed.run"]
            start += [*module, "--standalone", f"--nproc_per_node={devices}"]
        options = {
            "config_file": str(AlgoFolder.at(self.output_path).root / "configs" / CONFIG),
            **(train_params or {}),
        }
        script = str(Path(self.output_path).absolute() / "scripts" / "train.py")
        return [*start, script, "run", *(f"--{name}={_argument(value)}" for name, value in options.items())], ""

    def _run_cmd(self, cmd: Any, devices_info: str = "") -> subprocess.CompletedProcess:
        if isinstance(cmd, str):
            return super()._run_cmd(cmd, devices_info)
        devices = {"CUDA_VISIBLE_DEVICES": str(self.device_setting["CUDA_VISIBLE_DEVICES"])}
        return run_cmd(cmd, run_cmd_verbose=True, env=os.environ | devices, check=True)


def _argument(value: Any) -> str:
    """A value as Python Fire reads it."""
    return value if isinstance(value, str) else repr(list(value) if isinstance(value, tuple) else value)
