"""One epoch of an evaluator per subnet, and a table that is complete, resumable and never lost."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

if find_spec("monai") is None or find_spec("ignite") is None:
    pytest.skip('needs MONAI and ignite: pip install "prox-monai[monai]"', allow_module_level=True)

from monai.inferers import SimpleInferer

from prox_monai.evaluation.batch_norm import recalibrate
from prox_monai.evaluation.cost import multiply_adds, parameters
from prox_monai.evaluation.subnets import read_rows
from prox_monai.integrations.monai import sampling
from prox_monai.integrations.monai.choice import SubnetChoice
from prox_monai.integrations.monai.network import SubnetNetwork
from prox_monai.integrations.monai.sampling import SubnetSamplingHandler
from prox_monai.integrations.monai.statistics import digest

THREE = SubnetChoice(["smallest", "d2-w.5-k3-r1", "largest"])
INPUT = (1, 8, 8)


@pytest.fixture
def sweep(evaluation):
    """Runs the handler in an evaluator of its own."""

    def run(family, *, choice=THREE, before=(), after=(), options=None, **handler):
        supernet = family.supernet()
        sampling = SubnetSamplingHandler(
            supernet, INPUT, choice=choice, **{"calibration": family.calibration} | handler
        )
        run = evaluation(family, [*before, sampling, *after], **{"network": supernet} | (options or {}))
        result = SimpleNamespace(run=run, sampling=sampling, supernet=supernet, evaluator=run.evaluator, error=None)
        try:
            run.evaluator.run()
        except BaseException as error:
            result.error = error
        return result

    return run


def other_weights(family):
    """The same family, trained otherwise."""
    state = {name: tensor * 1.5 if tensor.is_floating_point() else tensor for name, tensor in family.state.items()}
    return type(family)(family.architecture, family.space, state, family.data, family.calibration)


def test_every_subnet_has_one_epoch_as_a_plain_network(family, sweep, table):
    done = sweep(family, table=table)
    assert done.run.epochs == [1, 2, 3]
    assert done.evaluator.state.epoch == 3
    for (_, config), network, outputs in zip(
        THREE(done.sampling._costs, []), done.run.networks, done.run.outputs, strict=True
    ):
        plain = family.supernet().extract(config)
        if family.calibration is not None:
            recalibrate(plain, [family.calibration])
        assert type(network) is type(plain)
        with torch.no_grad():
            expected = [done.evaluator.inferer(batch["image"], plain) for batch in family.data]
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(outputs, expected, strict=True))


def test_rows_are_complete(family, sweep, table, evaluation):
    sweep(family, table=table)
    rows = read_rows(table)
    assert [row["name"] for row in rows] == ["smallest", "d2-w.5-k3-r1", "largest"]
    for row, config in zip(rows, (config for _, config in THREE(sweep(family).sampling._costs, [])), strict=True):
        plain = family.supernet().extract(config)
        if family.calibration is not None:
            recalibrate(plain, [family.calibration])
        alone = evaluation(family, [], network=plain)
        alone.evaluator.run()
        details = alone.evaluator.state.metric_details["dice"]
        assert row["score"] == row["metrics"]["dice"] == pytest.approx(alone.evaluator.state.metrics["dice"])
        assert row["per_class"]["dice"] == pytest.approx(torch.nanmean(details, dim=0).tolist())
        assert row["parameters"] == parameters(plain)
        assert row["macs"] == multiply_adds(plain, INPUT)
        assert row["config"] == config.to_dict()
        assert row["key"] == config.name
        assert row["model"] == digest(family.supernet())
        assert (row["metric"], row["cases"]) == ("dice", 3)
        assert 0 < row["latency"]["q1_ms"] <= row["latency_ms"] <= row["latency"]["q3_ms"]
    assert table.with_suffix(".png").stat().st_size > 1000


def test_what_was_evaluated_is_not_evaluated_again(plain_family, sweep, table, caplog):
    first = sweep(plain_family, table=table)
    written = table.read_text()
    with caplog.at_level("INFO"):
        again = sweep(plain_family, table=table)
    assert again.error is None
    assert again.run.epochs == []
    assert table.read_text() == written
    assert again.sampling.rows == first.sampling.rows == read_rows(table)
    assert "3 subnets, 3 of them evaluated before" in caplog.text
    again.evaluator.run(5)  # in the fifth epoch of a training
    assert again.run.epochs == []
    table.write_text("".join(line + "\n" for line in written.splitlines()[:1]))
    rest = sweep(plain_family, table=table)
    assert rest.run.epochs == [1, 2]
    assert [row["key"] for row in read_rows(table)] == [json.loads(line)["key"] for line in written.splitlines()]


def test_a_row_is_found_under_another_name(plain_family, sweep, table):
    sweep(plain_family, choice=SubnetChoice("largest"), table=table)
    name = plain_family.space.largest().name
    done = sweep(plain_family, choice=SubnetChoice([name, "largest", "smallest"]), table=table)
    assert done.run.epochs == [1]
    assert [row["name"] for row in done.sampling.rows] == [name, "smallest"]


@pytest.mark.parametrize("change", ["metric", "cases", "files"])
def test_a_row_of_other_data_or_another_metric_does_not_count(plain_family, sweep, table, change):
    class Cases(list):
        """A data set as MONAI's are: it knows what it was made of."""

        data = ({"image": "/elsewhere/a.nii.gz"},)

    sweep(plain_family, table=table)
    options = {
        "metric": {"metric": False},
        "cases": {"val_data_loader": list(plain_family.data[:2])},
        "files": {"val_data_loader": Cases(plain_family.data)},
    }
    assert sweep(plain_family, table=table, options=options[change]).run.epochs == [1, 2, 3]
    assert len(read_rows(table)) == 6


