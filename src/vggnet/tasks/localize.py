"""Localization (paper, appendix A): a box an image, Euclidean loss, and the share of boxes that overlap by half."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vggnet.data.augmentation import Augmented
from vggnet.data.boxes import read_boxes, to_crop
from vggnet.data.images import Picture
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.source import Source
from vggnet.errors import ConfigError
from vggnet.models.vgg import VGG
from vggnet.progress import Progress
from vggnet.report.evaluation_text import boxes_text, localization_text
from vggnet.report.text import Fact
from vggnet.tasks.box_evaluation import evaluate_boxes
from vggnet.tasks.box_geometry import decode, encode, is_correct
from vggnet.tasks.box_prediction import draw_found, predict_boxes
from vggnet.tasks.results import FoundBox, LocalizationResult
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
class Localize(Task):
    """Predict the box of the one object of an image.

    A target is (class, center x, center y, width, height), the last four in units of the crop.
    """

    name: ClassVar[str] = "localize"
    output: ClassVar[str | None] = "boxes.png"
    axes: ClassVar[Mapping[str, str]] = {"loss": "loss (boxes)", "accuracy": "correct boxes (%)"}
    conditions: ClassVar[tuple[str, ...]] = ("fingerprint", "split", "scales", "flip")

    boxes: Literal["shared", "per_class"] = "per_class"  # one box for all classes, or one for each
    crop: int = 224  # pixels

    @property
    def sums(self) -> tuple[str, ...]:
        """The loss, and how many boxes are correct."""
        return "loss", "correct"

    def configured(self, options: Mapping[str, Any]) -> "Localize":
        """With the boxes and the crop of a training."""
        return replace(self, boxes=options["boxes"], crop=options["crop"])

    def architecture_options(self) -> dict[str, Any]:
        """The last layer gives boxes."""
        return {"boxes": self.boxes}

    def read_targets(self, source: Source, preprocess: Preprocess, *, progress: Progress = False) -> Tensor:
        """float32 (N, 5).  Raises: DataError for a box that is missing or cannot be; ImageError."""
        values = torch.from_numpy(encode(to_crop(read_boxes(source, progress=progress), preprocess), preprocess.crop))
        return torch.cat([torch.from_numpy(source.labels)[:, None], values], 1).float()

    def follow(self, targets: Tensor, augmented: Augmented) -> Tensor:
        """The boxes (n, 5), shifted and mirrored as the images are."""
        draws = augmented.draws
        label, x, y, width, height = targets.unbind(1)
        x, y = x - draws.shift_x / augmented.width, y - draws.shift_y / augmented.height
        return torch.stack([label, torch.where(draws.flipped, 1 - x, x), y, width, height], 1)

    def initialize(self, model: VGG, targets: Tensor) -> None:
        """The last layer predicts the mean box of the targets (N, 5), or that of each class, and little else."""
        last = [module for module in model.head.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
        assert last.bias is not None
        labels, boxes = targets[:, 0], targets[:, 1:]
        num_boxes = len(last.bias) // 4
        means = boxes.mean(0).repeat(num_boxes, 1)
        if num_boxes > 1:
            for label in set(labels.int().tolist()):
                means[label] = boxes[labels == label].mean(0)
        with torch.no_grad():
            last.weight.normal_(std=1e-3)
            last.bias.copy_(means.flatten())

    def loss(self, outputs: Tensor, targets: Tensor) -> Loss:
        """Half the squared distance of the box of the target's class: outputs (n, 4) or (n, 4 K), targets (n, 5)."""
        rows = torch.arange(len(outputs), device=outputs.device)
        boxes = outputs.view(len(outputs), -1, 4)
        boxes = boxes[rows, targets[:, 0].long()] if boxes.shape[1] > 1 else boxes[:, 0]
        true = targets[:, 1:]
        loss = (boxes - true).square().sum() / 2
        found, wanted = (decode(values.detach().cpu().double().numpy(), self.crop) for values in (boxes, true))
        correct = torch.tensor(int(is_correct(found, wanted).sum()), device=loss.device)
        return Loss(loss, stack_sums(loss, correct))

    def metrics(self, sums: Sequence[float], images: int) -> dict[str, float]:
        """The mean loss and the share of correct boxes, 0..1."""
        loss, correct = sums
        return {"loss": loss / images, "accuracy": correct / images}

    def evaluate(self, job: EvaluationJob) -> Evaluated:
        """By `evaluate_boxes`, on whole images."""
        if job.protocol not in ("single", "dense") or job.six_views:
            raise ConfigError(
                f"{job.model} gives boxes, and is evaluated on whole images, by scales and flip; leave out protocol "
                "and views."
            )
        _check_classifier(job.classifier)
        return evaluate_boxes(job)

    def predict(self, network: OpenModel, images: Sequence[Picture] | Picture, job: PredictionJob) -> list[FoundBox]:
        """By `predict_boxes`."""
        if job.top is not None:
            raise ConfigError(f"{job.model} gives a box, of one class; leave out top (--top).")
        _check_classifier(job.classifier)
        return predict_boxes(network, images, job)

    def evaluation_text(self, result: LocalizationResult) -> str:
        """Errors beside those of constant boxes; the last line is the localization error with the class given."""
        return localization_text(result)

    def predictions_text(self, predictions: Sequence[FoundBox]) -> str:
        """The class, score and box of each picture."""
        return boxes_text(predictions)

    def write_predictions(
        self, images: Sequence[Picture] | Picture, predictions: Sequence[FoundBox], path: Path
    ) -> str:
        """Draw the first pictures with their boxes."""
        return f"drawn: {path}, {draw_found(images, predictions, path)} of {len(predictions)} pictures"

    def headline(self, result: Row) -> list[Fact]:
        """Localization error with the class given, and mean overlap."""
        error = percent(result["error_class_given"])
        hint = f"share of boxes with IoU <= 0.5, of {result['images']:,} images of {result['split']}"
        overlap = f"{result['mean_overlap']:.3f}"
        return [
            Fact("localization error, class given", error, hint),
            Fact("mean overlap", overlap, "IoU with the true box, 0 to 1"),
        ]

    def facts(self, result: Row) -> list[Fact]:
        """Data, model, views, and the errors beside those of constant boxes."""
        data, time = common_facts(result)
        views = f"all windows of whole images, scale {', '.join(map(str, result['scales']))}"
        facts = [
            *data,
            Fact("views", f"{views}, and their mirror images" if result["flip"] else views),
            Fact("localization error, class given", f"{percent(result['error_class_given'])} (IoU <= 0.5)"),
        ]
        if result["classifier"]:
            errors = f"{percent(result['error_top1'])}, top-5 {percent(result['error_top5'])}"
            facts.append(Fact("localization error, class predicted", f"{errors}, by {result['classifier']}"))
        facts.append(Fact("mean overlap", f"{result['mean_overlap']:.3f}"))
        facts.append(Fact("error of the whole image as a box", percent(result["error_whole_image"])))
        if result["error_constant_box"] is not None:
            facts.append(Fact("error of the best constant box of train", percent(result["error_constant_box"])))
        return [*facts, *time]


def _check_classifier(classifier: OpenModel | None) -> None:
    """Raises: ConfigError if it gives no classes."""
    if classifier is not None and classifier.task == Localize.name:
        raise ConfigError("this network gives boxes, not classes; give a classifier.")


TASK = Localize()
