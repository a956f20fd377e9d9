"""The training loop: mathematics only. It prints, saves and draws nothing."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor

from vggnet.data.counter_random import derive_seed
from vggnet.data.loading import Batch
from vggnet.errors import DataError, NonFiniteError
from vggnet.models.vgg import VGG
from vggnet.training.learner import Learner, check_finite_weights

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
    loss_sum: float = 0.0  # nats, over the images of the current epoch so far
    correct: int = 0
    images: int = 0
    seconds: float = 0.0  # spent on the current epoch
    rows: list[Row] = field(default_factory=list)  # one for each finished epoch
    skipped: dict[str, str] = field(default_factory=dict)  # index of each image that could not be read -> why

    def count(self, loss_sum: float, correct: int, images: int, seconds: float) -> None:
        """Add one step."""
        self.step += 1
        self.loss_sum += loss_sum
        self.correct += correct
        self.images += images
        self.seconds += seconds

    def finish_epoch(self, validation: Row, seconds: float) -> Row:
        """Close the epoch: its row is kept and the sums start again."""
        row = {
            "epoch": self.epoch + 1,
            "train_loss": self.loss_sum / self.images,
            "train_accuracy": self.correct / self.images,
            **validation,
            **({"skipped": len(self.skipped)} if self.skipped else {}),
            "seconds": self.seconds + seconds,
        }
        self.rows.append(row)
        self.epoch += 1
        self.step = self.correct = self.images = 0
        self.loss_sum = self.seconds = 0.0
        return row


def fit(
    learner: Learner,
    batches: Batches,
    *,
    prepare: Callable[[Tensor, Tensor, int], Tensor],
    validate: Callable[[VGG], Row],
    lr_factor: Callable[[int, list[Row]], float],
    epochs: int,
    seed: int,
    position: Position,
    after_step: Callable[[Position], None] = lambda position: None,
) -> Iterator[Row]:
    """Train from `position` on; yields the row of each epoch when it is finished.

    prepare: uint8 pixels (N, C, H, W) on the device, their indices, the epoch -> augmented, normalized float images.
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
            images = batch.images.to(learner.device, non_blocking=True)
            images = prepare(images, batch.indices, epoch) if len(images) else images
            labels = batch.labels.to(learner.device, non_blocking=True)
            try:
                loss_sum, correct, count = learner.train_step(images, labels)
            except NonFiniteError as error:
                raise NonFiniteError(
                    f"{error} at step {position.step + 1} of epoch {epoch + 1} (images {_shown(batch.indices)}). "
                    "Start again with a lower lr, or with batch norm (a _bn model)."
                ) from error
            now = perf_counter()
            position.count(loss_sum, correct, count, now - started)
            started = now
            after_step(position)
        ranks.unite(position.skipped)
        if not position.images:
            raise DataError(f"no training image can be read. The first is {next(iter(position.skipped.values()))}")
        learner.share_statistics()
        check_finite_weights(learner.kept)
        validation = validate(learner.kept)
        ranks.unite(position.skipped)
        yield position.finish_epoch(validation, perf_counter() - started)


def _shown(indices: Tensor) -> str:
    return ", ".join(map(str, indices[:5].tolist())) + (", ..." if len(indices) > 5 else "")