def test_a_row_of_other_settings_does_not_count(plain_family, sweep, table):
    for tolerance, epochs in ((1.0, [1, 2, 3]), (6.0, [1, 2, 3]), (1.0, [])):
        assert sweep(plain_family, table=table, settings={"tolerance_mm": tolerance}).run.epochs == epochs
    assert [row["settings"] for row in read_rows(table)] == [{"tolerance_mm": 1.0}] * 3 + [{"tolerance_mm": 6.0}] * 3


def test_a_budget_chooses_by_the_other_table_alone(plain_family, sweep, table, tmp_path):
    """What is reported on these cases must not be chosen on them."""
    sweep(plain_family, table=table)
    within = SubnetChoice(max_latency_ms=1e6)
    error = sweep(plain_family, table=table, known=tmp_path / "none.jsonl", choice=within).error
    assert "no subnet is known yet, so none can be chosen" in str(error)
    rows = read_rows(table)
    (tmp_path / "known.jsonl").write_text(json.dumps(rows[0]) + "\n")
    chosen = sweep(plain_family, table=table, known=tmp_path / "known.jsonl", choice=within)
    assert [row["key"] for row in chosen.sampling.rows] == [rows[0]["key"]]


def test_a_row_of_another_computer_does_not_count(plain_family, sweep, table, monkeypatch):
    """Not its latency, so it is not among those that a budget chooses from, either."""
    sweep(plain_family, table=table)
    monkeypatch.setattr(sampling, "device_name", lambda device: "another processor")
    assert sweep(plain_family, table=table, choice=SubnetChoice("smallest")).run.epochs == [1]
    rows = read_rows(table)
    assert rows[-1]["machine"] == f"another processor, {torch.get_num_threads()} threads"
    assert rows[0]["machine"].startswith(rows[0]["latency"]["device"])
    done = sweep(plain_family, table=table, choice=SubnetChoice(max_latency_ms=1e6))
    assert [row["key"] for row in done.sampling.rows] == [rows[-1]["key"]]


def test_a_row_without_its_statistics_is_made_again(family_of, sweep, table, tmp_path):
    family, statistics = family_of("batch"), tmp_path / "statistics.pth"
    sweep(family, table=table, statistics=statistics)
    assert sweep(family, table=table, statistics=statistics).run.epochs == []
    statistics.unlink()
    assert sweep(family, table=table, statistics=statistics).run.epochs == [1, 2, 3]
    SubnetNetwork(family.architecture, family.space, statistics=statistics).load_state_dict(family.state)


