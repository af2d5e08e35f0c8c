"""The steps of the demonstration; each is skipped if it is done and its result is there."""

from __future__ import annotations

import logging
import random
import re
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import yaml
from tqdm import tqdm

from prox_monai.data import (
    DecathlonDataset,
    check_decathlon,
    download_decathlon,
    read_decathlon,
    to_nnunet_raw,
    write_synthetic_decathlon,
)
from prox_monai.data.complete import complete_folder
from prox_monai.demo.pictures import draw_case
from prox_monai.demo.record import Record, set_aside
from prox_monai.demo.stock import TrainingProgress, run_stock
from prox_monai.demo.summary import model_folder, summary
from prox_monai.evaluation.multiply_adds import ALIASES
from prox_monai.evaluation.subnets import read_rows
from prox_monai.integrations.nnunet.calibration import cases_if_there
from prox_monai.integrations.nnunet.export import export_stock, stock_subnet
from prox_monai.integrations.nnunet.report import Wanted, write_report
from prox_monai.integrations.nnunet.trained import TrainedModel, load_trained
from prox_monai.integrations.nnunet.unseen import choose_device, evaluate_trained
from prox_monai.plugin_files import plugin_folder
from prox_monai.search.plots import pareto_picture
from prox_monai.space import SubnetConfig

logger = logging.getLogger(__name__)

DEFAULT_OUTPUT = "runs/demo"
DOWNLOAD = "download"
TASK = "Task04_Hippocampus"
MIN_CASES = 6  # fewer would leave the first of five folds less than one unseen case to tune on and one to report
SYNTHETIC = "The data are SYNTHETIC, made by prox_monai: the figures say nothing about patients."


def run_demo(
    data: str | None = None,
    output: str | Path | None = None,
    device: str = "auto",
    *,
    settings: str | None = None,
    cases: int = 40,
    subnets: int = 30,
) -> str:
    """Prepare data, train a family of networks, evaluate it, deploy three of them, predict with one.

    Args:
        data: a folder in the Decathlon layout; ``download`` for the official hippocampus data; None for
            synthetic data.
        output: where everything goes; a run that was broken off there goes on. If not given it is ``runs/demo``,
            and a demonstration on other data there is first moved to ``runs/demo-1`` (or ``-2``, ...).
        device: ``cpu``, ``cuda`` or ``auto``.
        settings: YAML text for ``ProXTrainer``; that of the package if not given.
        cases: number of synthetic cases.
        subnets: number of random subnets to evaluate.

    Returns:
        The closing text: figures, times, places.

    Raises:
        ValueError: When the data are not in order, or ``output`` holds a demonstration on other data.
        FileExistsError: When ``output`` holds something else.
        RuntimeError: When a command of nnU-Net fails, or the data cannot be downloaded.
    """
    folder = Path(output or DEFAULT_OUTPUT)
    demo = Demo(data, folder, choose_device(device), cases, subnets)
    if output is None:
        if data not in (None, DOWNLOAD):
            read_decathlon(data)  # a folder that was mistyped moves nothing
        set_aside(folder, demo.source)
    record = Record(demo.output, demo.source)
    if demo.synthetic:
        logger.info("%s Give --data for real ones.", SYNTHETIC)
    for title, result, step in (
        ("1/9 data", demo.folder / "dataset.json", demo.prepare),
        ("2/9 convert to nnU-Net's format", demo.output / "nnUNet_raw", demo.convert),
        ("3/9 plan and preprocess with nnU-Net", demo.output / "nnUNet_preprocessed", demo.plan),
        (
            "4/9 train with nnU-Net and ProXTrainer",
            demo.output / "nnUNet_results",
            lambda: demo.train(settings),
        ),
        ("5/9 evaluate subnets", demo.output / "subnets.jsonl", demo.evaluate),
        ("6/9 export stock model folders", demo.output / "stock", demo.export),
        ("7/9 predict with stock nnU-Net", demo.output / "prediction", demo.predict),
        ("8/9 draw", demo.output / "prediction.png", demo.draw),
        ("9/9 report", demo.output / "report.html", demo.report),
    ):
        record.do(title, result, step)
    return summary(folder, demo.rows, record.seconds, title=demo.title, warning=SYNTHETIC if demo.synthetic else "")


