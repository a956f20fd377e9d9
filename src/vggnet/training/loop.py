"""The training loop: mathematics only. It prints, saves and draws nothing."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor

from vggnet.data.counter_random import derive_seed
from vggnet.data.loading import Batch
from vggnet.data.preprocess import Preprocess
from vggnet.errors import DataError, NonFiniteError
from vggnet.models.vgg import VGG
from vggnet.tasks.task import Targets, Task, to_device
from vggnet.training.distributed import ALONE, Ranks
from vggnet.training.learner import Learner, check_finite_weights
from vggnet.weights.checkpoint import inference_mode

Row = dict[str, Any]  # of history.jsonl


class Batches(Protocol):
    """What an epoch is made of; `TrainBatches`, or what stands for it."""

    def __len__(self) -> int:
        """Batches an epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from batch `start` on."""


@dataclass
class Position:
    """How far a run has come; with the tensors, all that a resumed run needs.

    A batch of which no image can be read is a step as well, on which nothing is learnt.
    """

    epoch: int = 0  # epochs finished
    step: int = 0  # steps done in the current epoch
    sums: list[float] = field(default_factory=list)  # the task's, over the images of the current epoch so far
    images: int = 0
    seconds: float = 0.0  # spent on the current epoch
    rows: list[Row] = field(default_factory=list)  # one for each finished epoch
    skipped: dict[str, str] = field(default_factory=dict)  # index of each image that could not be read -> why

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Position":
        """The inverse of `dataclasses.asdict`, also for checkpoints of version 0.1."""
        if "loss_sum" in values:
            loss, correct = values.pop("loss_sum"), values.pop("correct")
            values["sums"] = [loss, correct] if values["images"] else []
        return cls(**values)

    def count(self, sums: list[float], images: int, seconds: float) -> None:
        """Add one step."""
        self.step += 1
        self.sums = [one + other for one, other in zip(self.sums, sums, strict=True)] if self.sums else list(sums)
        self.images += images
        self.seconds += seconds

    def finish_epoch(self, task: Task, validation: Row, seconds: float) -> Row:
        """Close the epoch: its row is kept and the sums start again."""
        row = {
            "epoch": self.epoch + 1,
            **{f"train_{name}": value for name, value in task.metrics(self.sums, self.images).items()},
            **validation,
            **({"skipped": len(self.skipped)} if self.skipped else {}),
            "seconds": self.seconds + seconds,
        }
        self.rows.append(row)
        self.epoch += 1
        self.step = self.images = 0
        self.sums, self.seconds = [], 0.0
        return row


def fit(
    learner: Learner,
    batches: Batches,
    *,
    prepare: Callable[[Batch, int], tuple[Tensor, Targets]],
    validate: Callable[[VGG], Row],
    lr_factor: Callable[[int, list[Row]], float],
    epochs: int,
    seed: int,
    position: Position,
    after_step: Callable[[Position], None] = lambda position: None,
) -> Iterator[Row]:
    """Train from `position` on; yields the row of each epoch when it is finished.

    prepare: a batch, not empty, and the epoch -> augmented, normalized float images on the device, and their targets.
    validate: called with the weights to keep after each epoch -> columns to add to its row.
    lr_factor: step of the whole run, rows of the epochs before it -> factor on each group's base_lr.
    after_step: called with the position after every step; the place for checkpoints and progress.
    Every random draw is a function of `seed` and the position (torch's global generator is seeded at each step), so
    a run that goes on from a saved position repeats the uninterrupted one exactly.
    In several processes (`learner.ranks`) each has its shares of the batches, and all yield the same rows.
    Raises: NonFiniteError, naming epoch and step, before anything non-finite is kept; DataError after an epoch of which
        no image could be read.
    """
    steps_per_epoch, ranks = len(batches), learner.ranks
    for epoch in range(position.epoch, epochs):
        learner.train()
        started = perf_counter()
        for batch in ranks.each(batches.epoch(epoch, start=position.step)):
            # each share has a dropout of its own
            torch.manual_seed(derive_seed(seed, epoch, position.step) + ranks.rank)
            factor = lr_factor(epoch * steps_per_epoch + position.step, position.rows)
            for group in learner.optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            images, targets = prepare(batch, epoch) if len(batch.indices) else (batch.images, [])
            try:
                sums, count = learner.train_step(images, targets)
            except NonFiniteError as error:
                raise NonFiniteError(
                    f"{error} at step {position.step + 1} of epoch {epoch + 1} (images {_shown(batch.indices)}). "
                    "Start again with a lower lr, or with batch norm (a _bn model)."
                ) from error
            now = perf_counter()
            position.count(sums, count, now - started)
            started = now
            after_step(position)
        ranks.unite(position.skipped)
        if not position.images:
            raise DataError(f"no training image can be read. The first is {next(iter(position.skipped.values()))}")
        learner.share_statistics()
        kept = learner.kept
        check_finite_weights(kept)
        validation = validate(kept)
        ranks.unite(position.skipped)
        yield position.finish_epoch(learner.task, validation, perf_counter() - started)


def make_validator(
    task: Task,
    batches: Iterable[Batch],
    *,
    preprocess: Preprocess,
    targets: Targets,
    images: int,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> Callable[[VGG], Row]:
    """A function of the weights to keep that returns the validation columns of an epoch's row.

    Each image is counted once, by one of the processes.

    Args:
        task: gives the sums and metrics.
        batches: this process's share of the validation images.
        targets: of all images of the source.
        images: how many there are to validate on; without any there are no columns.
        device: of the network.
        ranks: the processes.

    Raises: by the function: NonFiniteError, ImageError; DataError if not one of the images can be read.
    """

    def sums_of(model: VGG) -> tuple[list[float], int]:
        sums, count = [0.0] * len(task.sums), 0
        with inference_mode(model):
            for batch in batches:
                outputs = model(preprocess.normalize(batch.images.to(device, non_blocking=True)))
                true = to_device(task.of_batch(targets, batch), device)
                found = task.validation_sums(outputs, true).tolist()
                sums = [total + value for total, value in zip(sums, found, strict=True)]
                count += len(batch.indices)
        return sums, count

    def validate(model: VGG) -> Row:
        if not images:
            return {}
        sums, count = ranks.together(sums_of, model)
        *sums, readable = ranks.sum(*sums, count)
        if not readable:
            raise DataError("no validation image can be read. Mend them, or give another seed or val_fraction.")
        return {f"val_{name}": value for name, value in task.metrics(sums, int(readable)).items()}

    return validate


def _shown(indices: Tensor) -> str:
    return ", ".join(map(str, indices[:5].tolist())) + (", ..." if len(indices) > 5 else "")
