"""Detection: a box and a class for each object, SSD's loss, and mean average precision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from vggnet.data.augmentation import Augmented
from vggnet.data.images import Picture
from vggnet.data.loading import Batch
from vggnet.data.object_views import stretched
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.source import Annotation, Source
from vggnet.data.workers import AnyView, ObjectsView
from vggnet.errors import ConfigError
from vggnet.metrics import check_finite_logits
from vggnet.models.architecture import Architecture
from vggnet.models.detection_heads import SSD
from vggnet.models.vgg import VGG
from vggnet.progress import Progress
from vggnet.report.evaluation_text import detection_text, objects_text
from vggnet.report.text import Fact
from vggnet.tasks.default_boxes import box_losses
from vggnet.tasks.default_boxes import detect as detect_objects
from vggnet.tasks.detection_evaluation import evaluate_detections
from vggnet.tasks.detection_metrics import (
    BINS,
    as_sums,
    average_precisions,
    count_found,
    from_sums,
    mean_precision,
)
from vggnet.tasks.detection_prediction import draw_objects, predict_objects
from vggnet.tasks.results import EXAMPLES, DetectionResult, FoundObjects
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


@dataclass(frozen=True)
class Detect(Task):
    """Find the objects on an image. The targets of a batch are a tensor (k, 5) for each image, as a view gives them."""

    name: ClassVar[str] = "detect"
    annotation: ClassVar[Annotation] = "objects"
    keeps_decoded: ClassVar[bool] = False
    stretches: ClassVar[bool] = True
    output: ClassVar[str | None] = "objects.png"
    examples: ClassVar[str | None] = EXAMPLES
    axes: ClassVar[Mapping[str, str]] = {"loss": "loss (nats + smooth L1)", "map_50": "mAP at IoU 0.5 (%)"}
    conditions: ClassVar[tuple[str, ...]] = ("fingerprint", "split")

    head: str = "ssd300"
    num_classes: int = 0  # of the data; 0 if they are not known

    @property
    def sums(self) -> tuple[str, ...]:
        """The loss, its part of places, and the counts of `vggnet.tasks.detection_metrics`."""
        counts = self.num_classes * (1 + 2 * BINS)
        return ("loss", "box_loss", *(f"count {number}" for number in range(counts)))

    def configured(self, options: Mapping[str, Any]) -> "Detect":
        """With the head of a training."""
        return replace(self, head=options["head"])

    def keeps_head(self, given: Architecture) -> bool:
        """Whether the head is one for objects."""
        return given.outputs == "detections"

    def train_view(self, view: AnyView | None, preprocess: Preprocess) -> ObjectsView:
        """The view of SSD's augmentation, or whole images with their objects."""
        return view if isinstance(view, ObjectsView) else self.val_view(preprocess)

    def val_view(self, preprocess: Preprocess) -> ObjectsView:
        """Whole images, stretched, with their objects."""
        return ObjectsView(partial(stretched, preprocess=preprocess))

    def val_batch_size(self, batch_size: int, preprocess: Preprocess) -> int:
        """That of the training."""
        return batch_size

    def read_targets(self, source: Source, preprocess: Preprocess, *, progress: Progress = False) -> Tensor:
        """Nothing, (N, 0): objects are read with their images, as views of these move them."""
        return torch.zeros(len(source), 0)

    def fitted(self, targets: Tensor, num_classes: int) -> "Detect":
        """With the number of classes."""
        return replace(self, num_classes=num_classes)

    def of_batch(self, targets: Tensor, batch: Batch) -> list[Tensor]:
        """The objects of each image of the batch."""
        assert batch.objects is not None, "the batches were made without objects"
        return list(batch.objects)

    def follow(self, targets: list[Tensor], augmented: Augmented) -> list[Tensor]:
        """The objects, mirrored as the images are."""
        return [
            _mirrored(objects, augmented.width) if flipped else objects
            for objects, flipped in zip(targets, augmented.draws.flipped.tolist(), strict=True)
        ]

    def initialize(self, model: VGG, targets: Tensor) -> None:
        """Start the head as SSD's authors do: He's larger weights would make the first losses huge."""
        assert isinstance(model.head, SSD)
        model.head.start()

    def loss(self, outputs: Tensor, targets: Sequence[Tensor]) -> Loss:
        """SSD's loss of each image, summed over the images: outputs (n, D, K + 5), n targets (k, 5)."""
        losses = [box_losses(of_image, objects, self.head) for of_image, objects in zip(outputs, targets, strict=True)]
        classes, places = (torch.stack(parts).sum() for parts in zip(*losses, strict=True))
        found = detect_objects(outputs.detach().cpu(), self.head)
        counts = sum(
            as_sums(count_found(one, objects.cpu(), self.num_classes))
            for one, objects in zip(found, targets, strict=True)
        )
        assert isinstance(counts, Tensor)
        minimized = classes + places
        return Loss(minimized, stack_sums(minimized, places, *counts.to(minimized.device)))

    def validation_sums(self, outputs: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """As `Loss.sums`.  Raises: NonFiniteError."""
        check_finite_logits(outputs.flatten(1))
        return self.loss(outputs, targets).sums.cpu()

    def metrics(self, sums: Sequence[float], images: int) -> dict[str, float]:
        """The mean loss, its part of places, and the mean average precision at an IoU of 0.5, 0..1."""
        loss, box_loss, *counts = sums
        found = from_sums(counts, len(counts) // (1 + 2 * BINS))
        precision = mean_precision(average_precisions(found))
        return {"loss": loss / images, "box_loss": box_loss / images, "map_50": precision}

    def score(self, row: Row) -> float:
        """The mean average precision at an IoU of 0.5."""
        return float(row.get("val_map_50", 0.0))

    def evaluate(self, job: EvaluationJob) -> Evaluated:
        """By `evaluate_detections`, on whole images."""
        others = (job.protocol != "single", job.six_views, job.classifier, job.scales, job.flip, len(job.networks) > 1)
        if any(others):
            raise ConfigError(
                f"{job.model} finds objects, and is evaluated on whole images, one model at a time; leave out "
                "protocol, scales, flip, views and classifier."
            )
        return evaluate_detections(job)

    def predict(
        self, network: OpenModel, images: Sequence[Picture] | Picture, job: PredictionJob
    ) -> list[FoundObjects]:
        """By `predict_objects`."""
        if job.classifier is not None:
            raise ConfigError(f"{job.model} finds objects and their classes; leave out classifier (--classifier).")
        return predict_objects(network, images, job)

    def evaluation_text(self, result: DetectionResult) -> str:
        """A table of the classes; the last line is the mean average precision at an IoU of 0.5."""
        return detection_text(result)

    def predictions_text(self, predictions: Sequence[FoundObjects]) -> str:
        """The class, score and box of each object."""
        return objects_text(predictions)

    def write_predictions(
        self, images: Sequence[Picture] | Picture, predictions: Sequence[FoundObjects], path: Path
    ) -> str:
        """Draw the first pictures with their objects."""
        return draw_objects(images, predictions, path)

    def headline(self, result: Row) -> list[Fact]:
        """Mean average precision at an IoU of 0.5, and over those from 0.5 to 0.95."""
        count = sum(result["objects"].values())
        hint = f"{count:,} objects of {len(result['classes'])} classes on {result['images']:,} images"
        return [
            Fact(f"{result['split']} mAP at IoU 0.5", percent(result["map_50"]), hint),
            Fact("mAP at IoU 0.5 to 0.95", percent(result["map"]), "as COCO has it"),
        ]

    def facts(self, result: Row) -> list[Fact]:
        """Data, model, and the metrics, with the average precision of each class."""
        data, time = common_facts(result)
        return [
            *data,
            Fact("mAP at IoU 0.5", percent(result["map_50"])),
            Fact("mAP at IoU 0.5 to 0.95", percent(result["map"])),
            Fact("mAP at IoU 0.75", percent(result["map_75"])),
            Fact("recall, 100 boxes an image", percent(result["recall"])),
            *(Fact(f"average precision of {name}", percent(share)) for name, share in result["ap_50"].items()),
            *time,
        ]


def _mirrored(objects: Tensor, width: int) -> Tensor:
    label, left, top, right, bottom = objects.unbind(1)
    return torch.stack([label, width - right, top, width - left, bottom], 1)


TASK = Detect()