class Demo:
    """One demonstration: its folders, and the steps that fill them.

    Args:
        data: as for ``run_demo``.
        output: folder of the demonstration.
        device: ``cpu`` or ``cuda``.
        cases: number of synthetic cases.
        subnets: number of random subnets to evaluate.
    """

    def __init__(self, data: str | None, output: Path, device: str, cases: int, subnets: int) -> None:
        self.output = output.absolute()
        self.device = device
        self.synthetic, self._download = data is None, data == DOWNLOAD
        own = {None: "Synthetic", DOWNLOAD: TASK}
        self.folder = self.output / "data" / own[data] if data in own else Path(data).resolve()
        self.source = {None: "synthetic data", DOWNLOAD: f"the downloaded {TASK}"}.get(data, str(self.folder))
        self._cases, self._subnets = cases, subnets

    def prepare(self) -> None:
        """Make, download or check the data."""
        if self._download:
            download_decathlon(TASK, self.folder.parent)
        elif self.synthetic and not self.folder.exists():
            with complete_folder(self.folder) as partial:
                write_synthetic_decathlon(partial, cases=self._cases)
        check_decathlon(self.dataset)
        if len(self.dataset.cases) < MIN_CASES:
            raise ValueError(
                f"{self.folder} has {len(self.dataset.cases)} cases; the demo needs at least {MIN_CASES}, "
                "so that two are unseen in training."
            )

    def convert(self) -> None:
        """Write nnU-Net's raw format."""
        raw = self.output / "nnUNet_raw"
        if not any(raw.glob("Dataset*")):
            number = re.match(r"Task(\d+)_", self.folder.name)
            to_nnunet_raw(self.dataset, raw, int(number[1]) if number else 1)

    def plan(self) -> None:
        """Plan and preprocess with the stock command."""
        arguments = (
            "-d",
            self._id,
            "-c",
            "3d_fullres",
            "--verify_dataset_integrity",
            "-np",
            "2",
            "-npfp",
            "2",
        )
        self._run("nnUNetv2_plan_and_preprocess", arguments, "preprocess", nnUNet_n_proc_DA="1")

    def train(self, settings: str | None) -> None:
        """Train with the stock command, or go on where a training was broken off."""
        path = self.output / "settings.yaml"
        if not path.exists():
            path.write_text(settings or files("prox_monai.demo").joinpath("settings.yaml").read_text())
        epochs = yaml.safe_load(path.read_text())["epochs"]
        fold = self.output / "nnUNet_results" / self._dataset / "ProXTrainer__nnUNetPlans__3d_fullres" / "fold_0"
        go_on = ("--val",) if (fold / "checkpoint_final.pth").exists() else ()
        if not go_on and (fold / "checkpoint_latest.pth").exists():
            go_on = ("--c",)
        self._run(
            "nnUNetv2_train",
            (self._id, "3d_fullres", "0", "-tr", "ProXTrainer", "-device", self.device, *go_on),
            "train",
            TrainingProgress(sum(epochs) if isinstance(epochs, list) else epochs),
            PROX_CONFIG=str(path),
            nnUNet_extTrainer=str(plugin_folder("nnunet")),
            **({"nnUNet_n_proc_DA": "0"} if self.device == "cpu" else {}),
        )

    def evaluate(self) -> None:
        """Measure the named and the random subnets on the reporting half of the unseen cases."""
        named = self._named()
        rows = evaluate_trained(
            self.model, named, self._preprocessed, self.output / "subnets.jsonl", device=self.device
        )
        for _ in tqdm(rows, total=len(named), desc="subnets", disable=None, leave=False):
            pass

    def export(self) -> None:
        """Write three subnets as stock model folders."""
        cases = cases_if_there(self.model, {"nnUNet_preprocessed": str(self._preprocessed.parent)})
        for alias in ALIASES:
            target = self.output / "stock" / alias
            if not target.exists():
                export_stock([self.model], stock_subnet(self.model, alias), target, cases=cases)

    def predict(self) -> None:
        """Predict the unseen case of median Dice with the stock command and a stock model folder."""
        case, images = self._shown_case, self.output / "prediction" / "images"
        images.mkdir(parents=True, exist_ok=True)
        for channel in self._raw.glob(f"imagesTr/{case}_*.nii.gz"):
            link = images / channel.name
            if not link.is_symlink():
                link.symlink_to(channel.resolve())
        stock = str(self.output / "stock" / "largest")
        arguments = (
            "-i",
            str(images),
            "-o",
            str(images.parent),
            "-m",
            stock,
            "-f",
            "0",
            "-device",
            self.device,
        )
        self._run("nnUNetv2_predict_from_modelfolder", (*arguments, "-npp", "1", "-nps", "1"), "predict")

    def draw(self) -> None:
        """Draw the subnets, and the predicted case."""
        pareto_picture(self.rows, self.output / "pareto.png", title=self.title)
        case = self._shown_case
        predicted = self.output / "prediction" / f"{case}.nii.gz"
        draw_case(self.dataset, case, self._raw, predicted, self.output / "prediction.png")

    def report(self) -> None:
        """Write everything that was found as one page."""
        folders = {name: str(self.output / name) for name in ("nnUNet_raw", "nnUNet_preprocessed")}
        write_report(self.model, Wanted((self.output / "subnets.jsonl",)), self.output / "report.html", folders)

    @cached_property
    def dataset(self) -> DecathlonDataset:
        """The data set, once it is there."""
        return read_decathlon(self.folder)

    @cached_property
    def model(self) -> TrainedModel:
        """The trained family, once it is there."""
        return load_trained(model_folder(self.output))

    @property
    def rows(self) -> list[dict]:
        """The evaluated subnets."""
        return read_rows(self.output / "subnets.jsonl")

    @property
    def title(self) -> str:
        """The data, the number of unseen cases and the device."""
        rows = self.rows
        cases, latency = len(rows[0]["dice_per_case"]), rows[0]["latency"]
        name = "Synthetic data" if self.synthetic else self.dataset.name
        threads = f", threads: {latency['threads']}" if self.device == "cpu" else ""
        return f"{name}: {len(rows)} subnets on {cases} unseen cases\n{latency['device']}{threads}"

    @property
    def _raw(self) -> Path:
        return next((self.output / "nnUNet_raw").glob("Dataset*"))

    @property
    def _dataset(self) -> str:
        return self._raw.name

    @property
    def _id(self) -> str:
        return str(int(self._dataset[len("Dataset") :].partition("_")[0]))

    @property
    def _preprocessed(self) -> Path:
        return self.output / "nnUNet_preprocessed" / self._dataset

    @property
    def _shown_case(self) -> str:
        """The unseen case on which the largest subnet has its median Dice."""
        largest = next(row for row in self.rows if row["name"] == "largest")
        scores = sorted((dice or 0, case) for case, dice in largest["dice_per_case"].items())
        return scores[len(scores) // 2][1]

    def _named(self) -> list[tuple[str, SubnetConfig]]:
        """The subnets to evaluate; what is exported is among them, if it is not its alias itself."""
        costs, space = self.model.multiply_adds(), self.model.space
        named = [(alias, costs.find(alias)) for alias in ALIASES]
        named += [(f"stock/{alias}", stock_subnet(self.model, alias)) for alias in ALIASES]
        rng = random.Random("demo")
        named += [(config.name, config) for config in (space.sample(rng) for _ in range(self._subnets))]
        return named

    def _run(
        self, command: str, arguments: tuple[str, ...], log: str, *show: TrainingProgress, **variables: str
    ) -> None:
        folders = {name: str(self.output / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        for folder in folders.values():
            Path(folder).mkdir(exist_ok=True)
        variables |= folders | {"nnUNet_def_n_proc": "2"}
        run_stock(command, arguments, self.output / "logs" / f"{log}.log", variables, *show)
