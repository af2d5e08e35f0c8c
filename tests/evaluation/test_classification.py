from __future__ import annotations

import pytest
import torch

pytest.importorskip("sklearn", reason='needs pip install "prox-monai[monai]"')
pytest.importorskip("scipy", reason='needs pip install "prox-monai[monai]"')

from prox_monai.evaluation.classification import (
    balanced_accuracy,
    bootstrap_over_patients,
    classification_scores,
    macro_auc,
    macro_f1,
)

METRICS = (balanced_accuracy, macro_auc, macro_f1)
LABELS = torch.tensor([0, 0, 0, 1, 1, 2])
PREDICTED = torch.tensor([0, 0, 1, 1, 1, 0])


def certain(predicted, classes=3):
    """Probabilities of a classifier that is sure of what it says."""
    return torch.eye(classes)[torch.as_tensor(predicted)]


def interval(labels, predictions, patients, metric=balanced_accuracy, **given):
    return bootstrap_over_patients(labels, predictions, patients, metric, **{"resamples": 200, **given})


def drawn(images=60, classes=4):
    return torch.randint(classes, (images,)), torch.rand(images, classes).round(decimals=1)  # with ties


def test_closed_forms():
    scores = classification_scores(LABELS, certain(PREDICTED))
    assert scores == pytest.approx(
        {
            "balanced_accuracy": (2 / 3 + 1 + 0) / 3,
            "macro_auc": ((2 / 3 + 2 / 3) / 2 + (1 + 3 / 4) / 2 + 1 / 2) / 3,  # means of sensitivity and specificity
            "macro_f1": (2 / 3 + 4 / 5 + 0) / 3,
        }
    )


def test_scores_are_those_of_scikit_learn():
    """With ties and a class that has no image."""
    from sklearn.metrics import f1_score, recall_score, roc_auc_score

    labels, predictions = drawn()
    labels[labels == 2] = 1
    present, predicted = [0, 1, 3], predictions.argmax(1)
    areas = [roc_auc_score(labels == label, predictions[:, label]) for label in present]
    assert classification_scores(labels, predictions) == pytest.approx(
        {
            "balanced_accuracy": recall_score(labels, predicted, labels=present, average="macro"),
            "macro_auc": sum(areas) / 3,
            "macro_f1": f1_score(labels, predicted, labels=present, average="macro"),
        }
    )


def test_perfect_and_reversed_order():
    labels, wrong = torch.tensor([0, 1, 0, 1]), torch.tensor([1, 0, 1, 0])
    assert set(classification_scores(labels, certain(labels, 2)).values()) == {1.0}
    assert set(classification_scores(labels, certain(wrong, 2)).values()) == {0.0}
    assert classification_scores(labels, torch.full((4, 2), 0.5))["macro_auc"] == 0.5


def test_absent_classes_do_not_count():
    """Class 2 has no image here, but one of class 0 is taken for it."""
    labels, predicted = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 2, 1, 1])
    scores = classification_scores(labels, certain(predicted))
    assert scores == pytest.approx(
        {"balanced_accuracy": 0.75, "macro_auc": (0.75 + 1) / 2, "macro_f1": (2 / 3 + 1) / 2}
    )


def test_the_area_of_a_single_class_is_no_number():
    scores = classification_scores(torch.zeros(3), certain([0, 0, 1], 2))
    assert scores["balanced_accuracy"] == pytest.approx(2 / 3)
    assert scores["macro_auc"] != scores["macro_auc"]


@pytest.mark.parametrize("metric", METRICS)
def test_estimate_is_the_score_and_lies_in_the_interval(metric):
    labels, predictions = drawn()
    estimate, low, high = interval(labels, predictions, [str(i // 3) for i in range(60)], metric)
    assert estimate == classification_scores(labels, predictions)[metric.__name__]
    assert low < estimate < high


def accuracy(labels, predictions):
    return float((predictions.argmax(1) == labels).double().mean())


def test_interval_of_a_share_is_the_binomial_one():
    """With one image a patient, the resampled share of hits is a binomial over their number."""
    from scipy.stats import binom

    labels, predicted = torch.zeros(400), (torch.arange(400) >= 300).long()
    patients = [str(number) for number in range(400)]
    found = interval(labels, certain(predicted, 2), patients, accuracy, resamples=4000)
    assert found == pytest.approx([0.75, *(binom(400, 0.75).ppf([0.025, 0.975]) / 400)], abs=0.006)


def test_patients_are_drawn_whole():
    """Ten images of a patient are no ten witnesses: the interval is that of the patients, whatever their copies."""
    labels, predictions = drawn(30)
    patients = [str(i) for i in range(30)]
    single = interval(labels, predictions, patients, balanced_accuracy)
    copied = interval(labels.repeat(10), predictions.repeat(10, 1), patients * 10)
    assert copied == pytest.approx(single)
    as_if = [f"{i}" for i in range(300)]
    _, low, high = interval(labels.repeat(10), predictions.repeat(10, 1), as_if)
    assert high - low < 0.5 * (single[2] - single[1])


def test_resamples_without_a_class_are_scored_over_the_others():
    """Class 1 is one patient: a third of the resamples lacks it, and no end is lost by that."""
    labels, predictions = torch.tensor([0] * 8 + [1]), certain([0] * 8 + [1], 2)
    patients = [str(i) for i in range(9)]
    for metric in METRICS:
        assert interval(labels, predictions, patients, metric) == (1.0, 1.0, 1.0)


def test_seed_decides_the_interval():
    labels, predictions = drawn()
    patients = [str(i // 2) for i in range(60)]
    first, again, other = (interval(labels, predictions, patients, macro_f1, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first[0] == other[0]
    assert first[1:] != other[1:]


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        (torch.zeros(3), torch.ones(2, 2), r"shape \(B,\) and .* not \(3,\) and \(2, 2\)"),
        (torch.zeros(2), torch.ones(2), r"not \(2,\) and \(2,\)"),
        (torch.zeros(0), torch.ones(0, 2), r"at least one image, not \(0,\) and \(0, 2\)"),
        (torch.tensor([0, 2]), torch.ones(2, 2), "labels must be 0 to 1, as predictions has columns, not 2"),
        (torch.tensor([0, -1]), torch.ones(2, 2), "not -1"),
        (torch.zeros(2), torch.tensor([[1, 0], [torch.nan, 0]]), "predictions must be finite; 1 images have others"),
    ],
)
def test_bad_input(labels, predictions, message):
    with pytest.raises(ValueError, match=message):
        classification_scores(labels, predictions)
    with pytest.raises(ValueError, match=message):
        bootstrap_over_patients(labels, predictions, ["a"] * len(labels), balanced_accuracy)


@pytest.mark.parametrize(
    ("patients", "resamples", "message"),
    [
        (["a", "b"], 10, "each of 6 images, not 2 times one of 2"),
        (["a"] * 6, 10, "at least 2 patients for each of 6 images, not 6 times one of 1"),
        (["a", "b"] * 3, 0, "resamples must be at least 1, not 0"),
    ],
)
def test_bad_patients_and_resamples(patients, resamples, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_over_patients(LABELS, certain(PREDICTED), patients, balanced_accuracy, resamples=resamples)
