"""Mean average precision from counts, which add up over batches and processes: for the epochs of a training.

An evaluation of a trained network is exact (`vggnet.tasks.detection_evaluation`); here scores are rounded to bins.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_iou

from vggnet.tasks.default_boxes import Detections

BINS = 100  # of scores from 0 to 1
OVERLAP = 0.5  # from which on a box has found an object
RECALLS = np.linspace(0, 1, 101)  # at which COCO looks at the precision

Counts = NDArray[np.float64]


class Found(NamedTuple):
    """Counts for each class."""

    objects: Counts  # (C,)
    right: Counts  # (C, BINS), boxes that have found an object, by their score
    wrong: Counts  # (C, BINS), all others


def count_found(detections: Detections, objects: Tensor, num_classes: int) -> Found:
    """Compare the boxes of an image with its objects: from the best score on, each takes the free object of its class
    that it overlaps most, if that is by OVERLAP at least.

    Args:
        detections: on the CPU.
        objects: (k, 5), on the CPU, as in `vggnet.data.object_views`.
        num_classes: C.

    Example:
        >>> objects = torch.tensor([[0.0, 0, 0, 10, 10]])
        >>> boxes = torch.tensor([[0.0, 0, 10, 9], [0, 0, 9, 10]])
        >>> found = count_found(Detections(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 0])), objects, 1)
        >>> found.right.sum(), found.wrong.sum()
        (np.float64(1.0), np.float64(1.0))
    """
    is_right = match_objects(detections, objects)
    bins = (detections.scores * BINS).long().clamp(max=BINS - 1)
    places = (detections.labels * BINS + bins).numpy()
    right, wrong = (
        np.bincount(places[chosen], minlength=num_classes * BINS).reshape(num_classes, BINS).astype(np.float64)
        for chosen in (is_right, ~is_right)
    )
    count = np.bincount(objects[:, 0].long().numpy(), minlength=num_classes).astype(np.float64)
    return Found(count, right, wrong)


def match_objects(detections: Detections, objects: Tensor) -> NDArray[np.bool_]:
    """Which of the m boxes have found an object, (m,).  Arguments: as `count_found`."""
    is_right = np.zeros(len(detections.scores), dtype=np.bool_)
    if not len(objects) or not len(is_right):
        return is_right
    overlaps = box_iou(detections.boxes, objects[:, 1:]).numpy().copy()
    overlaps[detections.labels.numpy()[:, None] != objects[:, 0].long().numpy()] = 0
    for place in detections.scores.argsort(descending=True, stable=True).tolist():
        best = int(overlaps[place].argmax())
        if overlaps[place, best] >= OVERLAP:
            is_right[place] = True
            overlaps[:, best] = 0
    return is_right


def average_precisions(found: Found) -> list[float | None]:
    """The average precision of each class at OVERLAP, 0..1: the mean over 101 recalls of the best precision from there.

    A class without objects has none.

    Example:
        >>> right = np.zeros((1, BINS)); right[0, 90] = 2
        >>> [round(share, 3) for share in average_precisions(Found(np.array([4.0]), right, np.zeros((1, BINS))))]
        [0.505]
    """
    precisions: list[float | None] = []
    for objects, right, wrong in zip(*found, strict=True):
        if not objects:
            precisions.append(None)
            continue
        hits, misses = right[::-1].cumsum(), wrong[::-1].cumsum()
        precision = hits / np.maximum(hits + misses, 1)
        best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0)
        precisions.append(float(best[np.searchsorted(hits / objects, RECALLS)].mean()))
    return precisions


def mean_precision(precisions: Sequence[float | None]) -> float:
    """Over the classes that have one; 0 if none has."""
    known = [one for one in precisions if one is not None]
    return sum(known) / len(known) if known else 0.0


def as_sums(found: Found) -> Tensor:
    """One row of numbers, which adds up: float64 (C + 2 C BINS,)."""
    return torch.from_numpy(np.concatenate([part.ravel() for part in found]))


def from_sums(sums: Sequence[float], num_classes: int) -> Found:
    """The inverse of `as_sums`."""
    values, size = np.array(sums), num_classes * BINS
    objects, right, wrong = np.split(values, [num_classes, num_classes + size])
    return Found(objects, right.reshape(num_classes, BINS), wrong.reshape(num_classes, BINS))
