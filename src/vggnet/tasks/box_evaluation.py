"""Evaluate networks that predict boxes, as the paper does (appendix A): densely, with merged boxes."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggnet.data.boxes import Boxes, read_boxes, resize_factors, unreadable_images
from vggnet.data.loading import WholeImages, default_workers, of_one_size
from vggnet.data.sources.opening import open_source, source_splits
from vggnet.data.sources.source import Source, Subset, match_classes
from vggnet.data.workers import lost_workers_named
from vggnet.errors import DataError, ImageError, OnError
from vggnet.metrics import mean_softmax, rank
from vggnet.progress import report_progress
from vggnet.tasks.box_geometry import Array, clip, constant_box, is_correct, merge, mirror, overlap
from vggnet.tasks.protocols import Protocol, default_batch_size
from vggnet.tasks.results import LocalizationResult
from vggnet.tasks.task import Evaluated, EvaluationJob
from vggnet.tasks.windows import Windows, require_one_kind, windows_of
from vggnet.weights.checkpoint import OpenModel


def evaluate_boxes(job: EvaluationJob) -> Evaluated:
    """Evaluate networks that predict boxes, on whole images: at each scale a box for every window.

    The boxes of all windows, scales, mirror images and networks are merged (`merge`), and the best one is taken. With a
    classifier, its softmax in each window is the score of the window's boxes; without one all windows count the same.

    Raises:
        ConfigError: the networks take other crops.
        DataError: there are no boxes, or they cannot be; or no image can be read.

    Source:
        arXiv:1409.1556, appendix A.
    """
    given = [*job.networks, *([job.classifier] if job.classifier else [])]
    require_one_kind(given)
    preprocess, (source, bad) = given[0].preprocess, _usable(job.source, job.on_error)
    at = Protocol(name="dense", scales=job.scales).at(preprocess).scales
    answering = [_on_labels(opened, source) for opened in given]
    networks, scorer = answering[: len(job.networks)], answering[-1] if job.classifier else None
    boxes = read_boxes(source)
    start = perf_counter()
    seen = [_Seen([], [], []) for _ in source.labels]
    max_pixels = (job.batch_size or default_batch_size(preprocess)) * preprocess.crop**2
    workers = default_workers(preprocess) if job.workers is None else job.workers
    with report_progress(job.progress, "evaluating") as report, lost_workers_named():
        for number, scale in enumerate(at):
            factors, first = resize_factors(boxes.sizes, scale), 0
            for pixels in of_one_size(WholeImages(source, replace(preprocess, resize=scale), workers), max_pixels):
                places = slice(first, first + len(pixels))
                for mirrored in (False, True)[: 1 + job.flip]:
                    _look(
                        networks, scorer, pixels, places, factors[places], max_pixels, seen[places], mirrored=mirrored
                    )
                first += len(pixels)
                report(number * len(seen) + first, len(at) * len(seen))
    merged = [merge(np.concatenate(one.boxes), np.concatenate(one.scores))[0][0] for one in seen]
    predicted = clip(np.array(merged), boxes.sizes)
    right = is_correct(predicted, boxes.edges)
    ranks = None if scorer is None else _ranks(seen, scorer.labels)
    result = LocalizationResult(
        error_class_given=float(1 - right.mean()),
        error_top1=None if ranks is None else float(1 - (right & (ranks < 1)).mean()),
        error_top5=None if ranks is None else float(1 - (right & (ranks < 5)).mean()),
        mean_overlap=float(overlap(predicted, boxes.edges).mean()),
        error_whole_image=_error_of_constant(np.array([0, 0, 1, 1]), boxes),
        error_constant_box=_error_of_best_constant(job, boxes),
        images=len(seen),
        scales=at,
        flip=job.flip,
        classifier=job.classifier_name,
        unreadable={index: str(error) for index, error in bad.items()},
        **job.about(start),
    )
    return Evaluated(result, columns=partial(_columns, source, predicted, boxes.edges))


def _usable(source: Source, on_error: OnError) -> tuple[Source, dict[int, ImageError]]:
    """The images that count, and those that cannot be read.  Raises: DataError if none can."""
    bad = unreadable_images(source) if on_error == "return" else {}
    if not bad:
        return source, bad
    if len(bad) == len(source):
        raise DataError(f"{source.name}, split {source.split}: none of the {len(bad):,} images can be read.")
    return Subset(source, np.setdiff1d(np.arange(len(source)), list(bad))), bad


def _columns(source: Source, predicted: Array, true: Array) -> dict[str, list[Any]]:
    """The table of all images: where each lies, its class, the box that was found, and how well it fits."""
    return {
        "image": [source.describe(index) for index in range(len(source))],
        "true": [source.classes[label] for label in source.labels],
        **{name: edges.tolist() for name, edges in zip(("left", "top", "right", "bottom"), predicted.T, strict=True)},
        "overlap": overlap(predicted, true).tolist(),
        "correct": is_correct(predicted, true).tolist(),
    }


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


def _error_of_best_constant(job: EvaluationJob, boxes: Boxes) -> float | None:
    if job.split == "train" or "train" not in source_splits(job.data):
        return None
    try:
        train = read_boxes(_usable(open_source(job.data, "train"), job.on_error)[0])
    except DataError:
        return None
    return _error_of_constant(constant_box(*train), boxes)
