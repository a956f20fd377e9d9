"""The interface of a task: all that differs between classification, localization and the tasks to come.

The training loop, resuming, distribution and reports know this interface, and no task by its name.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar, NamedTuple, Self, TypeVar, get_args

import torch
from PIL import Image
from torch import Tensor

from vggnet.accel.precision import allowed_precision
from vggnet.data.augmentation import Augmented
from vggnet.data.formats import left_out_text
from vggnet.data.images import Picture, named_pictures, read_picture
from vggnet.data.loading import Batch
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.source import Annotation, Source, matching_text
from vggnet.data.workers import AnyView, ObjectsView, View
from vggnet.errors import ConfigError, DataError, ImageError, OnError
from vggnet.models.architecture import Architecture
from vggnet.models.vgg import VGG
from vggnet.progress import Progress, report_progress
from vggnet.report.text import Fact
from vggnet.tasks import TaskName, get_task
from vggnet.tasks.protocols import Name
from vggnet.weights.checkpoint import OpenModel

# What the outputs of a network are compared with: a tensor (N, ...), or a list with one item an image.
Targets = Any
EVAL_BATCH = 4  # times the training batch, for small images: no memory is held for a backward pass
Row = Mapping[str, Any]  # of history.jsonl
Result = TypeVar("Result")  # of a prediction


class Loss(NamedTuple):
    """The loss of a batch, summed over its images, and what the metrics of an epoch are computed from."""

    minimized: Tensor  # 0-d, with gradient
    sums: Tensor  # (len(Task.sums),), without gradient, by `stack_sums`


def stack_sums(*sums: Tensor) -> Tensor:
    """Numbers (0-d) side by side, in float64; in float32 on Apple's GPUs, which have no more."""
    precise = torch.float32 if sums[0].device.type == "mps" else torch.float64
    return torch.stack([each.detach().to(precise) for each in sums])


