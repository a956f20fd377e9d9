"""Classification: one label an image, cross-entropy, and the share of labels that are predicted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vggnet.data.images import Picture
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.source import Source
from vggnet.errors import ConfigError
from vggnet.metrics import check_finite_logits, wilson_interval
from vggnet.models.architecture import Architecture
from vggnet.progress import Progress
from vggnet.report.evaluation_text import evaluation_text, predictions_text
from vggnet.report.text import Fact
from vggnet.tasks.class_evaluation import evaluate_classes
from vggnet.tasks.class_prediction import predict_classes
from vggnet.tasks.results import EvaluationResult, Prediction
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
class Classify(Task):
    """Predict the class of an image."""

    name: ClassVar[str] = "classify"
    ranks_classes: ClassVar[bool] = True
    conditions: ClassVar[tuple[str, ...]] = ("fingerprint", "split", "protocol", "views")

    label_smoothing: float = 0.0  # share of each label that is spread over all classes
    class_weights: Literal["none", "balanced"] = "none"
    weights: tuple[float, ...] = ()  # of each class in the loss; none for 1
    num_classes: int = 0  # of the data; 0 if they are not known

    @property
    def sums(self) -> tuple[str, ...]:
        """The loss, how many are correct, and the loss with class weights if there are any."""
        return ("loss", "correct", "weighted_loss") if self.weights else ("loss", "correct")

    def configured(self, options: Mapping[str, Any]) -> "Classify":
        """With the label smoothing and class weights of a training."""
        return replace(self, label_smoothing=options["label_smoothing"], class_weights=options["class_weights"])

    def fitted(self, targets: Tensor, num_classes: int) -> "Classify":
        """With balanced weights if asked for: N / (C n) for a class with n of the N images, so that their mean is 1."""
        task = replace(self, num_classes=num_classes)
        if self.class_weights == "none":
            return task
        images = targets.bincount(minlength=num_classes).clamp(min=1)  # a class without images meets no weight
        return replace(task, weights=tuple((len(targets) / (num_classes * images.double())).tolist()))

    def keeps_head(self, given: Architecture) -> bool:
        """Whether the head is one for class scores."""
        return given.boxes is None

    def read_targets(self, source: Source, preprocess: Preprocess, *, progress: Progress = False) -> Tensor:
        """The labels: int64 (N,)."""
        return torch.from_numpy(source.labels)

    def loss(self, outputs: Tensor, targets: Tensor) -> Loss:
        """Cross-entropy (nats) of logits (n, K) and labels (n,), with class weights; no sum has label smoothing."""
        logits = outputs.detach()
        correct = (logits.argmax(1) == targets).sum()
        if not self.weights:
            minimized = F.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing, reduction="sum")
            plain = F.cross_entropy(logits, targets, reduction="sum")
            return Loss(minimized, stack_sums(plain, correct))
        weights = outputs.new_tensor(self.weights)[targets]
        minimized = F.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing, reduction="none") @ weights
        losses = F.cross_entropy(logits, targets, reduction="none")
        return Loss(minimized, stack_sums(losses.sum(), correct, losses @ weights))

    def imitation(self, outputs: Tensor, answers: Tensor, temperature: float) -> Tensor:
        """T^2 KL(teacher || network) of the probabilities at temperature T, in nats (Hinton et al. 2015, section 2)."""
        found, wanted = ((logits / temperature).log_softmax(1) for logits in (outputs, answers))
        return temperature**2 * F.kl_div(found, wanted, reduction="sum", log_target=True)

    def validation_sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """In float64 on the CPU, so that the device changes no result.  Raises: NonFiniteError."""
        check_finite_logits(outputs)
        logits, labels = outputs.detach().cpu().double(), targets.cpu()
        losses = F.nll_loss(logits.log_softmax(1), labels, reduction="none")
        weighted = [losses @ losses.new_tensor(self.weights)[labels]] if self.weights else []
        return torch.stack([losses.sum(), (logits.argmax(1) == labels).sum().double(), *weighted])

    def metrics(self, sums: Sequence[float], images: int) -> dict[str, float]:
        """The mean loss in nats and the accuracy, 0..1; with class weights also the mean of the weighted loss."""
        loss, correct, *weighted = sums
        means = {"loss": loss / images, "accuracy": correct / images}
        return means | ({"weighted_loss": weighted[0] / images} if weighted else {})

    def advice(self, row: Row) -> str | None:
        """Advice if the loss is still that of a network that gives every class the same probability."""
        chance = log(max(self.num_classes, 1))
        if self.num_classes < 2 or row["train_loss"] < 0.98 * chance:
            return None
        return (
            f"the loss is {row['train_loss']:.3f}, and ln({self.num_classes}) = {chance:.3f} is that of guessing: "
            "nothing has been learned so far. Deep networks without batch norm often start so; take a _bn model, "
            "--init he, another --lr, or weights to start from (--init-from)."
        )

    def evaluate(self, job: EvaluationJob) -> Evaluated:
        """By `evaluate_classes`."""
        if job.classifier is not None:
            raise ConfigError(f"{job.model} gives classes; classifier (--classifier) is for models that give boxes.")
        return evaluate_classes(job)

    def predict(self, network: OpenModel, images: Sequence[Picture] | Picture, job: PredictionJob) -> list[Prediction]:
        """By `predict_classes`."""
        if job.classifier is not None:
            raise ConfigError(f"{job.model} gives classes; leave out classifier (--classifier).")
        return predict_classes(network, images, job)

    def evaluation_text(self, result: EvaluationResult) -> str:
        """A table of the classes if there are few; the last line is the accuracy."""
        return evaluation_text(result)

    def predictions_text(self, predictions: Sequence[Prediction]) -> str:
        """A line for each class of a picture."""
        return predictions_text(predictions)

    def headline(self, result: Row) -> list[Fact]:
        """Accuracy with its interval, loss and calibration error."""
        low, high = wilson_interval(result["top1"], result["images"])
        interval, split = f"{percent(low, 1)} to {percent(high, 1)}", result["split"]
        hint = f"{interval}: 95 % interval of {result['images']:,} images"
        return [
            Fact(f"{split} accuracy", percent(result["top1"]), hint),
            Fact("95 % interval", interval),
            Fact(f"{split} loss", f"{result['loss']:.4f}"),
            Fact("calibration error", percent(result["calibration_error"]), "mean gap of confidence and accuracy"),
        ]

    def facts(self, result: Row) -> list[Fact]:
        """Data, model, protocol, accuracy and loss."""
        data, time = common_facts(result)
        views = "1 view" if result["views"] == 1 else f"{result['views']} views"
        scales = ", ".join(map(str, result["scales"]))
        top5 = [Fact("top-5 accuracy", percent(result["top5"]))] if len(result["classes"]) > 5 else []
        return [
            *data,
            Fact("protocol", f"{result['protocol']}, {views} of each image, scale {scales}"),
            Fact("top-1 accuracy", percent(result["top1"])),
            *top5,
            Fact("loss", f"{result['loss']:.4f} nats"),
            *time,
        ]


TASK = Classify()
