"""Classification on real data: ProX, the paper's and ours, against progressive shrinking, in folds grouped by patient.

    python benchmarks/oct.py --data DIR                          four methods, five folds, the bundle's quick settings
    python benchmarks/oct.py --data DIR --methods plus --folds 0 1
    python benchmarks/oct.py --data DIR --full --device cuda     the bundle's own size
    python benchmarks/oct.py --data synthetic --folds 0          images of four classes that the package makes itself
    python benchmarks/oct.py --data DIR --config FILE.json       settings laid over those of the bundle

`DIR` holds the folders CNV, DME, DRUSEN and NORMAL, and perhaps a manifest.csv. Everything is the bundle
bundles/retinal_oct_prox_classification; a method is its `preset`, nothing else differs, and all train for the same
number of epochs. Each method and fold is a unit: trained, then evaluated on the images that the fold leaves unseen,
with smallest, middle, largest and the same random subnets for all. What is done is not done again; an evaluation that
was broken off goes on, a training begins anew, because its time counts. Leave the machine alone while it runs. Each
published unit is kept in benchmarks/results/units, without its model: with --published they are done here, too.

Printed and written to benchmarks/results/oct.json, with a picture, and into benchmarks/RESULTS.md: training time;
balanced accuracy of the random subnets, each averaged over the folds; that of the largest over all images, each
predicted in the fold that left it unseen, with a bootstrap over patients; by bucket of latency.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import update_readme
from comparison.command import BENCHMARKS, run
from comparison.oct_summary import comparable, summarise, table
from comparison.published import UNITS, includes_published, publish_units, take_published
from comparison.summary import BUCKETS, bucket_scores, write_json
from comparison.workplace import environment
from monai.bundle import ConfigWorkflow

from prox_monai.data.synthetic_classes import write_synthetic_classes
from prox_monai.evaluation.batch_norm import recalibrate
from prox_monai.evaluation.multiply_adds import ALIASES
from prox_monai.integrations.monai import class_folder_split
from prox_monai.plugin_files import bundle_folder
from prox_monai.search.plots import bucket_picture
from prox_monai.training import PRESETS

RESULTS = BENCHMARKS / "results"
BUNDLE = bundle_folder("retinal_oct_prox_classification")
METHODS = ("paper", "plus", "paper_mr", "progressive_shrinking")
FAMILIES = tuple(preset for preset in PRESETS if preset != "standalone")  # which trains one subnet
NEVER = 1_000_000
LOCATIONS = ("bundle_root", "dataset_dir", "ckpt_dir", "output_dir")
NO_SETTINGS = ("_meta_", "imports", "initialize", *LOCATIONS)  # entries of the bundle that change no training
KEEPERS = ("CheckpointSaver", "StatsHandler", "TensorBoardStatsHandler")  # nor do these handlers of it
LABEL = "balanced accuracy"
SYNTHETIC = "synthetic"
logger = logging.getLogger("prox_monai.benchmarks")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the units that are asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder with a folder per class, or synthetic")
    parser.add_argument(
        "--methods", nargs="+", default=METHODS, choices=FAMILIES, metavar="METHOD", help=f"of {', '.join(FAMILIES)}"
    )
    parser.add_argument("--folds", nargs="+", type=int, default=range(5), help="of five; 0 1 2 3 4 unless given")
    parser.add_argument("--subnets", type=int, default=30, help="random subnets that are evaluated")
    parser.add_argument("--epochs", type=int, help="of a training; those of the bundle unless given")
    parser.add_argument("--config", type=Path, nargs="+", default=[], help="JSON files laid over the bundle's settings")
    parser.add_argument(
        "--output", type=Path, default=Path("runs"), help="units go to oct, oct_full or oct_synthetic in it: runs/oct"
    )
    parser.add_argument("--full", action="store_true", help="the bundle's own settings instead of the quick ones")
    parser.add_argument("--published", action="store_true", help="units of benchmarks/results/units are done")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ...")
    parser.add_argument("--threads", type=int, help="CPU threads; all cores unless given")
    return run(compare, parser, argv)


def compare(arguments: argparse.Namespace) -> None:
    """Run all units, folds outermost, and summarise after each."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    place = Place(arguments)
    if arguments.published:
        taken = take_published(RESULTS / UNITS / place.name, place.output)
        logger.info("%d units are taken from what is published", taken)
    units = [Unit(method, fold, place) for fold in arguments.folds for method in arguments.methods]
    for unit in {unit.folder: unit for unit in (*finished_units(place), *units)}.values():
        unit.begin()
    missing = [unit for unit in units if unit.result is None]
    logger.info("%d of %d units are done", len(units) - len(missing), len(units))
    for number, unit in enumerate(missing, 1):
        logger.info("%d of %d: %s, fold %d", number, len(missing), unit.method, unit.fold)
        unit.train()
        result = unit.evaluate()
        score = f"{LABEL} {statistics.fmean(score for *_, score in result['subnets']):.3f}"
        logger.info("  %.1f minutes of training, %s", result["train_seconds"] / 60, score)
        publish(place)
    if not missing:
        publish(place)


