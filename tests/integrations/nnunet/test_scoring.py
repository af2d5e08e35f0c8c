"""Scores are nnU-Net's own, without its processes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from prox_monai.evaluation.subnets import evaluate_subnets, read_rows
from prox_monai.integrations.nnunet import scoring
from prox_monai.integrations.nnunet.scoring import CaseScorer, fold_cases
from prox_monai.integrations.nnunet.trained import load_trained


@pytest.fixture
def preprocessed(folders):
    return folders.preprocessed / folders.dataset


@pytest.fixture
def scorer(model, preprocessed, finished):
    return CaseScorer(model, preprocessed, fold_cases(preprocessed, 0))


@pytest.fixture
def unmirrored(make_trainer):
    """A fold with random weights, which find a bit of everything, validated by nnU-Net without mirroring."""
    trainer = make_trainer(mirror=False, validate=["smallest", "largest"])
    trainer.on_train_start()
    for parameter in trainer.supernet.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    trainer.perform_actual_validation()
    fold = Path(trainer.output_folder)
    trainer.save_checkpoint(str(fold / "checkpoint_final.pth"))
    return fold


def test_it_equals_nnunets_own_validation(unmirrored, preprocessed):
    model = load_trained(unmirrored.parent)
    score = CaseScorer(model, preprocessed, fold_cases(preprocessed, 0))
    space = model.supernet.space
    for folder, config in (("validation", space.largest()), ("subnet_smallest/validation", space.smallest())):
        summary = json.loads((unmirrored / folder / "summary.json").read_text())
        scores = score(model.supernet.extract(config))
        theirs = {
            row["prediction_file"].rpartition("/")[2].removesuffix(".nii.gz"): {
                label: metrics["Dice"] for label, metrics in row["metrics"].items()
            }
            for row in summary["metric_per_case"]
        }
        assert scores.keys() == theirs.keys()
        for case, values in theirs.items():
            assert scores[case] == pytest.approx(values, abs=1e-12, nan_ok=True)
    assert any(value > 0 for values in scores.values() for value in values.values())


def test_a_segmentation_lies_on_the_original_grid(scorer, model, folders):
    import nibabel

    case = scorer.cases[0]
    segmentation = scorer.segment(model.supernet.extract(model.supernet.space.smallest()), case)
    label = nibabel.load(folders.raw / folders.dataset / "labelsTr" / f"{case}.nii.gz")
    assert segmentation.shape == label.shape[::-1]
    assert set(np.unique(segmentation)) <= {0, 1, 2}


def test_rows(scorer, model, tmp_path):
    costs, space = model.multiply_adds(), model.supernet.space
    named = [("smallest", space.smallest()), ("largest", space.largest())]
    path = tmp_path / "subnets.jsonl"
    rows = list(
        evaluate_subnets(
            costs, named, scorer.measure, path, model=model.digest, input_shape=model.input_shape, repeats=2
        )
    )
    assert [row["name"] for row in rows] == ["smallest", "largest"]
    for row, (_, config) in zip(rows, named, strict=True):
        assert row["macs"] == costs(config)
        assert row["parameters"] == sum(p.numel() for p in model.supernet.extract(config).parameters())
        assert row["config"] == config.to_dict()
        assert row["latency_ms"] > 0
        assert sorted(row["dice_per_case"]) == sorted(scorer.cases)
        scores = scorer(model.supernet.extract(config))
        per_label = [np.nanmean([values[label] for values in scores.values()]) for label in ("1", "2")]
        assert row["dice"] == pytest.approx(np.nanmean(per_label))
    assert read_rows(path) == rows


def test_a_network_is_scored_as_it_is_given(scorer, model):
    """Scoring one subnet leaves nothing behind for the next."""
    small = model.supernet.extract(model.supernet.space.smallest())
    large = model.supernet.extract(model.supernet.space.largest())
    first = scorer(small)
    scorer(large)
    assert str(scorer(small)) == str(first)


def test_cases_are_read_once(scorer, model, monkeypatch):
    network, read = model.supernet.extract(model.supernet.space.smallest()), []
    load = type(scorer._dataset).load_case
    monkeypatch.setattr(type(scorer._dataset), "load_case", lambda self, name: read.append(name) or load(self, name))
    first, second = scorer(network), scorer(network)
    assert str(first) == str(second)
    assert read == scorer.cases


def test_cases_that_do_not_fit_are_read_again(model, preprocessed, finished, monkeypatch):
    monkeypatch.setattr(scoring, "_KEPT_BYTES", 0)
    score = CaseScorer(model, preprocessed, fold_cases(preprocessed, 0))
    network = model.supernet.extract(model.supernet.space.smallest())
    assert str(score(network)) == str(score(network))
    assert score._kept == {}


def test_surfaces(model, preprocessed, finished):
    pytest.importorskip("monai")
    score = CaseScorer(model, preprocessed, fold_cases(preprocessed, 0), tolerance_mm=2.0)
    measures = score.measure(model.supernet.extract(model.supernet.space.largest()))
    assert measures.keys() == {"dice", "nsd", "hd95_mm"}
    for case, dice in measures["dice"].items():
        for label, value in dice.items():
            nsd, distance = measures["nsd"][case][label], measures["hd95_mm"][case][label]
            assert np.isnan(nsd) == np.isnan(value)
            assert np.isnan(value) or (0 <= nsd <= 1 and distance >= 0)


def test_a_negative_tolerance_is_refused(model, preprocessed):
    with pytest.raises(ValueError, match="tolerance_mm must not be negative, got -1"):
        CaseScorer(model, preprocessed, ["case"], tolerance_mm=-1.0)


def test_no_case_is_refused(model, preprocessed):
    with pytest.raises(ValueError, match="there is no case to score on"):
        CaseScorer(model, preprocessed, [])


def test_missing_preprocessed_data_are_named(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="nnUNetPlans_3d_fullres does not exist; run nnUNetv2_preprocess"):
        CaseScorer(model, tmp_path, ["case"])


@pytest.mark.parametrize("fold", [5, -1, "all"])
def test_a_fold_without_unseen_cases_is_refused(preprocessed, finished, fold):
    with pytest.raises(ValueError, match=rf"fold must be in 0 ... 4 to have unseen cases, got {fold}"):
        fold_cases(preprocessed, fold)


def test_a_missing_split_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="splits_final.json does not exist; nnU-Net writes it when"):
        fold_cases(tmp_path, 0)


def test_the_cases_of_a_fold(preprocessed, finished):
    splits = json.loads((preprocessed / "splits_final.json").read_text())
    assert fold_cases(preprocessed, 1) == sorted(splits[1]["val"])


def test_a_loaded_model_describes_itself(model, finished):
    assert model.input_shape == (1, 16, 24, 16)
    assert model.mirroring_axes == (0, 1, 2)
    assert model.configuration_name == "tiny"
    assert not model.supernet.training
    assert isinstance(model.supernet(torch.zeros(1, 1, 16, 24, 16)), torch.Tensor)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_cuda(scorer, model, preprocessed):
    network = model.supernet.extract(model.supernet.space.largest())
    on_cpu = scorer(network)
    on_gpu = CaseScorer(model, preprocessed, fold_cases(preprocessed, 0), "cuda")(network)
    for case, values in on_cpu.items():
        assert on_gpu[case] == pytest.approx(values, abs=0.02, nan_ok=True)
