"""A model against a labeled split: every image once, exact counts, and the pictures that explain them."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from vggnet.data.loading import Batch
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.opening import open_source
from vggnet.data.sources.source import Source
from vggnet.errors import ConfigError, DataError, StorageError, check_at_least
from vggnet.evaluation.per_image import ANSWERS, write_per_image
from vggnet.evaluation.predict import Ready, inference, prepare, require_scores
from vggnet.evaluation.protocols import Name, Protocol, answer, default_batch_size
from vggnet.files import write_text
from vggnet.metrics import Metrics, PerImage, Scores, mean_softmax

RESULT, PREDICTIONS, CONFUSION = "test.json", "predictions.png", "confusion.png"
NUM_PICTURES = 8  # in predictions.png

Model = nn.Module | Path | str


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """What a test found, and on what. Classes are in the model's order."""

    top1: float  # 0..1
    top5: float  # 0..1, among the first min(5, C)
    loss: float  # nats
    images: int
    per_class: dict[str, float | None]  # 0..1; None for a class without images
    confusion: tuple[tuple[int, ...], ...]  # (C, C) counts, rows are true classes
    calibration_error: float  # 0..1
    classes: tuple[str, ...]
    data: str
    split: str
    fingerprint: str  # of the data
    model: str
    protocol: str
    scales: tuple[int, ...]  # pixels, the shorter side of the images
    views: int  # of each image, by each network
    seconds: float  # from the first batch to the last
    device: str
    torch: str  # version
    date: str  # UTC
    files: tuple[Path, ...]  # the pictures
    error: str | None = None  # why the result or its pictures could not be written

    def as_json(self) -> str:
        """All of it as one JSON object."""
        return json.dumps(asdict(self), default=str, ensure_ascii=False, allow_nan=False)

    def as_table(self) -> str:
        """For people; the last line is the accuracy."""
        speed = self.images / max(self.seconds, 1e-9)
        lines = [*self._class_lines(), ""] if len(self.classes) <= 20 else []
        lines += [f"{self.images:,} images of {self.data} in {self.seconds:.1f} s ({speed:,.0f} images/s)"]
        at = ", ".join(map(str, self.scales))
        means = f": answers are means over {self.views} views of each image" if self.views > 1 else ""
        lines += [f"protocol {self.protocol}, scale {at}{means}"] if self.protocol != "single" or means else []
        lines += [f"loss {self.loss:.4f} nats, calibration error {100 * self.calibration_error:.2f} %"]
        lines += [f"top-5 accuracy {100 * self.top5:.2f} %"] if len(self.classes) > 5 else []
        lines += [f"drawn: {file}" for file in self.files]
        return "\n".join([*lines, f"{self.split} accuracy {100 * self.top1:.2f} %"])

    def _class_lines(self) -> list[str]:
        width = max(len(name) for name in ("class", *self.classes))
        lines = [f"{'class':<{width}}  accuracy  images  most often mistaken for"]
        for index, (name, accuracy) in enumerate(self.per_class.items()):
            row = self.confusion[index]
            wrong, other = max(((count, -other) for other, count in enumerate(row) if other != index), default=(0, 0))
            percent = "-" if accuracy is None else f"{100 * accuracy:.2f} %"
            mistaken = f"{self.classes[-other]} ({wrong:,})" if wrong else ""
            lines.append(f"{name:<{width}}  {percent:>8}  {sum(row):>6,}  {mistaken}".rstrip())
        return lines


