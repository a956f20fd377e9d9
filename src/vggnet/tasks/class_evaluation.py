"""Evaluate classifiers: exact counts over all images, and figures of the mistakes."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from vggnet.data.loading import Batch, Skip
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.source import Source, Subset, match_classes
from vggnet.data.workers import lost_workers_named
from vggnet.errors import DataError, ImageError
from vggnet.metrics import Metrics, PerImage, Scores, class_scores, mean_scores, mean_softmax
from vggnet.progress import report_progress
from vggnet.tasks.protocols import Protocol, default_batch_size, predict_split
from vggnet.tasks.results import CONFUSION, PREDICTIONS, EvaluationResult, write_per_image
from vggnet.tasks.task import Evaluated, EvaluationJob
from vggnet.weights.checkpoint import OpenModel, inference_mode

NUM_PICTURES = 8  # in predictions.png


def evaluate_classes(job: EvaluationJob) -> Evaluated:
    """Evaluate one classifier, or the mean softmax of several (paper, section 4.4).

    Raises:
        ConfigError: an option of the protocol cannot work.
        DataError: the data have other classes than the networks.
    """
    wanted = Protocol(name=job.protocol, scales=job.scales, flip=job.flip, six_views=job.six_views)
    protocols = [wanted.at(network.preprocess) for network in job.networks]
    source = job.source
    to_model = [match_classes(source, network.classes, network.num_classes) for network in job.networks]
    classes = job.networks[0].classes or source.classes
    bad: dict[int, ImageError] = {}

    def note(index: int, error: ImageError) -> None:
        bad[index] = error

    skip = note if job.on_error == "return" else None
    size = job.batch_size or min(default_batch_size(network.preprocess) for network in job.networks)
    start = perf_counter()
    with report_progress(job.progress, "evaluating") as report, lost_workers_named():
        logits = _predict_all(job.networks, protocols, source, size, job.workers, report, skip)
    if bad:
        readable = np.setdiff1d(np.arange(len(source)), list(bad))
        source, logits = Subset(source, readable), logits[readable]
    labels = to_model[0][torch.from_numpy(source.labels)]
    parts = -(-len(source) // size)
    scores, per_image = _score(zip(logits.tensor_split(parts), labels.tensor_split(parts), strict=True), len(classes))
    of_classes = class_scores(torch.tensor(scores.confusion), logits, labels)
    images = labels.bincount(minlength=len(classes)).tolist()
    result = EvaluationResult(
        top1=scores.top1,
        top5=scores.top5,
        loss=scores.loss,
        images=scores.images,
        per_class=dict(zip(_distinct(classes), scores.per_class, strict=True)),
        scores=dict(zip(_distinct(classes), of_classes, strict=True)),
        macro=mean_scores(of_classes, images, weighted=False),
        weighted=mean_scores(of_classes, images, weighted=True),
        confusion=scores.confusion,
        calibration_error=scores.calibration_error,
        classes=classes,
        protocol=wanted.name,
        scales=tuple(sorted({scale for each in protocols for scale in each.scales})),
        views=protocols[0].views,
        unreadable={index: str(bad[index]) for index in sorted(bad)},
        **job.about(start),
    )
    return Evaluated(
        result,
        (PREDICTIONS, CONFUSION),
        partial(_write, source, result, per_image),
        partial(_columns, source, classes, per_image),
    )


def _columns(source: Source, classes: Sequence[str], per_image: PerImage) -> dict[str, list[Any]]:
    """The table of all images: where each lies, its classes by name, and how sure the prediction is."""
    return {
        "image": [source.describe(index) for index in range(len(source))],
        "true": [classes[label] for label in per_image.labels.tolist()],
        "predicted": [classes[label] for label in per_image.predicted.tolist()],
        "correct": (per_image.labels == per_image.predicted).tolist(),
        "confidence": per_image.confidence.tolist(),
        "loss": per_image.losses.tolist(),
    }


def _predict_all(
    networks: Sequence[OpenModel],
    protocols: Sequence[Protocol],
    source: Source,
    batch_size: int,
    workers: int | None,
    progress: Callable[[int, int], None],
    skip: Skip | None,
) -> Tensor:
    """The mean prediction of all networks: logits (N, K) with the classes in the order of the first network."""
    total, done = len(source) * sum(protocol.passes for protocol in protocols), 0

    def tick(images: int) -> None:
        nonlocal done
        done += images
        progress(done, total)

    order = [_as_the_first(networks[0], network) for network in networks]
    return mean_softmax(
        [
            predict_split(network, source, protocol, batch_size=batch_size, workers=workers, progress=tick, skip=skip)[
                :, places
            ]
            for network, protocol, places in zip(networks, protocols, order, strict=True)
        ]
    )


def _as_the_first(first: OpenModel, network: OpenModel) -> list[int]:
    """The outputs of a network in the order of the first one's, by name.  Raises: DataError for other classes."""
    if first.classes is None or network.classes is None or first.classes == network.classes:
        return list(range(first.num_classes))
    if set(first.classes) != set(network.classes):
        other = next(iter(set(first.classes) ^ set(network.classes)))
        raise DataError(f"the models have different classes, such as {other}; evaluate those with the same ones.")
    return [network.classes.index(name) for name in first.classes]


