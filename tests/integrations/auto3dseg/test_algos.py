from __future__ import annotations

from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from prox_monai.integrations.auto3dseg import ProxAlgo, algos


def test_what_autorunner_takes():
    (name, entry), *others = algos().items()
    assert not others
    assert (name, entry["_target_"]) == ("prox", "prox_monai.integrations.auto3dseg.ProxAlgo")
    assert (Path(entry["template_path"]) / "prox" / "scripts" / "infer.py").is_file()
    assert isinstance(ConfigParser(entry).get_parsed_content(), ProxAlgo)


def test_settings_are_the_algorithms_own():
    algo = ConfigParser(algos(prox_width=[0.5, 1.0], num_epochs=3)["prox"]).get_parsed_content()
    assert algo.settings == {"prox_width": [0.5, 1.0], "num_epochs": 3}


def test_bad_settings_are_refused_before_anything_runs():
    with pytest.raises(ValueError, match="unknown parameter 'prox_widths', did you mean 'prox_width'"):
        algos(prox_widths=[0.5])
    with pytest.raises(ValueError, match="num_epochs must be an integer >= 1, got 0"):
        algos(num_epochs=0)


def test_others_stand_beside_it():
    other = {"segresnet": {"_target_": "segresnet.scripts.algo.SegresnetAlgo", "template_path": "templates"}}
    assert list(algos() | other) == ["prox", "segresnet"]