def test(
    model: Model | Sequence[Model],
    *,
    data: str | Path,
    split: str = "test",
    batch_size: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    views: Literal[1, 6] = 1,
    protocol: Name = "single",
    scales: Sequence[int] = (),
    flip: bool = False,
    out: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TestResult:
    """Test a model, or several together, on one split of a data set.

    model, device: as for `predict`. The answer of several is the mean of their softmax outputs (paper, section 4.5).
    batch_size: crops at once, by default 500 small images or 32 photos; whole images have as many pixels at once.
    workers: loader processes, by default `default_workers`.  data: whatever `open_source` takes.
    protocol, scales, flip: how each image is seen; see `Protocol`.
    views: 6 answers by the mean over six views of each image (`SixViews`), for images that mean the same mirrored.
    out: a folder (made if missing) for `test.json`, `answers.parquet` (see `write_per_image`), `confusion.png` and
        `predictions.png`. The last shows eight images spread evenly over the split: four correct and four mistakes, or
        what there is, filled up from the others.
    progress: called after each batch with the number of images done and to do, each as often as it is passed over.
    The data's classes must be the model's; in another order they are matched by name. The logits of all images are held
    in memory.
    Raises: ConfigError for an option that cannot work; DataError for data that cannot be read or has other classes;
        WeightsError, NonFiniteError as `predict`; StorageError if `out` cannot be made. If the disk is full afterwards,
        the result is returned all the same, with `error`.
    """
    check_at_least(1, batch_size=1 if batch_size is None else batch_size)
    check_at_least(0, workers=0 if workers is None else workers)
    if views not in (1, 6):
        raise ConfigError(f"views is {views}; it must be 1 or 6.")
    how = Protocol(name=protocol, scales=tuple(scales), flip=flip, six_views=views == 6)
    models = [model] if isinstance(model, nn.Module | Path | str) else list(model)
    if not models:
        raise ConfigError("no model was given; give one, or several to average their answers.")
    folder = None if out is None else make_folder(Path(out))  # before the work, not after it
    networks = [prepare(one, device) for one in models]
    for ready in networks:
        require_scores(ready)
    protocols = [how.at(ready.preprocess) for ready in networks]
    source = open_source(data, split)
    to_model = [match_classes(source, ready.classes, ready.num_classes) for ready in networks]
    classes = networks[0].classes or source.classes
    size = batch_size or min(default_batch_size(ready.preprocess) for ready in networks)
    start = time.perf_counter()
    logits = _answer_all(networks, protocols, to_model, source, size, workers, progress)
    labels = to_model[0][torch.from_numpy(source.labels)]
    parts = -(-len(source) // size)
    scores, answers = _score(zip(logits.tensor_split(parts), labels.tensor_split(parts), strict=True), len(classes))
    seconds = time.perf_counter() - start
    result = TestResult(
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
        model=describe_models(models),
        protocol=protocol,
        scales=tuple(sorted({scale for each in protocols for scale in each.scales})),
        views=protocols[0].views,
        seconds=seconds,
        device=str(networks[0].device),
        torch=torch.__version__,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        files=() if folder is None else (folder / PREDICTIONS, folder / CONFUSION),
    )
    if folder is None:
        return result
    try:
        write_text(folder / RESULT, result.as_json() + "\n")
        write_per_image(folder / ANSWERS, answers)
        _draw(folder, source, classes, scores, answers)
    except StorageError as error:
        return replace(result, files=(), error=str(error))
    return result


def _answer_all(
    networks: Sequence[Ready],
    protocols: Sequence[Protocol],
    to_model: Sequence[Tensor],
    source: Source,
    batch_size: int,
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> Tensor:
    """The mean answer of all networks: logits (N, K) with the classes in the order of the first network."""
    total, done = len(source) * sum(protocol.passes for protocol in protocols), 0

    def tick(images: int) -> None:
        nonlocal done
        done += images
        if progress:
            progress(done, total)

    to_data = to_model[0].argsort()  # the data's class for each of the first network's
    return mean_softmax(
        [
            answer(ready, source, protocol, batch_size=batch_size, workers=workers, progress=tick)[:, order[to_data]]
            for ready, protocol, order in zip(networks, protocols, to_model, strict=True)
        ]
    )


def evaluate(
    model: nn.Module, batches: Iterable[Batch], *, preprocess: Preprocess, device: torch.device | str
) -> Scores:
    """The scores of a model that is on `device`, over all batches; labels index the model's outputs.

    Every layer is left in the mode (training or not) it was found in.
    Raises: DataError if there is no image; InputError if a label is no class; NonFiniteError if a logit is not finite.
    """
    with inference(model):
        logits = (
            (model(preprocess.normalize(batch.images.to(device, non_blocking=True))), batch.labels) for batch in batches
        )
        return _score(logits, cast(int, model.num_classes))[0]


def _score(batches: Iterable[tuple[Tensor, Tensor]], num_classes: int) -> tuple[Scores, PerImage]:
    """Of batches of logits (n, K) and labels (n,)."""
    metrics = Metrics(num_classes)
    answers = [metrics.update(logits, labels) for logits, labels in batches]
    return metrics.compute(), PerImage(*map(torch.cat, zip(*answers, strict=True)))


def match_classes(source: Source, classes: tuple[str, ...] | None, num_classes: int) -> Tensor:
    """The model's class for each class of the data: int64 (C,).  Raises: DataError if they do not fit."""
    theirs = source.classes
    if len(theirs) != num_classes:
        raise DataError(
            f"{source.name} has {len(theirs)} classes ({_list(theirs)}), but the model {num_classes}"
            f"{f' ({_list(classes)})' if classes else ''}; test on the data set that it was trained for."
        )
    if classes is None or theirs == classes:
        return torch.arange(num_classes)
    if set(theirs) == set(classes) and len(set(classes)) == num_classes:
        return torch.tensor([classes.index(name) for name in theirs])
    only_data = [name for name in theirs if name not in classes] or theirs
    only_model = [name for name in classes if name not in theirs] or classes
    raise DataError(
        f"{source.name} has other classes than the model: the data has {_list(only_data)} where the model has "
        f"{_list(only_model)}; test on the data set that it was trained for, or rename the classes."
    )


def _draw(out: Path, source: Source, classes: Sequence[str], scores: Scores, answers: PerImage) -> None:
    from vggnet.report.figures import draw_confusion, draw_predictions  # matplotlib takes half a second

    title = f"{Path(source.name).name} {source.split}: {100 * scores.top1:.2f} % of {scores.images:,} images correct"
    correct = (answers.predicted == answers.labels).numpy()
    shown = _pick(correct)
    num_correct = int(correct[shown].sum())
    draw_predictions(
        [source.read(index) for index in shown],
        [classes[label] for label in answers.labels[shown].tolist()],
        [classes[label] for label in answers.predicted[shown].tolist()],
        answers.confidence[shown].tolist(),
        out / PREDICTIONS,
        title=f"{title}; here {num_correct} correct, {len(shown) - num_correct} wrong",
    )
    draw_confusion(scores.confusion, classes, out / CONFUSION, title=title)


def make_folder(folder: Path) -> Path:
    """A folder for results, made if missing.  Raises: StorageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be made a folder for the results ({error}); choose another.") from error
    return folder


def _pick(correct: np.ndarray) -> list[int]:
    """Correct ones first, then mistakes; see `test`."""
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


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", ... {len(names) - 5} more" if len(names) > 5 else "")


def describe_models(models: Sequence[Model]) -> str:
    """Their paths, or the names of what has none."""

    def describe(model: Model) -> str:
        if isinstance(model, nn.Module):
            return str(getattr(getattr(model, "architecture", None), "name", type(model).__name__))
        return str(model)

    return " + ".join(map(describe, models))