def score_batches(
    model: nn.Module, batches: Iterable[Batch], *, preprocess: Preprocess, device: torch.device | str
) -> Scores:
    """The scores of a model that is on `device`, over all batches; labels index the model's outputs.

    Every layer is left in the mode (training or not) it was found in.
    Raises: DataError if there is no image; InputError if a label is no class; NonFiniteError if a logit is not finite.
    """
    with inference_mode(model):
        logits = (
            (model(preprocess.normalize(batch.images.to(device, non_blocking=True))), batch.labels) for batch in batches
        )
        return _score(logits, cast(int, model.num_classes))[0]


def _score(batches: Iterable[tuple[Tensor, Tensor]], num_classes: int) -> tuple[Scores, PerImage]:
    """Of batches of logits (n, K) and labels (n,)."""
    metrics = Metrics(num_classes)
    per_image = [metrics.update(logits, labels) for logits, labels in batches]
    return metrics.compute(), PerImage(*map(torch.cat, zip(*per_image, strict=True)))


def _write(source: Source, result: EvaluationResult, per_image: PerImage, out: Path) -> None:
    """Write the predictions and the figures.  Raises: StorageError; MissingDependencyError without matplotlib."""
    write_per_image(out, per_image)
    from vggnet.report.figures import draw_confusion, draw_predictions  # matplotlib takes half a second

    classes = result.classes
    title = f"{Path(source.name).name} {source.split}: {100 * result.top1:.2f} % of {result.images:,} images correct"
    correct = (per_image.predicted == per_image.labels).numpy()
    shown = _pick(correct)
    num_correct = int(correct[shown].sum())
    draw_predictions(
        [source.read(index) for index in shown],
        [classes[label] for label in per_image.labels[shown].tolist()],
        [classes[label] for label in per_image.predicted[shown].tolist()],
        per_image.confidence[shown].tolist(),
        out / PREDICTIONS,
        title=f"{title}; here {num_correct} correct, {len(shown) - num_correct} wrong",
    )
    draw_confusion(result.confusion, classes, out / CONFUSION, title=title)


def _pick(correct: np.ndarray) -> list[int]:
    """The indices of `NUM_PICTURES` images, correct ones first, then mistakes; half of each if there are."""
    right, wrong = np.flatnonzero(correct), np.flatnonzero(~correct)
    half = NUM_PICTURES // 2
    num_wrong = min(len(wrong), max(half, NUM_PICTURES - len(right)))
    num_right = min(len(right), NUM_PICTURES - num_wrong)
    return [*_spread(right, num_right), *_spread(wrong, num_wrong)]


def _spread(indices: np.ndarray, count: int) -> list[int]:
    places = np.linspace(0, len(indices) - 1, count).astype(int)
    return [int(index) for index in indices[places]]


def _distinct(classes: Sequence[str]) -> list[str]:
    """Names as keys: one that occurs twice (ImageNet has two cranes) gets its index."""
    return [name if classes.count(name) == 1 else f"{name} [{index}]" for index, name in enumerate(classes)]
