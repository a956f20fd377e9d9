"""The history of a run as TensorBoard events."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from vggnet.errors import StorageError
from vggnet.training.loop import Row


class Events:
    """Scalars by epoch, while entered. `epoch` is the first to come; later ones of an interrupted run are dropped."""

    def __init__(self, folder: Path, epoch: int) -> None:
        self.folder = folder
        self.epoch = epoch

    def __enter__(self) -> Self:
        with self._on_disk():
            self.writer = SummaryWriter(str(self.folder), purge_step=self.epoch)
        return self

    def write(self, row: Row, lr: float) -> None:
        """Add the row of one epoch and its last learning rate.  Raises: StorageError."""
        with self._on_disk():
            for name, value in {**row, "lr": lr}.items():
                if name != "epoch":
                    self.writer.add_scalar(name, value, row["epoch"])

    def __exit__(self, *raised: object) -> None:
        """Write what is still in memory.  Raises: StorageError."""
        with self._on_disk():
            self.writer.close()

    @contextmanager
    def _on_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"{self.folder}: TensorBoard events cannot be written ({error}). Make room, then go on with --resume."
            ) from error
