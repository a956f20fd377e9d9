"""Evaluate classifiers on a labeled split: exact counts over all images, and figures of the mistakes."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from vggnet.data.loading import Batch
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.opening import open_source
from vggnet.data.sources.source import Source, match_classes
from vggnet.errors import ConfigError, MissingDependencyError, StorageError, check_at_least
from vggnet.evaluation.localization import LocalizationResult, evaluate_boxes
from vggnet.evaluation.predict import Model, describe_model, open_with_head
from vggnet.evaluation.protocols import Name, Protocol, default_batch_size, predict_split
from vggnet.evaluation.results import RESULT, EvaluationResult, write_per_image
from vggnet.files import make_folder, write_text
from vggnet.metrics import Metrics, PerImage, Scores, mean_softmax
from vggnet.progress import Progress, report_progress
from vggnet.report.text import to_json
from vggnet.tasks import get_task
from vggnet.weights.checkpoint import OpenModel, inference_mode

PREDICTIONS, CONFUSION = "predictions.png", "confusion.png"
NUM_PICTURES = 8  # in predictions.png


def evaluate(
    model: Model | Sequence[Model],
    data: str | Path,
    *,
    split: str = "test",
    protocol: Name = "single",
    scales: Sequence[int] = (),
    flip: bool = False,
    views: Literal[1, 6] = 1,
    classifier: Model | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    out: Path | str | None = None,
    progress: Progress = False,
) -> EvaluationResult | LocalizationResult:
    """Evaluate a model, or several of one task together, on one split of a data set.

    Each image counts once. The prediction of several classifiers is the mean of their softmax outputs (paper, section
    4.5); the boxes of several models that predict boxes are merged (appendix A).

    Args:
        model: a network, a run folder, a `.safetensors` file or a name of `vgg weights list`; or several of them.
        data: "digits", "cifar10", "cifar100", a folder of parquet files or of class folders, or a Hugging Face id. Its
            classes must be the model's; in another order they are matched by name.
        split: "train", "val" or "test", or as the data set calls it.
        protocol: how each image is seen: "single" (the center crop), "multiscale", "dense", "multicrop" or
            "dense+multicrop"; see `vggnet.evaluation.protocols.Protocol`.
        scales: pixels, to which the shorter side of the image is resized; by default as in training, for "multiscale"
            also 32 less and 32 more.
        flip: whether the mirror image of each view counts as well; with "multicrop" it always does.
        classifier: for models that predict boxes, which are evaluated on whole images: a model for the class, whose
            softmax scores the boxes.
        views: 6 for test-time augmentation by six views (`SixViews`), for classes that a mirror image does not change.
        batch_size: crops for each forward pass, at least 1; by default 500 for images up to 64 pixels, else 32. Whole
            images have as many pixels.
        workers: processes that load images, 0 for none; by default 0 for small images, else one for each core.
        device: "cpu", "cuda", ...; by default a network stays where it is, and a file goes to the GPU if there is one.
        out: a folder, made if missing, for `test.json`, `predictions.parquet`, `confusion.png` and `predictions.png`.
            The last shows eight images spread evenly over the split, four correct and four wrong if there are.
        progress: True for a bar or lines on stderr, or a function of (images done, images to do), which counts an image
            once for each network, scale and kind of view.

    Returns:
        The result. If the disk is full when it is to be written, its `error` says so. Without the extra `report`, no
        figure is drawn, and its `notes` say so.

    Raises:
        ConfigError: an option cannot work, alone or with the others.
        DataError: the data cannot be read, or has other classes than the model.
        WeightsError: the file is damaged, or the model has no preprocessing.
        NonFiniteError: an output of the model is NaN or infinite.
        StorageError: `out` cannot be made.

    Source:
        arXiv:1409.1556, sections 3.2, 4.2, 4.3 and 4.5, for the protocols.

    Example:
        >>> import vggnet
        >>> model = vggnet.create_model("vgg11_bn", num_classes=10, head="gap", width=0.05)
        >>> model.preprocess = vggnet.Preprocess(resize=32, crop=32)
        >>> result = vggnet.evaluate(model, "digits")
        >>> result.images, result.classes[:3], len(result.confusion)
        (360, ('0', '1', '2'), 10)
    """
    check_at_least(1, batch_size=1 if batch_size is None else batch_size)
    check_at_least(0, workers=0 if workers is None else workers)
    if views not in (1, 6):
        raise ConfigError(f"views is {views}; it must be 1 or 6.")
    models = [model] if isinstance(model, nn.Module | Path | str) else list(model)
    if not models:
        raise ConfigError("no model was given; give one, or several to average their predictions.")
    folder = None if out is None else make_folder(Path(out).expanduser())  # before the work, not after it
    networks = [open_with_head(one, device) for one in models]
    name = " + ".join(map(describe_model, models))
    if {get_task(network.task).outputs for network in networks} != {"scores"}:
        if protocol not in ("single", "dense") or views != 1:
            raise ConfigError(
                f"{name} gives boxes, and is evaluated on whole images, by scales and flip; "
                "leave out protocol and views."
            )
        boxes = evaluate_boxes(
            networks,
            data,
            split=split,
            model=name,
            classifier=classifier,
            scales=scales,
            flip=flip,
            batch_size=batch_size,
            workers=workers,
            device=device,
            progress=progress,
        )
        return boxes if folder is None else _write(folder, boxes)
    if classifier is not None:
        raise ConfigError(f"{name} gives classes; classifier (--classifier) is for models that give boxes.")
    wanted = Protocol(name=protocol, scales=tuple(scales), flip=flip, six_views=views == 6)
    protocols = [wanted.at(network.preprocess) for network in networks]
    source = open_source(data, split)
    to_model = [match_classes(source, network.classes, network.num_classes) for network in networks]
    classes = networks[0].classes or source.classes
    size = batch_size or min(default_batch_size(network.preprocess) for network in networks)
    start = time.perf_counter()
    with report_progress(progress, "evaluating") as report:
        logits = _predict_all(networks, protocols, to_model, source, size, workers, report)
    labels = to_model[0][torch.from_numpy(source.labels)]
    parts = -(-len(source) // size)
    scores, per_image = _score(zip(logits.tensor_split(parts), labels.tensor_split(parts), strict=True), len(classes))
    result = EvaluationResult(
        top1=scores.top1,
        top5=scores.top5,
        loss=scores.loss,
        images=scores.images,
        per_class=dict(zip(_distinct(classes), scores.per_class, strict=True)),
        confusion=scores.confusion,
        calibration_error=scores.calibration_error,
        classes=classes,
        data=str(data),
        split=split,
        fingerprint=source.fingerprint,
        model=name,
        protocol=protocol,
        scales=tuple(sorted({scale for each in protocols for scale in each.scales})),
        views=protocols[0].views,
        seconds=time.perf_counter() - start,
        device=str(networks[0].device),
        torch=torch.__version__,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        files=() if folder is None else (folder / PREDICTIONS, folder / CONFUSION),
    )
    return result if folder is None else _write(folder, result, partial(_draw, folder, source, result, per_image))


def _predict_all(
    networks: Sequence[OpenModel],
    protocols: Sequence[Protocol],
    to_model: Sequence[Tensor],
    source: Source,
    batch_size: int,
    workers: int | None,
    progress: Callable[[int, int], None],
) -> Tensor:
    """The mean prediction of all networks: logits (N, K) with the classes in the order of the first network."""
    total, done = len(source) * sum(protocol.passes for protocol in protocols), 0

    def tick(images: int) -> None:
        nonlocal done
        done += images
        progress(done, total)

    to_data = to_model[0].argsort()  # the data's class for each of the first network's
    return mean_softmax(
        [
            predict_split(network, source, protocol, batch_size=batch_size, workers=workers, progress=tick)[
                :, order[to_data]
            ]
            for network, protocol, order in zip(networks, protocols, to_model, strict=True)
        ]
    )


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


Result = TypeVar("Result", EvaluationResult, LocalizationResult)


def _write(folder: Path, result: Result, more: Callable[[], None] | None = None) -> Result:
    """Write test.json and `more`; if the disk refuses, the result says so."""
    try:
        write_text(folder / RESULT, to_json(result) + "\n")
        if more:
            more()
    except MissingDependencyError as error:
        return replace(result, files=(), notes=(f"no figures: {error}",))
    except StorageError as error:
        return replace(result, files=(), error=str(error))
    return result


def _draw(out: Path, source: Source, result: EvaluationResult, per_image: PerImage) -> None:
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