def finished_units(place: Place) -> list[Unit]:
    """Return all units that are done, whatever is asked for."""
    return [unit for method in FAMILIES for fold in range(5) if (unit := Unit(method, fold, place)).result is not None]


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a training depends on of a bundle's configuration, as JSON has it."""
    settings = {name: value for name, value in config.items() if name not in NO_SETTINGS}
    handlers = [h for h in config["train"]["handlers"] if h["_target_"].rpartition(".")[2] not in KEEPERS]
    return json.loads(json.dumps({**settings, "train": {**config["train"], "handlers": handlers}}))


class Place:
    """The bundle with its settings, the data and the output folder.

    Args:
        arguments: of the command.

    Raises:
        ValueError: When the data are not in order, or a fold does not exist.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        synthetic = arguments.data == SYNTHETIC
        self.name = f"oct{'_full' * arguments.full}{'_synthetic' * synthetic}"
        self.subnets, self.output = arguments.subnets, arguments.output.absolute() / self.name
        data = self.output / "data" if synthetic else Path(arguments.data).absolute()
        if synthetic and not data.exists():
            write_synthetic_classes(data)
        quick = [] if arguments.full else ["quick"]
        self.files = [BUNDLE / "configs" / f"{file}.json" for file in ("train", *quick)] + arguments.config
        self.settings = {
            "bundle_root": str(BUNDLE),
            "dataset_dir": str(data),
            "device": f"$torch.device('{arguments.device}')",
        }
        bundle = self.workflow({}).parser
        epochs = arguments.epochs or bundle.get("epochs")
        self.settings["epochs"] = epochs if isinstance(epochs, int) else sum(epochs)
        self.pixels = [round(bundle["size"][0] * each) for each in bundle.get_parsed_content("space").resolution]
        try:
            splits = [class_folder_split(data, classes=bundle.get("classes"), fold=fold) for fold in arguments.folds]
        except (ValueError, OSError) as error:
            raise ValueError(str(error).replace("dataset_dir", "data")) from error  # the bundle calls it so
        self.images = sum(map(len, splits[0].values()))

    def workflow(self, settings: Mapping[str, Any], *more: Path) -> ConfigWorkflow:
        """Return the bundle's training, with further settings and files of settings laid over it."""
        return ConfigWorkflow(
            config_file=[str(path) for path in (*self.files, *more)],
            meta_file=str(BUNDLE / "configs" / "metadata.json"),
            logging_file=False,
            **{**self.settings, **settings},
        )


