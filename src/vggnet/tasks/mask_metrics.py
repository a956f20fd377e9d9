"""Metrics of masks, from counts of pixels: exact over images of different sizes, batches and processes."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from vggnet.data.masks import IGNORED


class PixelScores(NamedTuple):
    """Metrics over C classes. A class that occurs neither in the masks nor in the predictions has none."""

    mean_iou: float  # 0..1, over the classes that have one
    pixel_accuracy: float  # 0..1, of all pixels that count
    mean_accuracy: float  # 0..1, over the classes of the masks
    iou: tuple[float | None, ...]  # (C,), 0..1, intersection over union
    accuracy: tuple[float | None, ...]  # (C,), 0..1, the share of a class's pixels that are predicted as it


def count_pixels(predicted: Tensor, true: Tensor, num_classes: int) -> Tensor:
    """How many pixels of each class are predicted as which: int64 (C, C), rows are true classes.

    Args:
        predicted: classes, of any shape.
        true: classes or IGNORED, uint8 or int64 of the same shape and on the same device.
        num_classes: C.

    Example:
        >>> import torch
        >>> count_pixels(torch.tensor([0, 1, 1]), torch.tensor([0, 0, IGNORED]), 2).tolist()
        [[1, 1], [0, 0]]
    """
    counts = true != IGNORED
    places = true[counts].long() * num_classes + predicted[counts].long()
    return places.bincount(minlength=num_classes**2).view(num_classes, num_classes)


def pixel_scores(correct: Sequence[float], true: Sequence[float], predicted: Sequence[float]) -> PixelScores:
    """The metrics of counts of pixels.

    Args:
        correct: (C,), predicted rightly; the diagonal of `count_pixels`.
        true: (C,), of the masks; the sums of its rows.
        predicted: (C,), where the masks have a class; the sums of its columns.

    Source:
        Long et al. (arXiv:1411.4038), section 5.

    Example:
        >>> pixel_scores([3, 1, 0], [4, 1, 0], [3, 2, 0]).iou
        (0.75, 0.5, None)
    """
    unions = [t + p - c for c, t, p in zip(correct, true, predicted, strict=True)]
    iou = tuple(c / union if union else None for c, union in zip(correct, unions, strict=True))
    accuracy = tuple(c / t if t else None for c, t in zip(correct, true, strict=True))
    return PixelScores(
        mean_iou=_mean(iou),
        pixel_accuracy=sum(correct) / sum(true) if sum(true) else 0.0,
        mean_accuracy=_mean(accuracy),
        iou=iou,
        accuracy=accuracy,
    )


def _mean(values: Sequence[float | None]) -> float:
    """Of those that are known; 0 if none is."""
    known = [value for value in values if value is not None]
    return sum(known) / max(len(known), 1)
