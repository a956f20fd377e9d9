"""Classification metrics: loss, accuracy, confusion and calibration, summed over batches and divided once."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, sqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vggnet.errors import DataError, InputError, NonFiniteError

CALIBRATION_BINS = 15  # Guo et al., "On Calibration of Modern Neural Networks" (arXiv:1706.04599)
NORMAL_QUANTILE = 1.959963984540054  # of 97.5 %


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Metrics of a classifier over `images` images and C classes."""

    images: int
    loss: float  # nats, mean cross-entropy
    top1: float  # 0..1, accuracy: the trace of `confusion` over `images`
    top5: float  # 0..1, the share of images whose true class is among the first min(5, C)
    per_class: tuple[float | None, ...]  # (C,), 0..1, accuracy on each class; None where the class has no image
    confusion: tuple[tuple[int, ...], ...]  # (C, C) counts, rows are true classes, columns predicted ones
    calibration_error: float  # 0..1, mean |confidence - accuracy| over 15 bins, weighted by images


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """How well one class is told from the others, or the mean of classes. Each is None where it is not defined."""

    precision: float | None  # 0..1, of the images that are given this class, those that have it; 0 if there are none
    recall: float | None  # 0..1, of the images of this class, those that are given it: the accuracy on the class
    f1: float | None  # 0..1, harmonic mean of both
    roc_auc: float | None  # 0..1, the chance that an image of this class has a higher probability of it than another


class PerImage(NamedTuple):
    """What a classifier predicts for each image: one value an image in every column."""

    labels: Tensor  # int64 (N,), the true classes
    predicted: Tensor  # int64 (N,)
    confidence: Tensor  # float64 (N,), 0..1, the probability of the predicted class
    losses: Tensor  # float64 (N,), nats


class Bin(NamedTuple):
    """The images whose confidence is in [low, high); the last bin includes a confidence of 1."""

    low: float
    high: float
    images: int
    confidence: float | None  # 0..1, the mean; None without images
    accuracy: float | None  # 0..1


class Metrics:
    """Sums of batches of logits, from which `compute` makes the scores.

    Sums are kept on the CPU in float64 and integers, so neither the batch size nor the device changes a result.
    Equal logits are ranked by class index, for top-1 and top-5 alike. Nothing is summed over processes.

    Args:
        num_classes: C, the columns of the logits.

    Example:
        >>> metrics = Metrics(num_classes=3)
        >>> per_image = metrics.update(torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), torch.tensor([0, 1]))
        >>> per_image.predicted.tolist()
        [0, 2]
        >>> scores = metrics.compute()
        >>> scores.images, scores.top1, scores.confusion
        (2, 0.5, ((1, 0, 0), (0, 0, 1), (0, 0, 0)))
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self._bins = torch.zeros(3, CALIBRATION_BINS, dtype=torch.float64)
        self._images = 0
        self._loss = 0.0  # nats, summed
        self._top5 = 0

    def update(self, logits: Tensor, labels: Tensor) -> PerImage:
        """Add a batch.

        Args:
            logits: (N, C), of any floating-point type, on any device.
            labels: (N,), integers in 0..C-1, on any device.

        Returns:
            The predictions for this batch, on the CPU.

        Raises:
            InputError: the shapes do not match, or a label is not a class.
            NonFiniteError: a logit is NaN or infinite.
        """
        logits, labels = logits.detach().cpu().double(), labels.cpu()
        self._check(logits, labels)
        log_probabilities = logits.log_softmax(1)
        predicted = logits.argmax(1)  # the first of equal ones
        confidence = log_probabilities.gather(1, predicted[:, None])[:, 0].exp()
        losses = F.nll_loss(log_probabilities, labels, reduction="none")
        self._confusion.index_put_((labels, predicted), torch.ones_like(predicted), accumulate=True)
        self._bins += _sum_bins(confidence, predicted == labels)
        self._images += len(labels)
        self._loss += losses.sum().item()
        self._top5 += int((rank(logits, labels) < 5).sum())
        return PerImage(labels, predicted, confidence, losses)

    def compute(self) -> Scores:
        """The scores of all images so far.  Raises: DataError if there were none."""
        if self._images == 0:
            raise DataError("the split is empty; choose a split that has images.")
        per_row, correct = self._confusion.sum(1).tolist(), self._confusion.diagonal().tolist()
        _, confidence, hits = self._bins
        return Scores(
            images=self._images,
            loss=self._loss / self._images,
            top1=sum(correct) / self._images,
            top5=self._top5 / self._images,
            per_class=tuple(right / row if row else None for right, row in zip(correct, per_row, strict=True)),
            confusion=tuple(map(tuple, self._confusion.tolist())),
            calibration_error=(confidence - hits).abs().sum().item() / self._images,
        )

    def _check(self, logits: Tensor, labels: Tensor) -> None:
        if logits.shape != (len(labels), self.num_classes) or labels.ndim != 1:
            raise InputError(
                f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} do not match: "
                f"expected (N, {self.num_classes}) and (N,)."
            )
        if ((labels < 0) | (labels >= self.num_classes)).any():
            raise InputError(
                f"labels run from {int(labels.min())} to {int(labels.max())}, but {self.num_classes} classes are "
                f"0 to {self.num_classes - 1}; use the data set that the model was trained for."
            )
        check_finite_logits(logits)


def class_scores(confusion: Tensor, logits: Tensor, labels: Tensor) -> list[ClassScores]:
    """Precision, recall, F1 and one-against-all ROC AUC of each class.

    A class without images has no scores.

    Args:
        confusion: (C, C) counts, rows are true classes.
        logits: (N, C), of any floating-point type.
        labels: (N,), integers in 0..C-1.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> class_scores(torch.tensor([[1, 0], [1, 1]]), logits, torch.tensor([0, 1, 1]))[1]
        ClassScores(precision=1.0, recall=0.5, f1=0.6666666666666666, roc_auc=1.0)
    """
    probabilities = logits.double().softmax(1)
    scores = []
    for index, (row, column) in enumerate(zip(confusion.tolist(), confusion.T.tolist(), strict=True)):
        images, given, right = sum(row), sum(column), row[index]
        if not images:
            scores.append(ClassScores(precision=None, recall=None, f1=None, roc_auc=None))
            continue
        scores.append(
            ClassScores(
                precision=right / given if given else 0.0,
                recall=right / images,
                f1=2 * right / (images + given),
                roc_auc=roc_auc(probabilities[:, index], labels == index),
            )
        )
    return scores


def mean_scores(scores: Sequence[ClassScores], images: Sequence[int], *, weighted: bool) -> ClassScores:
    """The mean over the classes that have images.

    Args:
        scores: of each class.
        images: of each class.
        weighted: False counts all classes the same ("macro"), True each by its images.

    Example:
        >>> one = ClassScores(precision=1.0, recall=0.5, f1=0.6, roc_auc=0.9)
        >>> other = ClassScores(precision=0.0, recall=0.0, f1=0.0, roc_auc=0.5)
        >>> mean_scores([one, other], [3, 1], weighted=True).precision
        0.75
    """
    means: dict[str, float | None] = {}
    for name in ("precision", "recall", "f1", "roc_auc"):
        pairs = [(getattr(one, name), count if weighted else 1) for one, count in zip(scores, images, strict=True)]
        known = [(value, weight) for value, weight in pairs if value is not None]
        total = sum(weight for _, weight in known)
        means[name] = sum(value * weight for value, weight in known) / total if known else None
    return ClassScores(**means)


def roc_auc(scores: Tensor, positive: Tensor) -> float | None:
    """The area under the ROC curve: how often a positive scores above a negative; equal scores count half.

    Args:
        scores: (N,), of any type.
        positive: bool (N,).

    Returns:
        0..1; None without positives or without negatives.

    Source:
        Hanley & McNeil, "The meaning and use of the area under a receiver operating characteristic (ROC) curve",
        Radiology 143 (1982).

    Example:
        >>> roc_auc(torch.tensor([0.9, 0.4, 0.4, 0.1]), torch.tensor([True, True, False, False]))
        0.875
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    _, place, counts = scores.unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
    ranks = counts.cumsum(0) - (counts.double() - 1) / 2  # from 1; equal scores share the mean of theirs
    above = ranks[place][positive].sum().item() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def calibration_bins(per_image: PerImage) -> list[Bin]:
    """The reliability diagram behind `Scores.calibration_error`: accuracy by confidence, in 15 equal bins."""
    sums = _sum_bins(per_image.confidence, per_image.predicted == per_image.labels)
    edges = [edge / CALIBRATION_BINS for edge in range(CALIBRATION_BINS + 1)]
    return [
        Bin(low, high, int(images), confidence / images if images else None, hits / images if images else None)
        for low, high, (images, confidence, hits) in zip(edges[:-1], edges[1:], sums.T.tolist(), strict=True)
    ]


