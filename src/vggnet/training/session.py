"""A training with checkpoints: the loop of `fit`, what is saved between its steps, and what is shown of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from vggnet.accel.autotuning import autotuner
from vggnet.accel.precision import products_in
from vggnet.data.loading import Batch
from vggnet.errors import NonFiniteError
from vggnet.models.vgg import VGG
from vggnet.progress import Progress
from vggnet.tasks.task import Targets
from vggnet.training.checkpoints import Checkpoints
from vggnet.training.config import TrainConfig
from vggnet.training.console import Console
from vggnet.training.learner import Learner
from vggnet.training.loop import Batches, Position, Row, fit
from vggnet.training.run import best_row
from vggnet.training.schedules import has_ended, lr_factor
from vggnet.training.signals import StopRequest, stop_on_signal


class _StoppedError(Exception):
    """The user asked to stop, and a checkpoint was saved."""


@contextmanager
def open_session(
    config: TrainConfig,
    learner: Learner,
    batches: Batches,
    *,
    prepare: Callable[[Batch, int], tuple[Tensor, Targets]],
    validate: Callable[[VGG], Row],
    folder: Path,
    progress: Progress = False,
    skipped: dict[str, str] | None = None,
) -> Iterator["Session"]:
    """Restore the newest checkpoint if there is one; within the block Ctrl-C ends the training after a step.

    Args:
        config: of the training.
        learner: its network and optimizer, which are restored.
        batches: of the training images.
        prepare: see `fit`.
        validate: see `fit`.
        folder: of the checkpoints.
        progress: see `Console`.
        skipped: what `batches` fills with the images that cannot be read; see `Position.skipped`.

    Raises:
        RunError: no checkpoint is sound.
    """
    ranks, checkpoints = learner.ranks, Checkpoints(folder)
    shown = progress if ranks.is_first else False
    with (
        stop_on_signal(repeated=ranks.size > 1) as stop,
        Console(learner.task, config.schedule.epochs, len(batches), progress=shown) as console,
    ):
        position, damaged = checkpoints.restore(learner)
        for message in damaged:
            console.note(f"{message} Going on from an older checkpoint.")
        if skipped is not None:
            skipped.update(position.skipped)
            position.skipped = skipped
        in_bfloat16 = config.run.precision == "bfloat16" and learner.device.type == "cpu"
        precision = products_in("bfloat16") if in_bfloat16 else nullcontext()
        with precision, autotuner().fixed(checkpoints.choices):
            yield Session(config, learner, batches, prepare, validate, position, checkpoints, console, stop)


@dataclass(frozen=True)
class Session:
    """A training that is saved as it goes, and goes on from where it was saved."""

    config: TrainConfig
    learner: Learner
    batches: Batches
    prepare: Callable[[Batch, int], tuple[Tensor, Targets]]
    validate: Callable[[VGG], Row]
    position: Position
    checkpoints: Checkpoints
    console: Console
    stop: StopRequest

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the run has ended early as its configuration says."""
        return has_ended(self.config, self.position.rows)

    def save(self) -> None:
        """Save a checkpoint of this position, unless there is one.  Raises: NonFiniteError, StorageError."""
        self.checkpoints.save(self.learner, self.position)

    def epochs(self, before_saving: Callable[[list[Row]], None] = lambda rows: None) -> Iterator[Row]:
        """The row of each epoch once its checkpoint is saved, until the end or Ctrl-C.

        Args:
            before_saving: called with all rows before that checkpoint, for what must be there once it is.

        Raises:
            NonFiniteError, DataError: as `fit`.
            StorageError: the disk refuses; older checkpoints remain.
        """
        rows = fit(
            self.learner,
            self.batches,
            prepare=self.prepare,
            validate=self.validate,
            lr_factor=partial(lr_factor, self.config, len(self.batches)),
            epochs=self.config.schedule.epochs,
            seed=self.config.run.seed,
            position=self.position,
            after_step=self._after_step,
        )
        try:
            while not self.finished:
                self.console.begin(self.position)
                row = next(rows)
                before_saving(self.position.rows)
                self.save()
                yield row
                self.console.epoch(row, best_row(self.learner.task, self.position.rows))
                if any(self.learner.ranks.sum(self.stop.requested)):
                    return
        except NonFiniteError as error:
            kept = " The last checkpoint is sound." if any(self.checkpoints.folder.glob("*.safetensors")) else ""
            raise NonFiniteError(f"{error}{kept}") from error
        except _StoppedError:
            return

    def last_lr(self) -> float:
        """The learning rate of the last step of the last epoch."""
        steps, rows = len(self.batches), self.position.rows[:-1]
        return self.config.optimizer.lr * lr_factor(self.config, steps, self.position.epoch * steps - 1, rows)

    def _after_step(self, position: Position) -> None:
        """Between two steps the bar moves, checkpoints are saved, and Ctrl-C is heard."""
        self.console.step(position)
        ranks, minutes = self.learner.ranks, self.config.run.checkpoint_minutes
        stops, due = ranks.sum(self.stop.requested, ranks.is_first and self.checkpoints.is_due(minutes))
        if stops or due:
            ranks.unite(position.skipped)
            self.save()
        if stops:
            raise _StoppedError
