"""Networks that give boxes against a split with boxes, as the paper tests them (appendix A): densely, and merged."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vggnet.data.boxes import Boxes, read_boxes, resize_factors
from vggnet.data.loading import WholeImages, default_workers, of_one_size
from vggnet.data.sources.opening import open_source, source_splits
from vggnet.data.sources.source import Source, match_classes
from vggnet.errors import DataError, StorageError, check_at_least
from vggnet.evaluation.evaluate import describe_models
from vggnet.evaluation.predict import Model, open_classifier, open_with_head
from vggnet.evaluation.protocols import Protocol, default_batch_size
from vggnet.evaluation.results import RESULT
from vggnet.evaluation.windows import Windows, require_boxes, require_one_kind, windows_of
from vggnet.files import make_folder, write_text
from vggnet.metrics import mean_softmax, rank
from vggnet.progress import Progress, report_progress
from vggnet.tasks.box_geometry import Array, clip, constant_box, is_correct, merge, mirror, overlap
from vggnet.weights.checkpoint import OpenModel


@dataclass(frozen=True, kw_only=True)
class LocalizationResult:
    """What a test of boxes found. A box is right if it overlaps the true one by more than half (ILSVRC)."""

    error_class_given: float  # 0..1, of the box for the true class
    error_top1: float | None  # 0..1, of class and box: the first class is the true one and its box is right
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
    error: str | None = None  # why the result could not be written

    def as_json(self) -> str:
        """All of it as one JSON object."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False)

    def as_table(self) -> str:
        """For people; the last line is the error with the class given."""
        lines = [f"{self.images:,} images of {self.data} in {self.seconds:.1f} s"]
        lines += [f"whole image as a box: error {100 * self.error_whole_image:.2f} %"]
        if self.error_constant_box is not None:
            lines += [f"best constant box of train: error {100 * self.error_constant_box:.2f} %"]
        lines += [f"mean overlap {self.mean_overlap:.3f}"]
        if self.error_top1 is not None and self.error_top5 is not None:
            lines += [f"class predicted: error {100 * self.error_top1:.2f} %, top-5 {100 * self.error_top5:.2f} %"]
        return "\n".join([*lines, f"{self.split} class given: error {100 * self.error_class_given:.2f} %"])


def localize(
    model: Model | Sequence[Model],
    *,
    data: str | Path,
    split: str = "test",
    classifier: Model | None = None,
    scales: Sequence[int] = (),
    flip: bool = False,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    out: Path | str | None = None,
    progress: Progress = False,
) -> LocalizationResult:
    """Test networks that give boxes: on whole images, at each scale, a box for every window of the last feature map.

    The boxes of all windows, scales, mirror images and networks are merged (`merge`), and the best one is taken.
    model, device, workers: as for `vggnet.evaluate`.
    data: a data set with boxes, see `Source.boxes`.
    classifier: a network for the class, whose softmax in each window is the score of the window's boxes; without one
        all windows count the same.
    scales: pixels of the shorter side, by default the network's own.
    flip: the mirror image of every image as well.
    batch_size: crops; as many pixels at once.
    out: a folder (made if missing) for `test.json`.
    Raises: ConfigError for networks that give no boxes or take other crops; DataError for boxes that cannot be; others
        as `vggnet.evaluate`. If the disk is full afterwards, the result is returned all the same, with `error`.
    """
    check_at_least(1, batch_size=1 if batch_size is None else batch_size)
    check_at_least(0, workers=0 if workers is None else workers)
    folder = None if out is None else make_folder(Path(out))  # before the work, not after it
    models = [model] if isinstance(model, nn.Module | Path | str) else list(model)
    given = [open_with_head(one, device) for one in models]
    for ready in given:
        require_boxes(ready)
    if classifier is not None:
        given.append(open_classifier(classifier, device))
    require_one_kind(given)
    preprocess = given[0].preprocess
    at = Protocol(name="dense", scales=tuple(scales)).at(preprocess).scales
    source = open_source(data, split)
    answering = [_on_labels(ready, source) for ready in given]
    networks, scorer = answering[: len(models)], None if classifier is None else answering[-1]
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
    result = LocalizationResult(
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
        model=describe_models(models),
        classifier=None if classifier is None else describe_models([classifier]),
        seconds=time.perf_counter() - start,
        device=str(given[0].device),
        torch=torch.__version__,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return result if folder is None else _written(result, folder)


def _written(result: LocalizationResult, folder: Path) -> LocalizationResult:
    try:
        write_text(folder / RESULT, result.as_json() + "\n")
    except StorageError as error:
        return replace(result, error=str(error))
    return result


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