@dataclass(frozen=True, kw_only=True)
class EvaluationJob:
    """What is evaluated, and how; see `vggnet.evaluate`."""

    networks: Sequence[OpenModel]  # all of one task
    model: str  # what they are called
    source: Source
    data: str | Path  # where the source is from
    split: str
    protocol: Name
    scales: tuple[int, ...]
    flip: bool
    six_views: bool
    classifier: OpenModel | None
    classifier_name: str | None
    batch_size: int | None
    workers: int | None
    progress: Progress
    on_error: OnError = "raise"

    def about(self, start: float) -> dict[str, Any]:
        """What every result says: data, model, machine and time.

        Args:
            start: when the evaluation began, by `time.perf_counter`.
        """
        return {
            "notes": self._notes(),
            "data": str(self.data),
            "split": self.split,
            "fingerprint": self.source.fingerprint,
            "model": self.model,
            "seconds": perf_counter() - start,
            "device": str(self.networks[0].device),
            "torch": torch.__version__,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _notes(self) -> tuple[str, ...]:
        """What is left out of the data, how its classes are matched, and a precision other than float32."""
        ignored = self.source.ignored()
        matched = matching_text(self.source, self.networks[0].classes)
        on_cpu = self.networks[0].device.type == "cpu"
        rounded = "convolutions with products in bfloat16" if on_cpu and allowed_precision() == "bfloat16" else None
        return tuple(note for note in (left_out_text(ignored) if ignored else None, matched, rounded) if note)


class Evaluated(NamedTuple):
    """The result of an evaluation."""

    result: Any  # a frozen dataclass with `files`, `notes` and `error`
    figures: tuple[str, ...] = ()  # the names of the files that `write` draws
    write: Callable[[Path], None] = lambda folder: None  # writes what belongs to it into a folder
    columns: Callable[[], dict[str, list[Any]]] = dict  # of a table with one row an image


@dataclass(frozen=True, kw_only=True)
class PredictionJob:
    """How pictures are predicted; see `vggnet.predict`."""

    model: str  # what the network is called
    top: int | None
    classifier: OpenModel | None
    batch_size: int
    progress: Progress
    on_error: OnError

    def one_by_one(
        self,
        images: Sequence[Picture] | Picture,
        predict: Callable[[str, Image.Image], Result],
        unreadable: Callable[[str, str], Result],
    ) -> list[Result]:
        """The result for each picture, in the order given.

        Args:
            images: the pictures.
            predict: gives the result for a name and an upright picture.
            unreadable: gives the result for a name and why the picture cannot be read, with `on_error="return"`.

        Raises:
            ImageError: a picture cannot be read, with `on_error="raise"`.
        """
        found, pictures = list[Result](), list(named_pictures(images))
        with report_progress(self.progress, "predicting") as report:
            for name, image in pictures:
                try:
                    found.append(predict(name, read_picture(name, image)))
                except ImageError as error:
                    if self.on_error == "raise":
                        raise error.named(name) from error
                    found.append(unreadable(name, str(error.named(name))))
                report(len(found), len(pictures))
        return found


class Task(ABC):
    """What a network is trained for. An instance holds the options of one training, or the default ones."""

    name: ClassVar[str]
    # What the targets are made of, as `Source.annotation`; masks and objects are read with their images and are in the
    # batch.
    annotation: ClassVar[Annotation] = "label"
    masks: ClassVar[bool] = False  # whether each image of a batch comes with its mask
    keeps_decoded: ClassVar[bool] = True  # whether small images may be decoded once, before any view
    stretches: ClassVar[bool] = False  # whether images are stretched to squares, not cropped
    # How a report shows the loss and the metric that epochs are compared by: the titles of their axes, with units.
    axes: ClassVar[Mapping[str, str]] = {"loss": "loss (nats)", "accuracy": "accuracy (%)"}
    # What `write_predictions` writes by default: a file, or a folder if it has no suffix; None if it cannot be called.
    output: ClassVar[str | None] = None
    examples: ClassVar[str | None] = None  # a figure that `evaluate` draws and a report shows
    ranks_classes: ClassVar[bool] = False  # whether the outputs are logits of classes, a row for each image
    # Keys of a saved evaluation whose values must agree if two evaluations are to be compared.
    conditions: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def sums(self) -> tuple[str, ...]:
        """What is added up over the images of an epoch, and over processes."""

    def check_source(self, source: Source) -> None:
        """Raises: DataError if the images of a source have other annotations than the task needs."""
        if source.annotation != self.annotation:
            fitting = [name for name in get_args(TaskName) if get_task(name).annotation == source.annotation]
            raise DataError(
                f"{source.name} has {_said(source.annotation)} for each image, but the task {self.name} needs "
                f"{_said(self.annotation)}. Give other data, or train for another task: --task {' or '.join(fitting)}."
            )

    def configured(self, options: Mapping[str, Any]) -> Self:
        """The task with the options of a training.

        Args:
            options: as `TrainConfig.as_options` gives them.
        """
        return self

    def architecture_options(self) -> dict[str, Any]:
        """What `vggnet.models.vgg.build` is told about the outputs."""
        return {}

    def keeps_head(self, given: Architecture) -> bool:
        """Whether a training that starts from such weights starts with their head as well."""
        return False

    def train_view(self, view: AnyView | None, preprocess: Preprocess) -> AnyView | None:
        """What loader workers make of a training image.

        Args:
            view: of the augmentation that the options ask for; None for none.
            preprocess: of the training.

        Returns:
            The view, by which the targets of an image come with it where they are not `read_targets`; None for what
            `preprocess` does.
        """
        return view

    def val_view(self, preprocess: Preprocess) -> View | ObjectsView | None:
        """The same of a validation image."""
        return None

    def val_batch_size(self, batch_size: int, preprocess: Preprocess) -> int:
        """How many validation images are seen at once: more than in training if they are small.

        Args:
            batch_size: of the training.
            preprocess: of the training.
        """
        return batch_size * (EVAL_BATCH if preprocess.is_small else 1)

    @abstractmethod
    def read_targets(self, source: Source, preprocess: Preprocess, *, progress: Progress = False) -> Targets:
        """The targets of all images of a source, as the preprocessing shows them.

        Raises: DataError if there are none, or they cannot be; ImageError.
        """

    def fitted(self, targets: Targets, num_classes: int) -> Self:
        """The task once it is known what is trained on.

        Args:
            targets: of the training images.
            num_classes: of the data.
        """
        return self

    def take(self, targets: Targets, indices: Tensor) -> Targets:
        """The targets of the images at `indices`, int64 (n,)."""
        return targets[indices]

    def of_batch(self, targets: Targets, batch: Batch) -> Targets:
        """The targets of a batch before its augmentation: those of its images, or its masks or objects."""
        return self.take(targets, batch.indices)

    def follow(self, targets: Targets, augmented: Augmented) -> Targets:
        """The targets of a batch after its augmentation.

        Args:
            targets: of the n images, before it.
            augmented: what happened to each of them.
        """
        return targets

    def initialize(self, model: VGG, targets: Targets) -> None:
        """Change the last layer of an untrained network so that it starts from what the training targets say."""
        return

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Targets) -> Loss:
        """What a step minimizes.  outputs: (n, ...) of the network; targets: of the same n images."""

    def imitation(self, outputs: Tensor, answers: Tensor, temperature: float) -> Tensor:
        """How far outputs are from a teacher's, summed over the images: 0-d, with gradient of the outputs.

        Args:
            outputs: (n, ...) of the network that learns.
            answers: of the same shape, the teacher's.
            temperature: above 0; the higher, the more the small differences count.

        Raises:
            ConfigError: the task has no such loss.
        """
        raise ConfigError(f"teacher is given, but the task {self.name} has no loss against one. Leave it out.")

    def validation_sums(self, outputs: Tensor, targets: Targets) -> Tensor:
        """As `Loss.sums`, on the CPU, of images that are not trained on.  Raises: NonFiniteError."""
        return self.loss(outputs, targets).sums.cpu()

    @abstractmethod
    def metrics(self, sums: Sequence[float], images: int) -> dict[str, float]:
        """The metrics of an epoch, the loss first: `sums` over this many images."""

    def score(self, row: Row) -> float:
        """By what epochs are compared, higher is better; 0 for an epoch without validation.

        Args:
            row: of history.jsonl; validation metrics have the prefix "val_", those of training "train_".
        """
        return float(row.get("val_accuracy", 0.0))

    def advice(self, row: Row) -> str | None:
        """What to say about the row of an epoch after which a training should have learned something."""
        return None

    @abstractmethod
    def evaluate(self, job: "EvaluationJob") -> "Evaluated":
        """Evaluate networks of this task.  Raises: ConfigError, DataError, NonFiniteError as `vggnet.evaluate`."""

    @abstractmethod
    def predict(self, network: OpenModel, images: Sequence[Picture] | Picture, job: "PredictionJob") -> list[Any]:
        """A result for each picture, in the order given; each has a `name` and an `error`.

        Raises: ConfigError, ImageError, NonFiniteError as `vggnet.predict`.
        """

    @abstractmethod
    def evaluation_text(self, result: Any) -> str:
        """The result of `evaluate` for a terminal; the last line is the number that counts."""

    @abstractmethod
    def predictions_text(self, predictions: Sequence[Any]) -> str:
        """Results of `predict` for a terminal."""

    def write_predictions(self, images: Sequence[Picture] | Picture, predictions: Sequence[Any], path: Path) -> str:
        """Write results of `predict` on their pictures, and return what was written, for people; see `output`.

        Raises: StorageError; MissingDependencyError without matplotlib, if nothing else is written.
        """
        raise NotImplementedError

    def headline(self, result: Row) -> list[Fact]:
        """The numbers by which a report compares runs; those with a hint are shown first.

        Args:
            result: a saved evaluation (test.json).
        """
        return []

    def facts(self, result: Row) -> list[Fact]:
        """All that a report says about a saved evaluation, in order."""
        return []