def _sum_bins(confidence: Tensor, correct: Tensor) -> Tensor:
    """For each bin the images, their summed confidence, and how many are correct: (N,), (N,) -> (3, bins)."""
    bins = (confidence * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
    values = torch.stack([torch.ones_like(confidence), confidence, correct.to(confidence)])
    return confidence.new_zeros(3, CALIBRATION_BINS).index_add_(1, bins, values)


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's score interval of 95 % for a share.

    Args:
        share: 0..1, such as an accuracy.
        count: how many images it is the share of, at least 1.

    Returns:
        The lower and the upper bound, 0..1.

    Source:
        E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).

    Example:
        >>> low, high = wilson_interval(0.9, count=100)
        >>> round(low, 3), round(high, 3)
        (0.826, 0.945)
    """
    square = NORMAL_QUANTILE**2 / count
    middle = share + square / 2
    half = sqrt(square * (share * (1 - share) + square / 4))
    return max(0.0, (middle - half) / (1 + square)), min(1.0, (middle + half) / (1 + square))


def rank(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes rank before the true one.

    Args:
        logits: (N, C).
        labels: (N,), integers in 0..C-1, on the same device.

    Returns:
        (N,), in 0..C-1; equal logits rank by class index.

    Example:
        >>> rank(torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]]), torch.tensor([2, 1])).tolist()
        [1, 1]
    """
    true = logits.gather(1, labels[:, None])
    index = torch.arange(logits.shape[1], device=logits.device)
    return ((logits > true) | ((logits == true) & (index < labels[:, None]))).sum(1)


def mean_softmax(logits: Sequence[Tensor]) -> Tensor:
    """Logits whose softmax is the mean of the given softmax outputs (paper, sections 3.2 and 4.4).

    Args:
        logits: one (N, C) for each view or network.

    Returns:
        (N, C): log-probabilities in float64; a single input is returned unchanged.

    Example:
        >>> mean_softmax([torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1e4]])]).exp().tolist()
        [[0.25, 0.75]]
    """
    if len(logits) == 1:
        return logits[0]
    return torch.stack([one.double().log_softmax(1) for one in logits]).logsumexp(0) - log(len(logits))


def check_finite_logits(logits: Tensor) -> None:
    """Logits (N, C).  Raises: NonFiniteError if one is NaN or infinite."""
    broken = ~logits.isfinite().all(1)
    if broken.any():
        raise NonFiniteError(
            f"the network's output is NaN or infinite for {int(broken.sum())} of {len(logits)} images: its weights are "
            "damaged or its training diverged. Use an earlier checkpoint, or train again with a lower learning rate."
        )
