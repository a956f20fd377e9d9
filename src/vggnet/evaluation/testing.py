"""A model against a labelled split: every image once, exact counts, and the pictures that explain them."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from vggnet.atomic import write_text
from vggnet.data.arrays import SMALL
from vggnet.data.loading import Batch, EvalBatches, default_workers
from vggnet.data.opening import open_source
from vggnet.data.preprocess import Preprocess
from vggnet.data.source import Source
from vggnet.errors import ConfigError, DataError, StorageError
from vggnet.evaluation.predicting import check_at_least, inference, prepare
from vggnet.evaluation.views import SixViews
from vggnet.metrics import Metrics, Scores

RESULT, PREDICTIONS, CONFUSION = "test.json", "predictions.png", "confusion.png"
NUM_PICTURES = 8  # in predictions.png


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
    views: Literal[1, 6]  # of each image whose logits were averaged
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
        lines += [f"answers are means over {self.views} views of each image"] if self.views > 1 else []
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
    model: nn.Module | Path | str,
    *,
    data: str | Path,
    split: str = "test",
    batch_size: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    views: Literal[1, 6] = 1,
    out: Path | str | None = None,
) -> TestResult:
    """Test a model on one split of a data set.

    batch_size: by default 500 small images or 32 photos.  workers: loader processes, by default `default_workers`.
    model, device: as for `predict`.  data: whatever `open_source` takes.
    views: 6 answers by the mean over six views of each image (`SixViews`), for images that mean the same mirrored.
    out: a folder (made if missing) for `test.json`, `confusion.png` and `predictions.png`. The last shows eight images
        spread evenly over the split: four correct and four mistakes, or what there is, filled up from the others.
    The data's classes must be the model's; in another order they are matched by name.
    Raises: ConfigError for an option that cannot work; DataError for data that cannot be read or has other classes;
        WeightsError, NonFiniteError as `predict`; StorageError if `out` cannot be made. If the disk is full afterwards,
        the result is returned all the same, with `error`.
    """
    check_at_least(1, batch_size=1 if batch_size is None else batch_size)
    check_at_least(0, workers=0 if workers is None else workers)
    if views not in (1, 6):
        raise ConfigError(f"views is {views}; it must be 1 or 6.")
    folder = None if out is None else _made(Path(out))  # before the work, not after it
    ready = prepare(model, device)
    source = open_source(data, split)
    classes = ready.classes or source.classes
    to_model = _match_classes(source, ready.classes, ready.num_classes)
    batches = EvalBatches(
        source,
        ready.preprocess,
        batch_size or (500 if ready.preprocess.crop <= SMALL else 32),
        default_workers(ready.preprocess) if workers is None else workers,
    )
    relabelled = (batch._replace(labels=to_model[batch.labels]) for batch in batches)
    start = time.perf_counter()
    network = SixViews(ready.network) if views == 6 else ready.network
    scores, answers = _score(network, relabelled, ready.preprocess, ready.device)
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
        model=_describe(model),
        views=views,
        seconds=seconds,
        device=str(ready.device),
        torch=torch.__version__,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        files=() if folder is None else (folder / PREDICTIONS, folder / CONFUSION),
    )
    if folder is None:
        return result
    try:
        write_text(folder / RESULT, result.as_json() + "\n")
        _draw(folder, source, classes, scores, answers)
    except StorageError as error:
        return replace(result, files=(), error=str(error))
    return result


def evaluate(
    model: nn.Module, batches: Iterable[Batch], *, preprocess: Preprocess, device: torch.device | str
) -> Scores:
    """The scores of a model that is on `device`, over all batches; labels index the model's outputs.

    Every layer is left in the mode (training or not) it was found in.
    Raises: DataError if there is no image; InputError if a label is no class; NonFiniteError if a logit is not finite.
    """
    return _score(model, batches, preprocess, device)[0]


class _Answers(NamedTuple):
    """One value for each image, in the order of the batches."""

    labels: Tensor  # int64 (N,)
    predicted: Tensor  # int64 (N,)
    confidence: Tensor  # float64 (N,), 0..1, of the predicted class


def _score(
    model: nn.Module, batches: Iterable[Batch], preprocess: Preprocess, device: torch.device | str
) -> tuple[Scores, _Answers]:
    metrics = Metrics(cast(int, model.num_classes))
    answers = []
    with inference(model):
        for batch in batches:
            logits = model(preprocess.normalize(batch.images.to(device, non_blocking=True)))
            answers.append(_Answers(batch.labels, *metrics.update(logits, batch.labels)))
    return metrics.compute(), _Answers(*map(torch.cat, zip(*answers, strict=True)))


def _match_classes(source: Source, classes: tuple[str, ...] | None, num_classes: int) -> Tensor:
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


def _draw(out: Path, source: Source, classes: Sequence[str], scores: Scores, answers: _Answers) -> None:
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


def _made(folder: Path) -> Path:
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


def _describe(model: nn.Module | Path | str) -> str:
    if isinstance(model, nn.Module):
        return str(getattr(getattr(model, "architecture", None), "name", type(model).__name__))
    return str(model)
