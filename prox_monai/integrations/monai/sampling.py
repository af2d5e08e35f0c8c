"""Run subnets of a supernet over an evaluator's data: one, a list, or samples of every latency bucket."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock  # a dependency of torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from torch import Tensor, distributed, nn

from prox_monai.elastic import Supernet
from prox_monai.elastic.resolution import without_resolution
from prox_monai.evaluation.batch_norm import recalibrate
from prox_monai.evaluation.cost import device_name
from prox_monai.evaluation.multiply_adds import MultiplyAdds
from prox_monai.evaluation.single_image import OneImage
from prox_monai.evaluation.subnets import append_row, describe_subnet, read_rows
from prox_monai.integrations.monai.choice import Named, SubnetChoice
from prox_monai.integrations.monai.intervals import case_intervals
from prox_monai.integrations.monai.ranks import distributed_now, of_first_rank, rank
from prox_monai.integrations.monai.shared import SharedSubnets
from prox_monai.integrations.monai.statistics import digest, read_statistics, write_statistics
from prox_monai.search.plots import pareto_picture
from prox_monai.search.table import MORE, buckets_table, rows_table
from prox_monai.space import SubnetConfig

logger = logging.getLogger(__name__)

_LARGEST = SubnetChoice()


class SubnetSamplingHandler:
    """Let a ``SupervisedEvaluator`` evaluate subnets: one epoch of it for each.

    For every subnet the evaluator's network is the extracted plain network, its normalisation re-estimated on training
    images where it has BatchNorm. Post-processing, metrics and other handlers work as usual. After each epoch a row
    goes to the table: subnet, parameters, multiply-adds, latency, all scalar metrics of the evaluator, and where a
    metric saves details, the mean of each class and the 95 % interval of the mean over cases; a classifier's intervals
    come from a :class:`~prox_monai.integrations.monai.PatientIntervals`. Rows of the same weights, metric, cases,
    input, settings and machine (processor or GPU, and threads) that are there already are not made again. Several
    evaluators may work on one table, in processes that know nothing of each other: each takes what no other has, and
    the subnets of one that dies.
    At the end the network of the evaluator is its own again, the table is logged, and the Pareto front drawn beside it.
    After an error it is its own again, too, where no handler before this one (a ``StatsHandler``) has raised it.

    Args:
        supernet: where the subnets come from; the evaluator's network, or one that shares its weights.
        input_shape: ``(C, *spatial)`` of one image or patch, for multiply-adds and latency.
        choice: says which subnets are run, a :class:`~prox_monai.integrations.monai.SubnetChoice` for example.
        table: JSON lines that rows are appended to; no table where it is None. Rows of other weights are moved aside.
        known: the table from which a latency budget chooses, of a search on other cases for example; ``table`` itself
            where it is None.
        settings: what else the figures depend on, by name, such as the overlap of windows: rows with others are not
            theirs.
        calibration: training images ``(B, C, *spatial)`` on which statistics of BatchNorm are re-estimated.
        statistics: file that they are kept in, for ``SubnetNetwork``.

    Raises:
        ValueError: When the supernet has BatchNorm and there is no ``calibration``.
    """

    def __init__(
        self,
        supernet: Supernet,
        input_shape: Sequence[int],
        *,
        choice: Callable[[MultiplyAdds, list[dict[str, Any]]], list[Named]] = _LARGEST,
        table: str | Path | None = None,
        known: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        calibration: Tensor | None = None,
        statistics: str | Path | None = None,
    ) -> None:
        if any(True for _ in supernet.buffers()) and calibration is None:
            raise ValueError(
                "calibration must be training images for a network with BatchNorm, whose statistics every subnet needs "
                "for itself, got None."
            )
        self.supernet = supernet
        self.input_shape = tuple(input_shape)
        self.choice = choice
        self.table = Path(table) if table else None
        self.known = Path(known) if known else None
        self.settings = dict(settings or {})
        self.calibration = calibration
        self.statistics = Path(statistics) if statistics else None
        self.rows: list[dict[str, Any]] = []
        self._chosen: dict[str, Named] = {}
        self._waiting = SharedSubnets({}, dict, None, "")
        self._next: Named | None = None
        self._row: dict[str, Any] = {}
        self._network: nn.Module | None = None

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator, after the handler that loads its weights."""
        engine.add_event_handler(Events.STARTED, self.started)
        engine.add_event_handler(Events.EPOCH_STARTED, self.epoch_started)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)
        engine.add_event_handler(Events.COMPLETED, self.completed)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.failed)

    def started(self, engine: SupervisedEvaluator) -> None:
        """Choose the subnets and give the evaluator an epoch for each.

        Raises:
            ValueError: When there is no such subnet, or none within the budget.
        """
        self._network = engine.network
        self._costs = MultiplyAdds(self.supernet, self.input_shape)
        self._model = digest(self.supernet)
        self._about = {
            "model": self._model,
            "metric": engine.state.key_metric_name,
            **_data(engine),
            "input_shape": list(self.input_shape),
            "settings": self.settings,
            "machine": f"{device_name(engine.state.device)}, {torch.get_num_threads()} threads",
        }
        self._chosen = of_first_rank(self._choose)
        self._waiting = SharedSubnets(self._chosen, self._done, self.table, json.dumps(self._about))
        self._take(engine)

    def _choose(self) -> dict[str, Named]:
        """Return name and configuration of the subnets that are wanted, by canonical name."""
        self._move_others_aside()
        chosen = dict[str, Named]()
        for name, config in self.choice(self._costs, self._rows_of(self.known or self.table)):
            chosen.setdefault(self._canonical(config).name, (name, config))
        if len(chosen) > 1:
            count = len(chosen.keys() & self._done().keys())
            logger.info("%d subnets, %d of them evaluated before", len(chosen), count)
        return chosen

    def _take(self, engine: SupervisedEvaluator) -> None:
        """Find the next subnet, and let the evaluator go on as long as there is one."""
        self._next, left = of_first_rank(lambda: (self._waiting.take(), len(self._waiting)))
        engine.state.max_epochs = engine.state.epoch + (0 if self._next is None else 1 + left)

    def _done(self) -> dict[str, dict[str, Any]]:
        """Return the rows of these weights, metric, cases, input, settings and machine, by name of the subnet."""
        done = {row["key"]: row for row in self._rows_of(self.table) if self._about.items() <= row.items()}
        if done and self.calibration is not None and self.statistics is not None:
            normalised = {config.name for config in read_statistics(self.statistics, self._model)}
            done = {key: row for key, row in done.items() if key in normalised}
        return done

    def epoch_started(self, engine: SupervisedEvaluator) -> None:
        """Give the evaluator the network of the next subnet."""
        name, config = self._next
        network = self.supernet.extract(config).eval()
        if self.calibration is not None:
            recalibrate(network, [self.calibration.to(engine.state.device)])
            self._keep_statistics(config, network)
        engine.network = network
        if self.table is not None and rank() == 0:
            self._row = describe_subnet(
                self._costs,
                name,
                config,
                network,
                model=self._model,
                input_shape=self.input_shape,
                device=str(engine.state.device),
            )
        if torch.device(engine.state.device).type == "cpu":
            OneImage.cover(network)

    def epoch_completed(self, engine: SupervisedEvaluator) -> None:
        """Write the row of the subnet that was run, and find the next."""
        if self.table is not None and rank() == 0:
            self._write(engine)
        self._waiting.release()
        self._take(engine)

    def _write(self, engine: SupervisedEvaluator) -> None:
        metrics, details = engine.state.metrics, engine.state.metric_details
        intervals = case_intervals(details) | getattr(engine.state, "intervals", {})
        of_columns = {name: name.removeprefix("val_") for name in metrics}
        row = self._row | self._about
        row |= {
            "score": _plain(metrics.get(engine.state.key_metric_name)),
            "score_interval": intervals.get(engine.state.key_metric_name),
            "metrics": {name: _plain(value) for name, value in metrics.items()},
            "intervals": intervals,
            "per_class": {
                name: _per_class(each) for name, each in details.items() if isinstance(each, Tensor) and each.ndim == 2
            },
        } | {column: _plain(metrics[name]) for name, column in of_columns.items() if column in MORE}
        self.table.parent.mkdir(parents=True, exist_ok=True)
        append_row(row, self.table)
        score = "-" if row["score"] is None else f"{row['score']:.3f}"
        logger.info("%s: %s %s, %.1f ms", row["name"], row["metric"], score, row["latency_ms"])

    def completed(self, engine: SupervisedEvaluator) -> None:
        """Give the evaluator its network back, log the table and draw the front."""
        self._restore(engine)
        if self.table is None or rank() != 0:
            return
        done = self._done()
        self.rows = [done[key] | {"name": name} for key, (name, _) in self._chosen.items() if key in done]
        interval = any(row.get("score_interval") for row in self.rows)
        table = rows_table(self.rows, value="score", head=str(self._about["metric"]), interval=interval)
        logger.info("\n%s", table)
        scored = [row for row in self.rows if row["score"] is not None]
        buckets = getattr(self.choice, "buckets", 0) if getattr(self.choice, "per_bucket", 0) else 0
        if 0 < buckets <= len(scored):
            logger.info("by latency:\n%s", buckets_table(scored, buckets, value="score"))
        if len(scored) > 1:
            title = f"{len(scored)} subnets, {self._about['cases']} cases"
            picture = self.table.with_suffix(".png")
            pareto_picture(scored, picture, title=title, value="score", label=str(self._about["metric"]))
            logger.info("written: %s and %s", self.table, picture)

    def failed(self, engine: SupervisedEvaluator, error: BaseException) -> None:
        """Give the evaluator its network back; the error goes on."""
        self._restore(engine)
        raise error

    def _restore(self, engine: SupervisedEvaluator) -> None:
        if self._network is not None:
            engine.network, self._network = self._network, None
            self._waiting.release()

    def _canonical(self, config: SubnetConfig) -> SubnetConfig:
        return self.supernet.architecture.canonical(config)

    def _move_others_aside(self) -> None:
        """Give a table of other weights another name, in one process only."""
        if self.table is None or not self.table.exists():
            return
        with FileLock(self.table.with_name(f".{self.table.name}.lock")):
            if others := {row["model"] for row in read_rows(self.table)} - {self._model}:
                aside = _free(self.table.with_name(f"{self.table.stem}_{min(others)[:8]}{self.table.suffix}"))
                self.table.rename(aside)
                logger.info("%s holds rows of other weights and is now %s", self.table, aside.name)

    def _rows_of(self, table: Path | None) -> list[dict[str, Any]]:
        """Rows of these weights in a table."""
        return [row for row in read_rows(table) if row["model"] == self._model] if table else []

    def _keep_statistics(self, config: SubnetConfig, network: nn.Module) -> None:
        """Share the first rank's statistics, and write them down where they are to be kept."""
        plain = without_resolution(network)
        if distributed_now():
            for buffer in plain.buffers():
                distributed.broadcast(buffer, 0)
        if self.statistics is not None and rank() == 0:
            buffers = {name: buffer.cpu().clone() for name, buffer in plain.named_buffers()}
            write_statistics({self._canonical(config): buffers}, self.statistics, self._model)


def _data(engine: SupervisedEvaluator) -> dict[str, Any]:
    """What tells these cases from others: how many there are, and the names of their files, wherever these are."""
    dataset = getattr(engine.data_loader, "dataset", engine.data_loader)
    items = getattr(dataset, "data", None) or []
    names = [Path(str(item.get("image"))).name if isinstance(item, dict) else str(item) for item in items]
    return {"cases": len(dataset), "data": hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]}


def _free(path: Path) -> Path:
    """This path, or where it is taken one with a number."""
    names = itertools.chain([path.name], (f"{path.stem}_{number}{path.suffix}" for number in itertools.count(2)))
    return next(free for name in names if not (free := path.with_name(name)).exists())


def _plain(value: Any) -> Any:
    """A metric as JSON: NaN and what is infinite are none."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return float(value) if value is not None and math.isfinite(value) else None


def _per_class(details: Tensor) -> list[float | None]:
    return _plain(torch.nanmean(details.double(), dim=0))
