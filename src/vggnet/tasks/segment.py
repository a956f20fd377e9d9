"""Segmentation: a class for each pixel, cross-entropy, and intersection over union."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vggnet.data.augmentation import Augmented
from vggnet.data.decoding import StoredImage
from vggnet.data.images import Picture
from vggnet.data.loading import Batch
from vggnet.data.masks import IGNORED
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.source import Annotation, Source
from vggnet.data.workers import View
from vggnet.devices import usable_cores
from vggnet.errors import ConfigError, ImageError, OnError
from vggnet.metrics import check_finite_logits
from vggnet.models.architecture import Architecture
from vggnet.progress import Progress, report_progress
from vggnet.report.evaluation_text import masks_text, segmentation_text
from vggnet.report.text import Fact
from vggnet.tasks.mask_evaluation import evaluate_masks
from vggnet.tasks.mask_metrics import count_pixels, pixel_scores
from vggnet.tasks.mask_prediction import predict_masks, write_masks
from vggnet.tasks.results import EXAMPLES, PredictedMask, SegmentationResult
from vggnet.tasks.task import (
    Evaluated,
    EvaluationJob,
    Loss,
    PredictionJob,
    Row,
    Task,
    common_facts,
    percent,
    stack_sums,
)
from vggnet.weights.checkpoint import OpenModel

Weighting = Literal["none", "balanced"]


@dataclass(frozen=True)
class Segment(Task):
    """Predict the class of each pixel. The targets of a batch are its masks, uint8 (n, H, W) with IGNORED."""

    name: ClassVar[str] = "segment"
    annotation: ClassVar[Annotation] = "mask"
    masks: ClassVar[bool] = True
    keeps_decoded: ClassVar[bool] = False
    output: ClassVar[str | None] = "masks"
    examples: ClassVar[str | None] = EXAMPLES
    axes: ClassVar[Mapping[str, str]] = {"loss": "loss (nats)", "mean_iou": "mean IoU (%)"}
    conditions: ClassVar[tuple[str, ...]] = ("fingerprint", "split", "scales", "flip")

    class_weights: Weighting = "none"
    on_error: OnError = "raise"  # for masks that are read before the training
    weights: tuple[float, ...] = ()  # of each class in the loss; none for 1
    num_classes: int = 0  # of the data; 0 if they are not known

    @property
    def sums(self) -> tuple[str, ...]:
        """The loss, and of each class the pixels that are predicted rightly, that there are, and that are predicted."""
        kinds = ("correct", "true", "predicted")
        return ("loss", *(f"{kind} {index}" for kind in kinds for index in range(self.num_classes)))

    def configured(self, options: Mapping[str, Any]) -> "Segment":
        """With the class weights of a training."""
        on_error: OnError = "return" if options["on_bad_image"] == "skip" else "raise"
        return replace(self, class_weights=options["class_weights"], on_error=on_error)

    def keeps_head(self, given: Architecture) -> bool:
        """Whether the head is one for pixels."""
        return given.outputs == "masks"

    def val_view(self, preprocess: Preprocess) -> View:
        """Whole images."""
        return partial(_whole_view, preprocess=preprocess)

    def val_batch_size(self, batch_size: int, preprocess: Preprocess) -> int:
        """One: whole images differ in size."""
        return 1

    def read_targets(self, source: Source, preprocess: Preprocess, *, progress: Progress = False) -> Tensor:
        """How many pixels of each class each mask has, int64 (N, C), if class weights need it; else (N, 0).

        The masks themselves are read with their images, as there can be more than memory holds.
        """
        if self.class_weights == "none":
            return torch.zeros(len(source), 0, dtype=torch.int64)

        def count(index: int) -> Tensor:
            try:
                pixels = np.bincount(np.array(source.mask(index)).ravel(), minlength=IGNORED + 1)
            except ImageError:
                if self.on_error == "raise":
                    raise
                return torch.zeros(len(source.classes), dtype=torch.int64)
            return torch.from_numpy(pixels[: len(source.classes)])

        counts = []
        with ThreadPoolExecutor(usable_cores()) as pool, report_progress(progress, "counting pixels") as report:
            for done, pixels in enumerate(pool.map(count, range(len(source))), start=1):
                counts.append(pixels)
                report(done, len(source))
        return torch.stack(counts)

    def fitted(self, targets: Tensor, num_classes: int) -> "Segment":
        """With median frequency weights if asked for (Eigen & Fergus, arXiv:1411.4734, section 6.3.2).

        The frequency of a class is its share of the pixels of the images that it occurs in; its weight is the median of
        all frequencies over its own.
        """
        task = replace(self, num_classes=num_classes)
        if self.class_weights == "none":
            return task
        pixels = targets.double()
        of_images = (pixels.sum(1, keepdim=True) * (pixels > 0)).sum(0)
        frequencies = (pixels.sum(0) / of_images.clamp(min=1)).numpy()
        median = float(np.median(frequencies[frequencies > 0])) if frequencies.any() else 1.0
        return replace(task, weights=tuple(median / one if one else 1.0 for one in frequencies.tolist()))

    def of_batch(self, targets: Tensor, batch: Batch) -> Tensor:
        """The masks of the batch."""
        assert batch.masks is not None, "the batches were made without masks"
        return batch.masks

    def follow(self, targets: Tensor, augmented: Augmented) -> Tensor:
        """The masks, moved as the images are; what comes from beyond an image is ignored."""
        return augmented.move(targets, beyond=IGNORED)

    def loss(self, outputs: Tensor, targets: Tensor) -> Loss:
        """Cross-entropy (nats): its mean over the pixels of each image that count, summed over the images.

        outputs: (n, C, H, W); targets: (n, H, W). Only what is minimized has class weights.
        """
        num_images, num_classes = outputs.shape[:2]
        rows, true = outputs.movedim(1, -1).reshape(-1, num_classes), targets.flatten().long()
        losses = F.cross_entropy(rows, true, reduction="none", ignore_index=IGNORED).view(num_images, -1)
        count = (targets != IGNORED).flatten(1).sum(1).clamp(min=1)
        minimized = losses
        if self.weights:
            weights = outputs.new_tensor([*self.weights, *[0.0] * (IGNORED + 1 - num_classes)])
            minimized = losses * weights[true].view(num_images, -1)
        counts = count_pixels(rows.detach().argmax(1), true, num_classes)
        plain = (losses.detach().sum(1) / count).sum()
        sums = (plain, *counts.diagonal(), *counts.sum(1), *counts.sum(0))
        return Loss((minimized.sum(1) / count).sum(), stack_sums(*sums))

    def validation_sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """As `Loss.sums`.  Raises: NonFiniteError."""
        check_finite_logits(outputs.flatten(1))
        return self.loss(outputs, targets).sums.cpu()

    def metrics(self, sums: Sequence[float], images: int) -> dict[str, float]:
        """The mean loss in nats without class weights, mean IoU and pixel accuracy, 0..1."""
        loss, counts = sums[0], sums[1:]
        size = len(counts) // 3
        scores = pixel_scores(counts[:size], counts[size : 2 * size], counts[2 * size :])
        return {"loss": loss / images, "mean_iou": scores.mean_iou, "accuracy": scores.pixel_accuracy}

    def score(self, row: Row) -> float:
        """The mean IoU."""
        return float(row.get("val_mean_iou", 0.0))

    def evaluate(self, job: EvaluationJob) -> Evaluated:
        """By `evaluate_masks`, on whole images."""
        if job.protocol != "single" or job.six_views or job.classifier is not None or job.batch_size is not None:
            raise ConfigError(
                f"{job.model} gives a class for each pixel, and is evaluated on whole images, one by one, by scales "
                "and flip; leave out protocol, views, classifier and batch_size."
            )
        return evaluate_masks(job)

    def predict(
        self, network: OpenModel, images: Sequence[Picture] | Picture, job: PredictionJob
    ) -> list[PredictedMask]:
        """By `predict_masks`."""
        if job.classifier is not None or job.top is not None:
            raise ConfigError(
                f"{job.model} gives a class for each pixel; leave out classifier (--classifier) and top (--top)."
            )
        return predict_masks(network, images, job)

    def evaluation_text(self, result: SegmentationResult) -> str:
        """A table of the classes; the last line is the mean IoU."""
        return segmentation_text(result)

    def predictions_text(self, predictions: Sequence[PredictedMask]) -> str:
        """The share of each class in each picture."""
        return masks_text(predictions)

    def write_predictions(
        self, images: Sequence[Picture] | Picture, predictions: Sequence[PredictedMask], path: Path
    ) -> str:
        """Write the mask of each picture, and draw the first ones."""
        return write_masks(images, predictions, path)

    def headline(self, result: Row) -> list[Fact]:
        """Mean IoU, pixel accuracy and mean accuracy."""
        hint = f"over {len(result['classes'])} classes, {result['images']:,} images of {result['split']}"
        return [
            Fact(f"{result['split']} mean IoU", percent(result["mean_iou"]), hint),
            Fact("pixel accuracy", percent(result["pixel_accuracy"]), "share of the pixels"),
            Fact("mean accuracy", percent(result["mean_accuracy"])),
        ]

    def facts(self, result: Row) -> list[Fact]:
        """Data, model, views, and the metrics, with the IoU of each class."""
        data, time = common_facts(result)
        views = f"whole images, scale {', '.join(map(str, result['scales']))}"
        return [
            *data,
            Fact("views", f"{views}, and their mirror images" if result["flip"] else views),
            Fact("mean IoU", percent(result["mean_iou"])),
            Fact("pixel accuracy", percent(result["pixel_accuracy"])),
            Fact("mean accuracy", percent(result["mean_accuracy"])),
            Fact("loss", f"{result['loss']:.4f} nats"),
            *(Fact(f"IoU of {name}", percent(iou)) for name, iou in result["iou"].items()),
            *time,
        ]


def _whole_view(image: StoredImage, epoch: int, index: int, *, preprocess: Preprocess, nearest: bool = False) -> Tensor:
    return preprocess.whole(image.decode(), nearest=nearest)


TASK = Segment()