def test_rows_of_other_weights_are_moved_aside_and_never_lost(plain_family, sweep, table):
    """Weights that come back find their file's name taken."""
    other = other_weights(plain_family)
    for family in (plain_family, other, plain_family, other):
        assert sweep(family, table=table).run.epochs == [1, 2, 3]
    files = {path.name: {row["model"] for row in read_rows(path)} for path in table.parent.glob("*.jsonl")}
    ours, theirs = digest(plain_family.supernet()), digest(other.supernet())
    assert files == {
        "subnets.jsonl": {theirs},
        f"subnets_{ours[:8]}.jsonl": {ours},
        f"subnets_{ours[:8]}_2.jsonl": {ours},
        f"subnets_{theirs[:8]}.jsonl": {theirs},
    }
    assert all(len(read_rows(table.with_name(name))) == 3 for name in files)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_network_is_the_evaluators_own_after_an_error(plain_family, sweep, table, error):
    class Failing(SimpleInferer):
        """Ends the second subnet."""

        calls = 0

        def __call__(self, *args, **kwargs):
            Failing.calls += 1
            if Failing.calls == 5:
                raise error("in the middle")
            return super().__call__(*args, **kwargs)

    done = sweep(plain_family, table=table, options={"inferer": Failing()})
    assert isinstance(done.error, error)
    assert done.evaluator.network is done.supernet
    assert [row["name"] for row in read_rows(table)] == ["smallest"]
    assert sweep(plain_family, table=table).run.epochs == [1, 2]
    assert [row["name"] for row in read_rows(table)] == ["smallest", "d2-w.5-k3-r1", "largest"]


def test_the_network_is_the_evaluators_own_in_the_end(family, sweep, table):
    before = digest(family.supernet())
    done = sweep(family, table=table)
    assert done.evaluator.network is done.supernet
    assert done.supernet.active == family.space.smallest()
    assert digest(done.supernet) == before
    refused = sweep(family, choice=SubnetChoice("tiny"), table=table)
    with pytest.raises(ValueError, match="'tiny'"):
        raise refused.error
    assert refused.evaluator.network is refused.supernet


def test_random_subnets_are_run_beside_the_named_ones(plain_family, sweep, table):
    choice = SubnetChoice(["smallest", "largest"], per_bucket=2, buckets=3, seed=7)
    rows = sweep(plain_family, choice=choice, table=table).sampling.rows
    assert len({row["key"] for row in rows}) == len(rows) == 2 + 2 * 3
    assert sweep(plain_family, choice=choice, table=table).run.epochs == []


def test_a_budget_runs_the_best_of_the_table(plain_family, sweep, table):
    rows = sweep(plain_family, table=table).sampling.rows
    best = max(rows, key=lambda row: (row["score"], -row["latency_ms"]))  # of equal ones the fastest
    done = sweep(plain_family, choice=SubnetChoice(max_latency_ms=1e6), table=table)
    assert done.run.epochs == []
    assert [row["key"] for row in done.sampling.rows] == [best["key"]]
    fastest = min(rows, key=lambda row: row["latency_ms"])
    refused = sweep(plain_family, choice=SubnetChoice(max_latency_ms=1e-6), table=table)
    message = f"the fastest, {fastest['key']}, takes {fastest['latency_ms']:.1f} ms"
    with pytest.raises(ValueError, match=message):
        raise refused.error


def test_without_a_table_nothing_is_written(family, sweep, tmp_path):
    done = sweep(family)
    assert done.run.epochs == [1, 2, 3]
    assert done.sampling.rows == []
    assert list(tmp_path.iterdir()) == []


def test_without_a_metric_there_is_no_score_and_no_picture(plain_family, sweep, table):
    sweep(plain_family, table=table, options={"metric": False})
    assert [(row["score"], row["metrics"], row["metric"]) for row in read_rows(table)] == [(None, {}, None)] * 3
    assert not table.with_suffix(".png").exists()


def test_batch_norm_without_calibration_is_refused(family_of):
    family = family_of("batch")
    with pytest.raises(ValueError, match="calibration must be training images for a network with BatchNorm"):
        SubnetSamplingHandler(family.supernet(), INPUT)


def test_the_log_shows_the_table(plain_family, sweep, table, caplog):
    with caplog.at_level("INFO"):
        sweep(plain_family, table=table)
    lines = caplog.text.splitlines()
    head = next(line for line in lines if line.startswith("subnet"))
    assert head.split()[-4:] == ["dice", "95", "%", "interval"]
    assert sum(line.split()[:1] in (["smallest"], ["d2-w.5-k3-r1"], ["largest"]) for line in lines) == 3
    assert f"written: {table} and {Path(table).with_suffix('.png')}" in caplog.text
