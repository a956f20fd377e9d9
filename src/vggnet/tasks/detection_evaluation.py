"""Evaluate networks that find objects: mean average precision as COCO defines it, by torchmetrics and pycocotools."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vggnet.data.objects import Objects
from vggnet.data.sources.source import Source, match_classes
from vggnet.errors import DataError, ImageError, require
from vggnet.metrics import check_finite_logits
from vggnet.progress import report_progress
from vggnet.report.evaluation_text import SURE
from vggnet.tasks.default_boxes import Detections, detect, to_image
from vggnet.tasks.detection_metrics import match_objects
from vggnet.tasks.reading_ahead import read_ahead
from vggnet.tasks.results import EXAMPLES, DetectionResult
from vggnet.tasks.task import Evaluated, EvaluationJob
from vggnet.weights.checkpoint import OpenModel, inference_mode

BATCH = 8  # images for each forward pass
SHOWN = 3  # images with the best and with the worst F1 score that are drawn
MOST = 100  # boxes of an image that count, as COCO has it


class _Read(NamedTuple):
    place: int  # in the source
    pixels: Tensor  # uint8 (C, size, size)
    size: tuple[int, int]  # of the image
    objects: Objects


class Seen(NamedTuple):
    """How well the objects of an image were found, by boxes with a score of at least SURE."""

    place: int  # in the source
    objects: int
    found: int
    right: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, 0..1; 1 where there is nothing and nothing was found."""
        return 2 * self.right / (self.objects + self.found) if self.objects + self.found else 1.0


def evaluate_detections(job: EvaluationJob) -> Evaluated:
    """Evaluate a network: each image once, stretched to its size; boxes are compared in pixels of the image.

    Raises:
        DataError: the data have other classes, or no image can be read.
        MissingDependencyError: without torchmetrics and pycocotools.
    """
    require("pycocotools", "detect")
    metric = require("torchmetrics.detection", "detect").MeanAveragePrecision(
        extended_summary=True, max_detection_thresholds=[1, 10, MOST]
    )
    metric.warn_on_many_detections = False
    source, network = job.source, job.networks[0]
    to_model = match_classes(source, network.classes, network.num_classes).numpy()
    classes = network.classes or source.classes
    counts, seen, found = np.zeros(len(classes), dtype=np.int64), list[Seen](), dict[int, Detections]()
    bad: dict[int, ImageError] = {}
    start, done, size = perf_counter(), 0, job.batch_size or BATCH

    def read(index: int) -> _Read:
        image, objects = source.read(index), source.objects(index)
        numbered = objects._replace(labels=to_model[objects.labels])
        return _Read(index, network.preprocess.pixels(image), image.size, numbered)

    def batches() -> Iterator[list[_Read]]:
        batch = list[_Read]()
        for index, one in enumerate(read_ahead(source, read, job.workers)):
            if not isinstance(one, ImageError):
                batch.append(one)
            elif job.on_error == "raise":
                raise one
            else:
                bad[index] = one
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch

    with report_progress(job.progress, "evaluating") as report:
        for batch in batches():
            answers = find_objects(network, [one.pixels for one in batch], [one.size for one in batch])
            metric.update(*_for_coco(answers, [one.objects for one in batch]))
            for one, answer in zip(batch, answers, strict=True):
                counts += np.bincount(one.objects.labels, minlength=len(classes))
                found[one.place] = _sure(answer)
                seen.append(_compared(one.place, found[one.place], one.objects))
            done += len(batch)
            report(done + len(bad), len(source))
    if not seen:
        raise DataError(f"{source.name}, split {source.split}: none of the {len(bad):,} images can be read.")
    scores = metric.compute()
    result = DetectionResult(
        map=_share(scores["map"]),
        map_50=_share(scores["map_50"]),
        map_75=_share(scores["map_75"]),
        recall=_share(scores[f"mar_{MOST}"]),
        ap=_by_class(scores, classes, slice(None)),
        ap_50=_by_class(scores, classes, slice(0, 1)),
        objects=dict(zip(classes, counts.tolist(), strict=True)),
        classes=classes,
        images=len(seen),
        unreadable={index: str(error) for index, error in bad.items()},
        **job.about(start),
    )
    return Evaluated(
        result, (EXAMPLES,), partial(_draw, source, to_model, result, seen, found), partial(_columns, source, seen)
    )


