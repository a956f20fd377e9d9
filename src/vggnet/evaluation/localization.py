"""Evaluate networks that predict boxes, as the paper does (appendix A): densely, with merged boxes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggnet.data.boxes import Boxes, read_boxes, resize_factors
from vggnet.data.loading import WholeImages, default_workers, of_one_size
from vggnet.data.sources.opening import open_source, source_splits
from vggnet.data.sources.source import Source, match_classes
from vggnet.errors import ConfigError, DataError
from vggnet.evaluation.predict import Model, describe_model, open_classifier
from vggnet.evaluation.protocols import Protocol, default_batch_size
from vggnet.evaluation.windows import Windows, require_boxes, require_one_kind, windows_of
from vggnet.metrics import mean_softmax, rank
from vggnet.progress import Progress, report_progress
from vggnet.tasks.box_geometry import Array, clip, constant_box, is_correct, merge, mirror, overlap
from vggnet.weights.checkpoint import OpenModel


@dataclass(frozen=True, kw_only=True)
class LocalizationResult:
    """What an evaluation of boxes found. A box is correct if its IoU with the true one is above 0.5 (ILSVRC)."""

    error_class_given: float  # 0..1, of the box for the true class
    error_top1: float | None  # 0..1, of class and box: the first class is the true one and its box is correct
    error_top5: float | None  # 0..1, the true class is among the first five; None without a classifier
    mean_overlap: float  # 0..1, intersection over union, with the class given
    error_whole_image: float  # 0..1, of the whole image as a box: what a network must beat
    error_constant_box: float | None  # 0..1, of the box that fits the most of train; None if train has no boxes
    images: int
    scales: tuple[int, ...]  # pixels, the shorter side of the images
    flip: bool  # whether their mirror images were seen as well
    data: str
    split: str
    fingerprint: str  # of the data
    model: str
    classifier: str | None
    seconds: float
    device: str
    torch: str  # version
    date: str  # UTC
    files: tuple[Path, ...] = ()  # the figures that were drawn
    notes: tuple[str, ...] = ()  # what was left out, and why
    error: str | None = None  # why the result could not be written


def localize(model: Model | Sequence[Model], *, data: str | Path, **options: Any) -> LocalizationResult:
    """`vggnet.evaluate` of models that predict boxes, by its name in version 0.1."""
    from vggnet.evaluation.evaluate import evaluate

    result = evaluate(model, data, **options)
    if not isinstance(result, LocalizationResult):
        raise ConfigError("this network gives classes, not boxes; use vggnet.evaluate.")
    return result


def evaluate_boxes(
    opened: Sequence[OpenModel],
    data: str | Path,
    *,
    split: str,
    model: str,
    classifier: Model | None,
    scales: Sequence[int],
    flip: bool,
    batch_size: int | None,
    workers: int | None,
    device: str | None,
    progress: Progress,
) -> LocalizationResult:
    """Evaluate networks that predict boxes, on whole images: at each scale a box for every window.

    The boxes of all windows, scales, mirror images and networks are merged (`merge`), and the best one is taken.

    Args:
        opened: the networks.
        data: a data set with boxes, see `Source.boxes`.
        split: of the data.
        model: what the networks are called in the result.
        classifier: a network for the class, whose softmax in each window is the score of the window's boxes; without
            one all windows count the same.
        scales: pixels of the shorter side, by default the network's own.
        flip: whether the mirror image of every image counts as well.
        batch_size: as many pixels as in so many crops are processed together.
        workers: as for `vggnet.evaluate`.
        device: of the classifier.
        progress: as for `vggnet.evaluate`.

    Raises:
        ConfigError: the networks take other crops.
        DataError: there are no boxes, or they cannot be.

    Source:
        arXiv:1409.1556, appendix A.
    """
    given = list(opened)
    for ready in given:
        require_boxes(ready)
    if classifier is not None:
        given.append(open_classifier(classifier, device))
    require_one_kind(given)
    preprocess = given[0].preprocess
    at = Protocol(name="dense", scales=tuple(scales)).at(preprocess).scales
    source = open_source(data, split)
    answering = [_on_labels(ready, source) for ready in given]
    networks, scorer = answering[: len(opened)], None if classifier is None else answering[-1]
    boxes = read_boxes(source)
    start = time.perf_counter()
    seen = [_Seen([], [], []) for _ in source.labels]
    max_pixels = (batch_size or default_batch_size(preprocess)) * preprocess.crop**2
    workers = default_workers(preprocess) if workers is None else workers
    with report_progress(progress, "evaluating") as report:
        for number, scale in enumerate(at):
            factors, first = resize_factors(boxes.sizes, scale), 0
            for pixels in of_one_size(WholeImages(source, replace(preprocess, resize=scale), workers), max_pixels):
                places = slice(first, first + len(pixels))
                for mirrored in (False, True)[: 1 + flip]:
                    _look(
                        networks, scorer, pixels, places, factors[places], max_pixels, seen[places], mirrored=mirrored
                    )
                first += len(pixels)
                report(number * len(seen) + first, len(at) * len(seen))
    merged = [merge(np.concatenate(one.boxes), np.concatenate(one.scores))[0][0] for one in seen]
    predicted = clip(np.array(merged), boxes.sizes)
    right = is_correct(predicted, boxes.edges)
    ranks = None if scorer is None else _ranks(seen, scorer.labels)
    return LocalizationResult(
        error_class_given=float(1 - right.mean()),
        error_top1=None if ranks is None else float(1 - (right & (ranks < 1)).mean()),
        error_top5=None if ranks is None else float(1 - (right & (ranks < 5)).mean()),
        mean_overlap=float(overlap(predicted, boxes.edges).mean()),
        error_whole_image=_error_of_constant(np.array([0, 0, 1, 1]), boxes),
        error_constant_box=_error_of_best_constant(data, split, boxes),
        images=len(seen),
        scales=at,
        flip=flip,
        data=str(data),
        split=split,
        fingerprint=source.fingerprint,
        model=model,
        classifier=None if classifier is None else describe_model(classifier),
        seconds=time.perf_counter() - start,
        device=str(given[0].device),
        torch=torch.__version__,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


class _OnLabels(NamedTuple):
    """A network, and what the images show as it numbers the classes."""

    windows: Windows
    labels: Tensor  # int64 (N,)


class _Seen(NamedTuple):
    """What the windows of one image said, in one view after the other: at each scale, and its mirror image."""

    boxes: list[Array]  # (n, 4), in pixels of the image, for its true class
    scores: list[Array]  # (n,)
    logits: list[Tensor]  # (K,)


def _look(
    networks: Sequence[_OnLabels],
    scorer: _OnLabels | None,
    pixels: Tensor,
    places: slice,
    factors: Array,
    max_pixels: int,
    seen: Sequence[_Seen],
    *,
    mirrored: bool,
) -> None:
    """Add what the networks say of uint8 images (n, C, h, w), at these places of the source, to what was seen."""
    width = pixels.shape[3]
    pixels = pixels.flip(3) if mirrored else pixels
    rows = torch.arange(len(pixels))
    scores: Array | None = None
    if scorer is not None:
        classes = scorer.windows.outputs(pixels, max_pixels)  # (n, K, h, w)
        scores = classes.softmax(1)[rows, scorer.labels[places]].flatten(1).double().numpy()  # (n, h w)
        for one, logits in zip(seen, classes.mean((2, 3)), strict=True):
            one.logits.append(logits)
    for network in networks:
        edges = network.windows.boxes(pixels, max_pixels)  # (n, 1 or K, h, w, 4)
        of_class = edges[rows.numpy(), network.labels[places].numpy() if edges.shape[1] > 1 else 0]
        of_class = mirror(of_class, width) if mirrored else of_class
        for row, one in enumerate(seen):
            one.boxes.append(of_class[row].reshape(-1, 4) / np.tile(factors[row], 2))
            one.scores.append(np.ones(len(one.boxes[-1])) if scores is None else scores[row])


def _ranks(seen: Sequence[_Seen], labels: Tensor) -> NDArray[np.int64]:
    """How many classes come before the true one: (N,), by the mean softmax over the views."""
    answer = mean_softmax([torch.stack(view) for view in zip(*(one.logits for one in seen), strict=True)])
    ranks: NDArray[np.int64] = rank(answer, labels).numpy()
    return ranks


def _on_labels(ready: OpenModel, source: Source) -> _OnLabels:
    """Raises: ConfigError if the network is no VGG; DataError if it has other classes."""
    to_model = match_classes(source, ready.classes, ready.num_classes)
    return _OnLabels(windows_of(ready), to_model[torch.from_numpy(source.labels)])


def _error_of_constant(relative: Array, boxes: Boxes) -> float:
    """Of one box (4,) for all images, in units of width and height."""
    return float(1 - is_correct(relative * np.tile(boxes.sizes, 2), boxes.edges).mean())


def _error_of_best_constant(data: str | Path, split: str, boxes: Boxes) -> float | None:
    if split == "train" or "train" not in source_splits(data):
        return None
    try:
        train = read_boxes(open_source(data, "train"))
    except DataError:
        return None
    return _error_of_constant(constant_box(*train), boxes)
