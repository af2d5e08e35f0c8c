"""Subnets as algorithms of their own; that they predict and score is in test_pipeline.py."""

from __future__ import annotations

import pytest
import yaml
from monai.auto3dseg.utils import algo_from_json

from prox_monai.integrations.auto3dseg import InferClass, add_subnet
from prox_monai.integrations.auto3dseg.folder import AlgoFolder


def test_a_member_refers_to_its_supernet_wherever_both_are(copied, tmp_path, quiet_monai):
    member = AlgoFolder.at(add_subnet(copied / "prox_1", "middle"))
    assert member.is_member
    assert member.model == copied / "prox_1" / "model"
    assert member.trained_parameters().subnet == ("middle",)
    moved = copied.rename(tmp_path / "moved again")
    assert AlgoFolder.at(moved / "prox_1_middle").model == moved / "prox_1" / "model"


def test_adding_twice_changes_nothing(copied, quiet_monai):
    folder = add_subnet(copied / "prox_0", "d2-w.5-k3-r1")
    before = (folder / "algo_object.json").read_text(), (copied / "prox_0" / "model" / "progress.yaml").read_text()
    assert add_subnet(copied / "prox_0", "d2-w.5-k3-r1") == folder
    assert before == (
        (folder / "algo_object.json").read_text(),
        (copied / "prox_0" / "model" / "progress.yaml").read_text(),
    )


def test_the_score_of_the_supernet_stays_the_largests(copied, quiet_monai):
    add_subnet(copied / "prox_0", "d2-w.5-k3-r1")
    entries = yaml.safe_load((copied / "prox_0" / "model" / "progress.yaml").read_text())
    assert entries[-1]["name"] == "largest"


def test_a_supernet_that_was_trained_again_has_no_score_of_a_member(copied, quiet_monai):
    folder = add_subnet(copied / "prox_0", "d2-w.5-k3-r1")
    algo, _ = algo_from_json(str(folder / "algo_object.json"))
    progress = copied / "prox_0" / "model" / "progress.yaml"
    entries = yaml.safe_load(progress.read_text())
    progress.write_text(yaml.safe_dump([entry for entry in entries if entry["name"] != "d2-w.5-k3-r1"]))
    with pytest.raises(FileNotFoundError, match=r"was trained again. Call add_subnet\(.*'d2-w.5-k3-r1'\) again"):
        algo.get_score()


def test_a_member_keeps_its_subnet(copied, quiet_monai):
    """Auto3DSeg gives the parameters of ``prox`` to all whose name begins so."""
    config = add_subnet(copied / "prox_0", "middle") / "configs" / "hyper_parameters.yaml"
    for choice in ({"subnet": "smallest"}, {"max_latency_ms": 1e6}):
        chosen = InferClass(config, **choice).parameters
        assert (chosen.subnet, chosen.max_latency_ms) == (("middle",), 0)


def test_what_does_not_exist_is_refused(copied, generate, quiet_monai):
    with pytest.raises(ValueError, match="tiniest"):
        add_subnet(copied / "prox_0", "tiniest")
    assert not (copied / "prox_0_tiniest").exists()
    with pytest.raises(FileNotFoundError, match="is not trained"):
        add_subnet(generate().output_path, "smallest")
    with pytest.raises(FileNotFoundError, match="is no generated algorithm"):
        add_subnet(copied, "smallest")