def common_facts(result: Row) -> tuple[list[Fact], list[Fact]]:
    """What every evaluation has: its data and model, and its time and date."""
    data = [
        Fact("images", f"{result['images']:,} of {result['data']}, split {result['split']}"),
        Fact("data fingerprint", result["fingerprint"]),
        Fact("model", result["model"]),
    ]
    time = [Fact("time", f"{result['seconds']:,.1f} s on {result['device']}"), Fact("date", result["date"])]
    return data, time


def _said(annotation: Annotation) -> str:
    return annotation if annotation == "objects" else f"a {annotation}"


def percent(share: float | None, digits: int = 2) -> str:
    """0.5 -> "50.00 %"; "–" if it is not known."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def to_device(targets: Targets, device: torch.device) -> Targets:
    """Targets of a batch, each tensor of them on the device."""
    if isinstance(targets, Tensor):
        return targets.to(device, non_blocking=True)
    if isinstance(targets, dict):
        return {name: to_device(value, device) for name, value in targets.items()}
    return [to_device(value, device) for value in targets]


def split(targets: Targets, sizes: Sequence[int]) -> list[Targets]:
    """Targets of a batch in parts of so many images each."""
    if isinstance(targets, Tensor):
        return list(targets.split(list(sizes)))  # type: ignore[no-untyped-call]
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return [targets[end - size : end] for end, size in zip(ends, sizes, strict=True)]
