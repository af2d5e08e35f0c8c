"""More subnets for the table of a trained algorithm."""

from __future__ import annotations

import json

import pytest

from prox_monai.evaluation.subnets import read_rows
from prox_monai.integrations.auto3dseg.validate import run


def test_subnets_are_added_to_the_table(copied, quiet_monai):
    model = copied / "prox_0" / "model"
    before = read_rows(model / "subnets.jsonl")
    config = str(copied / "prox_0" / "configs" / "hyper_parameters.yaml")
    run(config, subnet="'d2-w.5-k3-r1,smallest'")
    after = read_rows(model / "subnets.jsonl")
    assert [row["name"] for row in after[len(before) :]] == ["d2-w.5-k3-r1"]
    run(config, prox_per_bucket=1)
    assert len(read_rows(model / "subnets.jsonl")) == len(after) + 5


def test_another_machine_measures_all_that_are_known(copied, quiet_monai):
    """Or a latency budget would know the one new row only."""
    table = copied / "prox_0" / "model" / "subnets.jsonl"
    before = [json.dumps(row | {"machine": "another"}) + "\n" for row in read_rows(table)]
    table.write_text("".join(before))
    config = str(copied / "prox_0" / "configs" / "hyper_parameters.yaml")
    run(config, subnet="smallest")
    after = read_rows(table)
    assert {row["key"] for row in after if row["machine"] != "another"} == {row["key"] for row in after}
    run(config, subnet="smallest")
    assert len(read_rows(table)) == len(after) == 2 * len(before)


def test_what_has_no_effect_is_refused(copied):
    with pytest.raises(
        ValueError, match=r"fold, num_epochs cannot be given: an evaluation takes subnet, prox_per_bucket"
    ):
        run(str(copied / "prox_0" / "configs" / "hyper_parameters.yaml"), fold=1, num_epochs=3)


def test_an_unknown_subnet_is_refused(copied, quiet_monai):
    with pytest.raises(ValueError, match="tiniest"):
        run(str(copied / "prox_0" / "configs" / "hyper_parameters.yaml"), subnet="tiniest")


def test_untrained_says_so(generate):
    with pytest.raises(FileNotFoundError, match="is not trained"):
        run(f"{generate().output_path}/configs/hyper_parameters.yaml")
