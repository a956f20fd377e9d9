"""Sums and counts over a test: loss, accuracy, confusion and calibration, divided once at the end."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vggnet.errors import DataError, InputError, NonFiniteError

CALIBRATION_BINS = 15  # Guo et al., "On Calibration of Modern Neural Networks" (arXiv:1706.04599)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The result of a test over `images` images and C classes."""

    images: int
    loss: float  # nats, mean cross-entropy
    top1: float  # 0..1, the trace of `confusion` over `images`
    top5: float  # 0..1, the true class is among the first min(5, C)
    per_class: tuple[float | None, ...]  # (C,), 0..1, accuracy on each class; None where the class has no image
    confusion: tuple[tuple[int, ...], ...]  # (C, C) counts, rows are true classes, columns predicted ones
    calibration_error: float  # 0..1, expected gap of confidence and accuracy over 15 equal bins


class Answers(NamedTuple):
    """One value for each image."""

    labels: Tensor  # int64 (N,), the true classes
    predicted: Tensor  # int64 (N,)
    confidence: Tensor  # float64 (N,), 0..1, of the predicted class
    losses: Tensor  # float64 (N,), nats


class Bin(NamedTuple):
    """The images whose confidence is in [low, high), with those of confidence 1 in the last bin."""

    low: float
    high: float
    images: int
    confidence: float | None  # 0..1, the mean; None without images
    accuracy: float | None  # 0..1


class Metrics:
    """Adds up batches of logits until `compute`.

    Everything is kept on the CPU in float64 and integers, so neither the batch size nor the device changes a result.
    Equal logits are ranked by class index, for top-1 and top-5 alike. One process: nothing is summed over ranks.
    """

    def __init__(self, num_classes: int) -> None:
        from torchmetrics.classification import BinaryCalibrationError, MulticlassConfusionMatrix  # takes a second

        alone = {"validate_args": False, "sync_on_compute": False}
        self.num_classes = num_classes
        self._confusion = MulticlassConfusionMatrix(num_classes, **alone)
        self._calibration = BinaryCalibrationError(n_bins=CALIBRATION_BINS, norm="l1", **alone)
        self._images = 0
        self._loss = 0.0  # nats, summed
        self._top5 = 0

    def update(self, logits: Tensor, labels: Tensor) -> Answers:
        """Add a batch: logits (N, C), labels (N,) integers in 0..C-1, both on any device; its answers, on the CPU.

        Raises: InputError if the shapes do not fit or a label is no class; NonFiniteError if a logit is not finite.
        """
        logits, labels = logits.detach().cpu().double(), labels.cpu()
        self._check(logits, labels)
        log_probabilities = logits.log_softmax(1)
        predicted = logits.argmax(1)  # the first of equal ones
        confidence = log_probabilities.gather(1, predicted[:, None])[:, 0].exp()
        self._confusion.update(predicted, labels)
        # The last bin is closed: a confidence of exactly 1 would otherwise get a bin of its own.
        self._calibration.update(confidence.clamp(max=1 - 1e-12), predicted == labels)
        self._images += len(labels)
        losses = F.nll_loss(log_probabilities, labels, reduction="none")
        self._loss += losses.sum().item()
        self._top5 += int((rank(logits, labels) < 5).sum())
        return Answers(labels, predicted, confidence, losses)

    def compute(self) -> Scores:
        """The scores of all images so far.  Raises: DataError if there were none."""
        if self._images == 0:
            raise DataError("there is no image to test on; choose a split that has images.")
        confusion = self._confusion.compute()
        per_row, correct = confusion.sum(1).tolist(), confusion.diagonal().tolist()
        return Scores(
            images=self._images,
            loss=self._loss / self._images,
            top1=sum(correct) / self._images,
            top5=self._top5 / self._images,
            per_class=tuple(hits / row if row else None for hits, row in zip(correct, per_row, strict=True)),
            confusion=tuple(map(tuple, confusion.tolist())),
            calibration_error=float(self._calibration.compute()),
        )

    def _check(self, logits: Tensor, labels: Tensor) -> None:
        if logits.shape != (len(labels), self.num_classes) or labels.ndim != 1:
            raise InputError(
                f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} do not fit: "
                f"expected (N, {self.num_classes}) and (N,)."
            )
        if ((labels < 0) | (labels >= self.num_classes)).any():
            raise InputError(
                f"labels run from {int(labels.min())} to {int(labels.max())}, but {self.num_classes} classes are "
                f"0 to {self.num_classes - 1}; use the data set that the model was trained for."
            )
        check_finite_logits(logits)


def calibration_bins(answers: Answers) -> list[Bin]:
    """The reliability diagram behind `Scores.calibration_error`: accuracy by confidence, in 15 equal bins."""
    place = (answers.confidence * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
    correct = (answers.predicted == answers.labels).double()
    images, confidence, right = (
        torch.bincount(place, weights=values, minlength=CALIBRATION_BINS).tolist()
        for values in (torch.ones_like(correct), answers.confidence, correct)
    )
    edges = [edge / CALIBRATION_BINS for edge in range(CALIBRATION_BINS + 1)]
    return [
        Bin(low, high, int(n), sure / n if n else None, hits / n if n else None)
        for low, high, n, sure, hits in zip(edges[:-1], edges[1:], images, confidence, right, strict=True)
    ]


def rank(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes come before the true one. Logits (N, C), labels (N,) -> (N,) in 0..C-1; ties go by index."""
    true = logits.gather(1, labels[:, None])
    index = torch.arange(logits.shape[1], device=logits.device)
    return ((logits > true) | ((logits == true) & (index < labels[:, None]))).sum(1)


def check_finite_logits(logits: Tensor) -> None:
    """Logits (N, C).  Raises: NonFiniteError if one is NaN or infinite."""
    broken = ~logits.isfinite().all(1)
    if broken.any():
        raise NonFiniteError(
            f"the network's output is NaN or infinite for {int(broken.sum())} of {len(logits)} images: its weights are "
            "damaged or its training diverged. Use an earlier checkpoint, or train again with a lower learning rate."
        )