@dataclass(frozen=True, slots=True)
class Unit:
    """One training of a method.

    Args:
        method: a preset.
        fold: the images that are unseen.
        place: where.
    """

    method: str
    fold: int
    place: Place

    @property
    def folder(self) -> Path:
        """Where its model and results lie."""
        return self.place.output / self.method / f"fold{self.fold}"

    @property
    def result(self) -> dict[str, Any] | None:
        """Its result, once it is done."""
        return _read(self.folder / "result.json")

    @property
    def settings(self) -> dict[str, Any]:
        """What it lays over the bundle's settings."""
        folders = {"ckpt_dir": str(self.folder / "models"), "output_dir": str(self.folder / "eval")}
        return {"preset": self.method, "fold": self.fold, **folders}

    def begin(self) -> None:
        """Write what it is to do, or check that this is what it was begun with.

        Raises:
            ValueError: When it was begun with other settings; nothing is changed.
        """
        config = self.place.workflow(self.settings).parser.get()
        wanted = settings_of({"subnets": self.place.subnets, "images": self.place.images, **config})
        begun = _read(self.folder / "unit.json")
        if begun is None:
            _write(self.folder / "unit.json", wanted)
            return
        begun = settings_of(begun)  # older ones have entries that are none
        names = [name for name in {**begun, **wanted} if begun.get(name) != wanted.get(name)]
        if names:
            raise ValueError(
                f"{self.folder} was begun with other settings: {', '.join(names)}. What is there is kept; give another "
                f"--output, or remove the folder."
            )

    def train(self) -> None:
        """Train from the start, without validation, and write down how long it took; not again."""
        if _read(self.folder / "trained.json") is not None:
            return
        only = {"run": ["$@train::trainer.run()"], "val_interval": NEVER, "overwrite": True}
        workflow = self.place.workflow({**self.settings, **only})
        workflow.initialize()
        workflow.run()
        times = workflow.parser.get_parsed_content("train::trainer").state.times
        _write(self.folder / "trained.json", {"train_seconds": times["COMPLETED"]})

    def evaluate(self) -> dict[str, Any]:
        """Evaluate random and named subnets on the unseen images; write and return the result."""
        choice = {
            "_target_": "prox_monai.integrations.monai.SubnetChoice",
            "subnets": list(ALIASES),
            "per_bucket": self.place.subnets,
            "buckets": 1,
        }
        settings = {"validate::dataset::data": "$@split['tuning'] + @split['reporting']", "validate::choice": choice}
        workflow = self.place.workflow({**self.settings, **settings}, BUNDLE / "configs" / "evaluate.json")
        workflow.initialize()
        workflow.run()
        rows = workflow.parser.get_parsed_content("validate::sampling").rows
        drawn = [row for row in rows if row["name"] not in ALIASES]
        result = {
            "method": self.method,
            "fold": self.fold,
            **_read(self.folder / "trained.json"),
            "date": datetime.now(UTC).date().isoformat(),
            "environment": {**environment(), **rows[0]["latency"]},
            "named": {row["name"]: row["score"] for row in rows if row["name"] in ALIASES},
            "subnets": [[row["key"], row["macs"], round(row["latency_ms"], 3), row["score"]] for row in drawn],
            "largest": largest_predictions(workflow),
        }
        _write(self.folder / "result.json", result)
        return result


@torch.no_grad()
def largest_predictions(workflow: ConfigWorkflow) -> list[dict[str, Any]]:
    """Return case, patient, label and probabilities of each image, as the largest subnet predicts them."""
    get = workflow.parser.get_parsed_content
    supernet, device = get("network_def"), get("device")
    network = supernet.extract(supernet.space.largest()).eval()
    recalibrate(network, [get("calibration::images").to(device)])
    outputs = [network(batch["image"].to(device)).softmax(1).cpu() for batch in get("validate::dataloader")]
    items = get("validate::dataset::data")
    return [
        {**{key: item[key] for key in ("case", "patient", "label")}, "probabilities": [round(p, 6) for p in row]}
        for item, row in zip(items, torch.cat(outputs).tolist(), strict=True)
    ]


def publish(place: Place) -> None:
    """Print what is done, and write it with a picture; to the output folder where other units are published."""
    done = finished_units(place)
    results = [unit.result for unit in done]
    summary = summarise(results)
    all_published = includes_published(results, RESULTS / f"{place.name}.json")
    folder = RESULTS if all_published else place.output
    settings = {"epochs": place.settings["epochs"], "pixels": place.pixels}
    write_json({**settings, **summary}, folder / f"{place.name}.json")
    compared = comparable(results)
    scores = bucket_scores(compared)
    buckets = min(BUCKETS, len({latency for pairs in scores.values() for latency, _ in pairs}))
    title = f"Retinal OCT, {place.subnets} random subnets in each of {len({r['fold'] for r in compared})} folds"
    bucket_picture(scores, folder / f"{place.name}.png", title=title, buckets=buckets, label=LABEL)
    if all_published:
        publish_units([unit.folder for unit in done], place.output, RESULTS / UNITS / place.name)
        update_readme.write_readme()
    print(table(summary))
    logger.info("written to %s", folder / f"{place.name}.json")


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content), encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
