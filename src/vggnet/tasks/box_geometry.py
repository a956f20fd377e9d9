"""Localization (paper, appendix A): boxes as numbers and back, their overlap, greedy merging, and the error.

Boxes are (left, top, right, bottom) as in `vggnet.data.boxes`. A network gives (center x, center y, width, height), in
units of the crop that it sees.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_convert

Array = NDArray[np.float64]

CORRECT_ABOVE = 0.5  # intersection over union (ILSVRC)
MERGE_BELOW = 0.75  # of `match_scores`: equal boxes that overlap by half
MOST_BOXES = 300  # that are merged; those of lower scores are left out
MOST_TRIED = 1000  # candidates for a constant box
GOLDEN = (5**0.5 - 1) / 2  # its multiples, without their whole parts, are spread evenly over 0..1


def encode(edges: Array, crop: int) -> Array:
    """Edges (..., 4) in pixels of a crop -> (..., 4) center x, center y, width, height, in units of the crop."""
    encoded: Array = box_convert(torch.from_numpy(edges), "xyxy", "cxcywh").numpy() / crop
    return encoded


def decode(values: Array, crop: int) -> Array:
    """The inverse of `encode`; a negative width or height is taken for 0."""
    pixels = np.concatenate([values[..., :2], values[..., 2:].clip(min=0)], -1) * crop
    edges: Array = box_convert(torch.from_numpy(pixels), "cxcywh", "xyxy").numpy()
    return edges


def clip(boxes: Array, sizes: Array) -> Array:
    """The parts of boxes (N, 4) that lie within their images, of sizes (N, 2)."""
    return boxes.clip(0, np.tile(sizes, 2))


def mirror(boxes: Array, width: int) -> Array:
    """Boxes (..., 4) of mirror images of this width as they lie in the images."""
    left, top, right, bottom = np.moveaxis(boxes, -1, 0)
    return np.stack([width - right, top, width - left, bottom], -1)


def overlap(one: Array, other: Array) -> Array:
    """Intersection over union, 0..1, of boxes (..., 4) and (..., 4), broadcast; 0 where neither has an area.

    torchvision's `box_iou` compares each box with each other one, and gives NaN where neither has an area.
    """
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    intersection = sides.clip(min=0).prod(-1)
    union = _area(one) + _area(other) - intersection
    share: Array = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return share


def match_scores(one: Array, other: Array) -> Array:
    """How badly boxes match, 0 for equal ones: the distance of their centers, and the share that is not common to both.

    Sermanet et al. (arXiv:1312.6229, 4.3) add "the distance between centers" and "the intersection area" in units that
    they do not name; here the distance is in mean diagonals, and the area is 1 - intersection over union, since boxes
    that have more in common match better.
    """
    distance = np.linalg.norm(_center(one) - _center(other), axis=-1)
    diagonal = (np.linalg.norm(_sides(one), axis=-1) + np.linalg.norm(_sides(other), axis=-1)) / 2
    scores: Array = distance / np.maximum(diagonal, 1e-9) + 1 - overlap(one, other)
    return scores


def merge(boxes: Array, scores: Array) -> tuple[Array, Array]:
    """Greedy merging (Sermanet et al., arXiv:1312.6229, 4.3): the two boxes that match best become one, until none do.

    boxes (n, 4), scores (n,) of the class -> merged boxes (m, 4), best first, with the sums of their scores (m,).
    Merged coordinates are means over all boxes that went into one. Of more than MOST_BOXES the best are merged;
    of those whose scores tie at the cut as many as there is room for, spread evenly over their places.
    """
    best = _best(scores)
    boxes, scores, counts = boxes[best].copy(), scores[best].copy(), np.ones(len(best))
    matches = match_scores(boxes[:, None], boxes)
    np.fill_diagonal(matches, np.inf)
    while len(boxes) > 1:
        kept, gone = sorted(np.unravel_index(matches.argmin(), matches.shape))
        if matches[kept, gone] > MERGE_BELOW:
            break
        pair = [kept, gone]
        boxes[kept] = np.average(boxes[pair], axis=0, weights=counts[pair])
        scores[kept], counts[kept] = scores[pair].sum(), counts[pair].sum()
        boxes, scores, counts = (np.delete(values, gone, 0) for values in (boxes, scores, counts))
        matches = np.delete(np.delete(matches, gone, 0), gone, 1)
        matches[kept] = matches[:, kept] = match_scores(boxes[kept], boxes)
        matches[kept, kept] = np.inf
    order = np.argsort(-scores, kind="stable")
    return boxes[order], scores[order]


def is_correct(predicted: Array, true: Array) -> NDArray[np.bool_]:
    """Whether boxes (N, 4) overlap the true ones (N, 4) by more than half."""
    return overlap(predicted, true) > CORRECT_ABOVE


def constant_box(edges: Array, sizes: Array) -> Array:
    """The box (4,), in units of width and height, that is correct for the most of these, or nearly so.

    edges (N, 4), sizes (N, 2). The best of them, or of some spread evenly over them if they are more than MOST_TRIED,
    whose edges are then moved one by one for as long as that helps.
    """
    scale = np.tile(sizes, 2)

    def correct(relative: Array) -> int:
        return int(is_correct(relative * scale, edges).sum())

    best: Array = max((edges / scale)[:: -(-len(edges) // MOST_TRIED)], key=correct)
    for step in (1 / 16, 1 / 32, 1 / 64):
        moves = step * np.concatenate([np.eye(4), -np.eye(4)])
        while correct(moved := max(best + moves, key=correct)) > correct(best):
            best = moved
    return best


def _best(scores: Array) -> NDArray[np.intp]:
    """The places of the MOST_BOXES best scores, best first; of equal ones those that are left are spread evenly."""
    spread = np.arange(len(scores)) * GOLDEN % 1
    places = np.sort(np.lexsort((spread, -scores))[:MOST_BOXES])
    return places[np.argsort(-scores[places], kind="stable")]


def _area(boxes: Array) -> Array:
    area: Array = _sides(boxes).clip(min=0).prod(-1)
    return area


def _sides(boxes: Array) -> Array:
    return boxes[..., 2:] - boxes[..., :2]


def _center(boxes: Array) -> Array:
    return (boxes[..., :2] + boxes[..., 2:]) / 2
