from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest

from prox_monai.cli import main
from prox_monai.commands import report as command
from prox_monai.evaluation.multiply_adds import ALIASES
from prox_monai.evaluation.subnets import read_rows
from prox_monai.integrations.nnunet.deploy import deploy
from prox_monai.integrations.nnunet.device_report import exports_section
from prox_monai.integrations.nnunet.planned import planned_network, validated_dice
from prox_monai.integrations.nnunet.report import Wanted, write_report
from prox_monai.integrations.nnunet.unseen import evaluate_trained, preprocessed_folder
from prox_monai.space import SubnetConfig


@pytest.fixture(scope="module")
def table(model, tmp_path_factory) -> Path:
    """Three evaluated subnets of the finished training."""
    path, find = tmp_path_factory.mktemp("rows") / "rows.jsonl", model.multiply_adds().find
    named = [(alias, find(alias)) for alias in ALIASES]
    list(evaluate_trained(model, named, preprocessed_folder(model, os.environ), path, half="both"))
    return path


def test_a_report_shows_training_subnets_networks_and_cases(model, table, tmp_path):
    write_report(model, Wanted((table,)), tmp_path / "report.html", os.environ)
    page = (tmp_path / "report.html").read_text()
    for heading in ("Training", "Subnets", "Networks", "Cases"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("data:image/png;base64,") == 1 + 1 + 3 + 3  # progress, front, three subnets, three cases
    for text in (*ALIASES, "nnU-Net, as planned", "5: resolution", model.digest, "worst of", "median of", "best of"):
        assert text in page


def test_without_images_the_page_says_so(model, table, tmp_path, caplog):
    environment = {name: value for name, value in os.environ.items() if name != "nnUNet_raw"}
    write_report(model, Wanted((table,), ("smallest",)), tmp_path / "report.html", environment)
    page = (tmp_path / "report.html").read_text()
    assert "No case is shown: nnUNet_raw is not set" in page
    assert "no case is shown" in caplog.text
    assert page.count("data:image/png;base64,") == 3


def test_a_subnet_that_no_table_holds_shows_no_case(model, table, tmp_path):
    write_report(model, Wanted((table,), ("d1-w.5-k5-r1",)), tmp_path / "report.html", os.environ)
    assert "No table holds d1-w.5-k5-r1" in (tmp_path / "report.html").read_text()


def test_rows_may_have_names_of_their_own(model, table, tmp_path):
    """The demo calls the row of a stock prediction ``stock/smallest``, and it may be the best."""
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    best = max(rows, key=lambda row: row["dice"])
    renamed = [row | ({"name": "stock/smallest", "dice": 1.0} if row is best else {}) for row in rows]
    other = tmp_path / "rows.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in renamed))
    write_report(model, Wanted((other,)), tmp_path / "report.html", os.environ)
    assert SubnetConfig.from_dict(best["config"]).name in (tmp_path / "report.html").read_text()


def test_the_planned_network_is_compared(model, table, finished):
    rows = read_rows(table)
    row = planned_network(model, rows, finished)
    summary = json.loads((finished / "validation" / "summary.json").read_text())
    assert row["dice"] == pytest.approx(summary["foreground_mean"]["Dice"])
    assert row["parameters"] > rows[0]["parameters"]
    assert planned_network(model, rows, None)["dice"] is None


def test_what_it_is_compared_with_must_be_there(model, table, finished, tmp_path):
    rows = read_rows(table)
    with pytest.raises(FileNotFoundError, match="should be a fold that nnU-Net trained and validated"):
        planned_network(model, rows, tmp_path)
    shutil.copytree(finished / "validation", tmp_path / "validation")
    path = tmp_path / "validation" / "summary.json"
    summary = json.loads(path.read_text())
    path.write_text(json.dumps(summary | {"metric_per_case": summary["metric_per_case"][1:]}))
    with pytest.raises(ValueError, match="lacks 1 of the cases that subnets were scored on"):
        planned_network(model, rows, tmp_path)


def test_names_of_cases_may_hold_dots(tmp_path):
    case, metrics = "1.2.840.113619", {"1": {"Dice": 0.9}}
    path = tmp_path / "validation" / "summary.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"metric_per_case": [{"prediction_file": f"x/{case}.nii.gz", "metrics": metrics}]}))
    assert validated_dice(tmp_path, {case: 0.8}, ".nii.gz") == 0.9


def test_tables_must_fit(model, table, tmp_path):
    with pytest.raises(FileNotFoundError, match="prox-monai evaluate writes such a table"):
        write_report(model, Wanted((tmp_path / "none.jsonl",)), tmp_path / "report.html", os.environ)
    other = tmp_path / "other.jsonl"
    rows = read_rows(table)
    other.write_text(json.dumps(rows[0] | {"key": "other", "dice_per_case": {"another": 0.5}}) + "\n")
    with pytest.raises(ValueError, match="hold subnets that were scored on different cases"):
        write_report(model, Wanted((table, other)), tmp_path / "report.html", os.environ)
    other.write_text("")
    with pytest.raises(ValueError, match="hold no subnet with a Dice"):
        write_report(model, Wanted((other,)), tmp_path / "report.html", os.environ)
    assert not (tmp_path / "report.html").exists()


def test_latencies_must_compare(model, table, tmp_path):
    rows, other = read_rows(table), tmp_path / "other.jsonl"
    other.write_text(json.dumps(rows[0] | {"latency_ms": None, "latency": None}) + "\n")
    with pytest.raises(ValueError, match="hold 1 subnets without latency, such as smallest"):
        write_report(model, Wanted((other,)), tmp_path / "report.html", os.environ)
    timed = rows[0]["latency"] | {"threads": 64}
    other.write_text(json.dumps(rows[0] | {"key": "other", "latency": timed}) + "\n")
    with pytest.raises(ValueError, match="hold latencies that do not compare, of .*, threads: 64"):
        write_report(model, Wanted((table, other)), tmp_path / "report.html", os.environ)


def test_the_exported_subnet_is_drawn_and_predicts_the_cases(model, table, tmp_path):
    smallest = model.space.smallest()
    deploy(model, smallest, "torch", tmp_path / "exported")
    write_report(model, Wanted((table,), exported=(tmp_path / "exported",)), tmp_path / "report.html", os.environ)
    page = (tmp_path / "report.html").read_text()
    assert f"{smallest}, worst of" in page  # the first that is drawn predicts
    assert page.count("A box is a block") == 2 * 3  # as text, too; the smallest is named once, as it was exported
    assert "smallest: " not in page


def test_a_search_and_exports_are_shown(model, table, finished, tmp_path):
    subnet = {"subnet": "d1-w.5-k3-r.7", "macs": 2e9, "memory_bytes": 7.3e7, "dice_tuning": 0.5, "dice_reporting": None}
    subnet["latency_ms"] = None  # searched without a table, on a machine where times do not compare
    front = {
        "model": model.digest,
        "cost": "macs",
        "at_most": {"macs": 3e9, "memory_mb": 80.5, "parameters": 1e6},
        "min_dice": 0.0,
        "space_size": 64,
        "scored": 9,
        "latency": None,
        "subnets": [subnet | {"dice_reporting_interval": [0.3, 0.5]}],
    }
    (tmp_path / "front.json").write_text(json.dumps(front))
    shutil.copyfile(finished / "progress.png", tmp_path / "pareto.png")
    deploy(model, model.space.smallest(), "torch", tmp_path / "exported")
    wanted = Wanted((table,), ("smallest",), front=tmp_path / "front.json", exported=(tmp_path / "exported",))
    write_report(model, wanted, tmp_path / "report.html", {})
    page = (tmp_path / "report.html").read_text()
    for text in (
        "The Pareto set of Dice and GMAC among 64 subnets, GMAC at most 3, ",
        "memory (MB) at most 80.5, parameters at most 1,000,000; 9 were scored",
        "<td>2.00</td>",
        "<td>73</td>",
        "<td>0.500</td>",
        "<td>0.300 to 0.500</td>",
        "<td>exported</td>",
    ):
        assert text in page
    assert "The subnets that were scored, on the tuning half, by GMAC." in page
    (tmp_path / "front.json").write_text(json.dumps(front | {"cost": "memory_mb"}))
    write_report(model, wanted, tmp_path / "report.html", {})
    assert "The Pareto set of Dice and memory (MB) among" in (tmp_path / "report.html").read_text()
    (tmp_path / "front.json").write_text(json.dumps(front | {"model": "another"}))
    with pytest.raises(ValueError, match="is of another model"):
        write_report(model, wanted, tmp_path / "report.html", {})
    (tmp_path / "front.json").write_text("{")
    with pytest.raises(ValueError, match="front.json is damaged"):
        write_report(model, wanted, tmp_path / "report.html", {})
    other = dataclasses.replace(model, digest="another")
    with pytest.raises(ValueError, match=f"exported is of another model .{model.digest}, not another"):
        exports_section(other, [tmp_path / "exported"])
    (tmp_path / "front.json").write_text("{}")
    with pytest.raises(ValueError, match="is no front.json of prox-monai search"):
        write_report(model, wanted, tmp_path / "report.html", {})


def test_the_command(finished, table, tmp_path, capsys):
    arguments = ["report", str(finished.parent), "--rows", str(table), "--subnets", "smallest"]
    output = tmp_path / "report.html"
    assert main([*arguments, "--output", str(output)], command.COMMANDS) == 0
    written = output.read_bytes()
    assert main([*arguments, "--output", str(output)], command.COMMANDS) == 2
    assert "exists; give another --output, or --overwrite" in capsys.readouterr().err
    assert output.read_bytes() == written
    assert main([*arguments, "--output", str(output), "--overwrite"], command.COMMANDS) == 0