def find_objects(network: OpenModel, pixels: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Detections]:
    """What a network finds, on the CPU, in pixels of the images.

    Args:
        network: for objects.
        pixels: of each image what its preprocessing makes, uint8 (C, size, size).
        sizes: width and height of each image.

    Raises:
        NonFiniteError: an output is NaN or infinite.
    """
    images, head = torch.stack(list(pixels)).to(network.device), network.network.architecture.head
    with inference_mode(network.network):
        ready = network.preprocess.normalize(images.contiguous(memory_format=torch.channels_last))
        outputs = network.network(ready).cpu()
    check_finite_logits(outputs.flatten(1))
    return [
        one._replace(boxes=to_image(one.boxes, size, head))
        for one, size in zip(detect(outputs, head), sizes, strict=True)
    ]


def _for_coco(answers: Sequence[Detections], objects: Sequence[Objects]) -> tuple[list[dict[str, Tensor]], ...]:
    """As torchmetrics takes them."""
    predicted = [one._asdict() for one in answers]
    true = [
        {
            "boxes": torch.from_numpy(one.boxes),
            "labels": torch.from_numpy(one.labels),
            "iscrowd": torch.from_numpy(one.crowd.astype(np.int64)),
        }
        for one in objects
    ]
    return predicted, true


def _share(value: Tensor) -> float:
    """0..1; 0 where torchmetrics has -1, as there is no object."""
    return max(0.0, float(value))


def _by_class(scores: dict[str, Any], classes: Sequence[str], overlaps: slice) -> dict[str, float | None]:
    """The average precision of each class over the first of the overlaps 0.5, 0.55, ..., 0.95; None without objects."""
    precision: Tensor = scores["precision"][overlaps, :, :, 0, -1]  # (overlaps, recalls, classes that occur)
    known = scores["classes"].reshape(-1).tolist()
    means = {label: float(precision[..., place].mean()) for place, label in enumerate(known)}
    return {name: share if (share := means.get(label, -1.0)) >= 0 else None for label, name in enumerate(classes)}


def _sure(one: Detections) -> Detections:
    return Detections(*(values[one.scores >= SURE] for values in one))


def _compared(index: int, found: Detections, objects: Objects) -> Seen:
    rows = np.concatenate([objects.labels[:, None], objects.boxes], 1)[~objects.crowd]
    right = int(match_objects(found, torch.from_numpy(rows).float()).sum())
    return Seen(index, len(rows), len(found.scores), right)


def _columns(source: Source, seen: Sequence[Seen]) -> dict[str, list[Any]]:
    """The table of all images: where each lies, its objects, and how many boxes with a score of SURE are right."""
    return {
        "image": [source.describe(one.place) for one in seen],
        "objects": [one.objects for one in seen],
        "found": [one.found for one in seen],
        "right": [one.right for one in seen],
        "f1": [one.f1 for one in seen],
    }


def _draw(
    source: Source,
    to_model: np.ndarray,
    result: DetectionResult,
    seen: Sequence[Seen],
    found: dict[int, Detections],
    out: Path,
) -> None:
    """Draw the best and the worst images.  Raises: StorageError; MissingDependencyError without matplotlib."""
    from vggnet.report.object_figures import DrawnBox, draw_found_objects  # matplotlib takes half a second

    ordered = sorted(seen, key=lambda one: -one.f1)
    shown = ordered if len(ordered) <= 2 * SHOWN else [*ordered[:SHOWN], *ordered[-SHOWN:]]
    examples = []
    for one in shown:
        objects, answer = source.objects(one.place), found[one.place]
        labels = to_model[objects.labels].tolist()
        true = [DrawnBox(*pair) for pair in zip(objects.boxes.tolist(), labels, strict=True)]
        columns = (answer.boxes.tolist(), answer.labels.tolist(), answer.scores.tolist())
        predicted = [DrawnBox(*row) for row in zip(*columns, strict=True)]
        scores = f"{one.right} of {one.objects} found, F1 {100 * one.f1:.1f} %"
        caption = f"{Path(source.describe(one.place)).name}\n{scores}"
        examples.append((source.read(one.place), true, predicted, caption))
    score = f"mAP at IoU 0.5 {100 * result.map_50:.2f} %"
    title = f"{Path(source.name).name} {source.split}: {score}; best and worst images"
    draw_found_objects(examples, result.classes, out / EXAMPLES, title=title)
