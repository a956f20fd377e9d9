"""Classification: one label an image, cross-entropy, and the share of labels that are predicted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.source import Source
from vggnet.metrics import check_finite_logits, wilson_interval
from vggnet.models.vgg import Architecture
from vggnet.progress import Progress
from vggnet.report.text import Fact
from vggnet.tasks.task import Loss, Row, Task, common_facts, percent


@dataclass(frozen=True)
class Classify(Task):
    """Predict the class of an image."""

    name: ClassVar[str] = "classify"
    outputs: ClassVar[Literal["scores", "boxes"]] = "scores"
    sums: ClassVar[tuple[str, ...]] = ("loss", "correct")
    conditions: ClassVar[tuple[str, ...]] = ("fingerprint", "split", "protocol", "views")

    label_smoothing: float = 0.0  # share of each label that is spread over all classes

    def configured(self, options: Mapping[str, Any]) -> "Classify":
        """With the label smoothing of a training."""
        return replace(self, label_smoothing=options["label_smoothing"])

    def keeps_head(self, given: Architecture) -> bool:
        """Whether the head is one for class scores."""
        return given.boxes is None

    def read_targets(self, source: Source, preprocess: Preprocess, *, progress: Progress = False) -> Tensor:
        """The labels: int64 (N,)."""
        return torch.from_numpy(source.labels)

    def loss(self, outputs: Tensor, targets: Tensor) -> Loss:
        """Cross-entropy (nats) of logits (n, K) and labels (n,); the sums are without label smoothing."""
        minimized = F.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing, reduction="sum")
        logits = outputs.detach()
        plain = F.cross_entropy(logits, targets, reduction="sum")
        return Loss(minimized, torch.stack([plain.double(), (logits.argmax(1) == targets).sum().double()]))

    def validation_sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """In float64 on the CPU, so that the device changes no result.  Raises: NonFiniteError."""
        check_finite_logits(outputs)
        logits, labels = outputs.detach().cpu().double(), targets.cpu()
        losses = F.nll_loss(logits.log_softmax(1), labels, reduction="none")
        return torch.stack([losses.sum(), (logits.argmax(1) == labels).sum().double()])

    def metrics(self, sums: Sequence[float], images: int) -> dict[str, float]:
        """The mean loss in nats and the accuracy, 0..1."""
        loss, correct = sums
        return {"loss": loss / images, "accuracy": correct / images}

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
