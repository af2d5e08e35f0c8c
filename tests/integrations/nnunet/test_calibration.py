"""The cases on which exported networks are calibrated and checked."""

from __future__ import annotations

import dataclasses
import math
import os

import pytest

from prox_monai.evaluation.subnets import split_cases
from prox_monai.integrations.nnunet import calibration
from prox_monai.integrations.nnunet.calibration import PARITY_PATCHES, cases_of
from prox_monai.integrations.nnunet.scoring import fold_cases, mean_dice
from prox_monai.integrations.nnunet.unseen import evaluate_trained


@pytest.fixture(scope="session")
def cases(varied):
    return cases_of(varied, os.environ)


def test_nothing_is_chosen_on_what_is_reported_on(cases, folders):
    tuning, reporting = split_cases(fold_cases(folders.preprocessed / folders.dataset, 0))
    assert list(cases.tuning) == tuning
    assert list(cases.reporting) == reporting
    assert not {*cases.training, *cases.tuning} & set(reporting)


def test_patches(cases, varied):
    patches = list(cases.parity_patches())
    assert len(patches) == PARITY_PATCHES
    assert {tuple(patch.shape[1:]) for patch in patches} == {varied.input_shape}


def test_dice_is_that_of_evaluate(cases, varied, folders, tmp_path):
    config = varied.space.largest()
    preprocessed = folders.preprocessed / folders.dataset
    network = varied.supernet.extract(config).eval()
    for half in ("tuning", "reporting"):
        rows = tmp_path / f"{half}.jsonl"
        (row,) = evaluate_trained(varied, [("a", config)], preprocessed, rows, half=half, repeats=0)
        assert cases.dice(network, half) == pytest.approx(row["dice"])
    assert set(cases.scores(network, cases.tuning[:1])) == set(cases.tuning[:1])


def test_the_mean_is_over_labels_of_the_mean_over_cases():
    scores = {"a": {"1": 0.5, "2": math.nan}, "b": {"1": 0.7, "2": 0.2}}
    assert mean_dice(scores) == pytest.approx((0.6 + 0.2) / 2)
    assert math.isnan(mean_dice({"a": {"1": math.nan}}))


def test_a_fold_without_unseen_cases(varied):
    with pytest.raises(ValueError, match="fold must be in 0 ... 4 to have unseen cases, got all"):
        cases_of(dataclasses.replace(varied, fold="all"), os.environ)


def test_both_halves_share_what_is_kept_in_memory(varied, monkeypatch):
    made = []

    class Scorer:
        def __init__(self, planned, preprocessed, cases):
            made.append(set(cases))

        def __call__(self, network, cases):
            return {case: {"1": 0.5} for case in cases}

    monkeypatch.setattr(calibration, "CaseScorer", Scorer)
    cases = cases_of(varied, os.environ)
    assert [cases.dice(None, half) for half in ("tuning", "reporting", "tuning")] == [0.5] * 3
    assert set(cases.scores(None, cases.reporting[:1])) == set(cases.reporting[:1])
    assert made == [{*cases.tuning, *cases.reporting}]
