"""Scores of a classifier, and how sure they are: images of one patient are alike, so patients are resampled."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

Metric = Callable[[Tensor, Tensor], float]


def classification_scores(labels: Tensor, predictions: Tensor) -> dict[str, float]:
    """Return ``balanced_accuracy``, ``macro_auc`` and ``macro_f1`` over the classes that ``labels`` has.

    Args:
        labels: index of the true class, of shape ``(B,)``.
        predictions: probabilities, of shape ``(B, C)``; the largest of an image is its predicted class.

    Raises:
        ValueError: When shapes do not fit, there is no image, a label is not 0 to C - 1, or a prediction is not finite.
        ImportError: When SciPy is not installed.
    """
    labels, predictions = _checked(labels, predictions)
    return {metric.__name__: metric(labels, predictions) for metric in (balanced_accuracy, macro_auc, macro_f1)}


def accuracy(labels: Tensor, predictions: Tensor) -> float:
    """Return the share of images that are recognised."""
    return float((predictions.argmax(1) == labels).double().mean())


def balanced_accuracy(labels: Tensor, predictions: Tensor) -> float:
    """Return the mean over the classes present of the share that is recognised."""
    counts = _confusion(labels, predictions)
    present = counts.sum(1) > 0
    return float((counts.diag() / counts.sum(1))[present].mean())


def macro_f1(labels: Tensor, predictions: Tensor) -> float:
    """Return the mean over the classes present of the F1 score."""
    counts = _confusion(labels, predictions)
    present = counts.sum(1) > 0
    return float((2 * counts.diag() / (counts.sum(0) + counts.sum(1)))[present].mean())


def macro_auc(labels: Tensor, predictions: Tensor) -> float:
    """Return the mean over the classes present of the area under the one-vs-rest curve; NaN of a single class.

    The area is the Mann-Whitney statistic of the ranks, of all classes at once: a bootstrap asks thousands of times.
    """
    from scipy.stats import rankdata

    belongs = one_hot(labels, predictions.shape[1]).double()
    images = belongs.sum(0)
    pairs = images * (len(labels) - images)
    if not pairs.any():
        return float("nan")
    ranks = torch.from_numpy(rankdata(predictions.numpy(), axis=0))
    won = (belongs * ranks).sum(0) - images * (images + 1) / 2
    return float((won / pairs)[images > 0].mean())


def _confusion(labels: Tensor, predictions: Tensor) -> Tensor:
    """How many images of each class (rows) are predicted as each (columns)."""
    classes = predictions.shape[1]
    pairs = labels * classes + predictions.argmax(1)
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes).double()


def bootstrap_over_patients(
    labels: Tensor,
    predictions: Tensor,
    patients: Sequence[str],
    metric: Metric = balanced_accuracy,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return a metric with its 95 % percentile interval, patients drawn with replacement.

    A resample may lack a class: these metrics are then the mean over the classes that it has, and a resample without
    any value (the AUC of one class) does not count. The interval is that of the images given: it knows nothing of how
    another training would have come out.

    Args:
        labels: index of the true class, of shape ``(B,)``.
        predictions: probabilities, of shape ``(B, C)``.
        patients: whom each image is of; all images of a patient are drawn together.
        metric: of labels and predictions.
        resamples: number of draws of as many patients as there are.
        seed: the interval is a function of it.

    Returns:
        Estimate, lower and upper end.

    Raises:
        ValueError: When labels or predictions are not as ``classification_scores`` takes them, ``patients`` has
            another length or fewer than two different ones, or ``resamples`` is below 1.
        ImportError: When SciPy is not installed.
    """
    from scipy.stats import DegenerateDataWarning, bootstrap

    labels, predictions = _checked(labels, predictions)
    images: dict[str, list[int]] = {}
    for image, patient in enumerate(patients):
        images.setdefault(patient, []).append(image)
    if len(patients) != len(labels) or len(images) < 2:
        raise ValueError(
            f"patients must name one of at least 2 patients for each of {len(labels)} images, "
            f"not {len(patients)} times one of {len(images)}."
        )
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}.")
    groups = [torch.tensor(group) for group in images.values()]

    def of_patients(drawn: Sequence[int]) -> float:
        chosen = torch.cat([groups[patient] for patient in drawn])
        return metric(labels[chosen], predictions[chosen])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # of SciPy's own interval, where a resample has no value
        drawn = bootstrap(
            (range(len(groups)),), of_patients, vectorized=False, n_resamples=resamples, method="percentile", rng=seed
        ).bootstrap_distribution
    low, high = torch.from_numpy(drawn).nanquantile(predictions.new_tensor([0.025, 0.975])).tolist()
    return metric(labels, predictions), low, high


def _checked(labels: Tensor, predictions: Tensor) -> tuple[Tensor, Tensor]:
    """Both on the CPU, or an error."""
    labels, predictions = torch.as_tensor(labels).cpu(), torch.as_tensor(predictions).detach().cpu().double()
    if predictions.ndim != 2 or labels.shape != predictions.shape[:1] or not len(labels):
        raise ValueError(
            "labels must be of shape (B,) and predictions of shape (B, C) with at least one image, "
            f"not {tuple(labels.shape)} and {tuple(predictions.shape)}."
        )
    labels = labels.long()
    wrong = labels[(labels < 0) | (labels >= predictions.shape[1])]
    if len(wrong):
        raise ValueError(f"labels must be 0 to {predictions.shape[1] - 1}, as predictions has columns, not {wrong[0]}.")
    others = ~predictions.isfinite().all(1)
    if others.any():
        raise ValueError(f"predictions must be finite; {others.sum()} images have others.")
    return labels, predictions
