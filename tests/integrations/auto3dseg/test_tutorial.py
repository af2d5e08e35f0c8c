"""What docs/auto3dseg.md and the template's text say, done."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml
from monai.bundle import ConfigParser

from prox_monai.data import write_synthetic_decathlon
from prox_monai.integrations.auto3dseg import Parameters, ProxAlgo
from prox_monai.plugin_files import plugin_folder

TUTORIAL = Path(__file__).parents[3] / "docs" / "auto3dseg.md"
SETTINGS = "num_epochs=10, prox_iterations_per_epoch=20"
SHORT = "num_epochs=2, prox_iterations_per_epoch=1, prox_channels=4"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TUTORIAL.read_text(encoding="utf-8"), re.DOTALL)


def test_the_yaml_of_an_input():
    (text,) = blocks("yaml")
    source = yaml.safe_load(text)
    assert set(source) == {"modality", "datalist", "dataroot", "num_fold", "algos"}
    assert source["num_fold"] == 1  # as in the code before
    algo = ConfigParser(source["algos"]["prox"]).get_parsed_content()
    assert isinstance(algo, ProxAlgo)
    assert algo.settings == {"num_epochs": 10, "prox_iterations_per_epoch": 20}


@pytest.mark.parametrize("path", [TUTORIAL, plugin_folder("auto3dseg") / "prox" / "docs" / "README.md"])
def test_parameters_that_are_named_are_there(path):
    known = {field.name for field in dataclasses.fields(Parameters)}
    named = set(re.findall(r"`((?:prox|num|learning|roi|resample|overlap|cache)_\w+)", path.read_text()))
    others = {"num_warmup_epochs"}  # named as one that is refused
    assert named - {"prox_monai", "prox_0"} - others <= known
    assert not others & known


@pytest.mark.slow
def test_its_code_from_top_to_bottom(tmp_path, monkeypatch, capsys, quiet_monai):
    """With fewer steps."""
    pytest.importorskip("optuna").logging.disable_default_handler()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_synthetic_decathlon("data", cases=14, size=(24, 32, 24))
    code = blocks("python")
    assert SETTINGS in code[1]
    names: dict[str, object] = {}
    for block in code:
        exec(block.replace(SETTINGS, SHORT), names)
    shown = capsys.readouterr().out
    assert "['synthetic_013_ensemble.nii.gz', 'synthetic_014_ensemble.nii.gz']" in shown
    assert "prox_0_smallest" in shown
    assert len(list(Path("two").rglob("*.nii.gz"))) == 2
