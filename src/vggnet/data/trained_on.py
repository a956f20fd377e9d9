"""What a network was trained on, by hashes of images: a file of the run folder that a test is compared with."""

from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from vggnet.data.hashing import Hashes
from vggnet.data.sources.source import Source
from vggnet.errors import RunError
from vggnet.files import check_readable, replacing

TRAINED_ON = "trained_on.npz"


class TrainedOn(NamedTuple):
    """The images of a training, eight bytes each. Those of the weights that it started from are among them."""

    train: Hashes  # sorted, those that the weights were trained on
    val: Hashes  # sorted, those that chose the best epoch
    hashes_contents: bool  # see `Source.hashes_contents`

    @classmethod
    def of(cls, source: Source, train: NDArray[np.int64], val_source: Source, val: NDArray[np.int64]) -> Self:
        """What a training sees.

        Args:
            source: the images.
            train: indices of those to train on, int64 (n,).
            val_source: the images to validate on.
            val: indices of those that choose the best epoch, int64 (n,).
        """
        hashes = np.unique(source.image_hashes[train]), np.unique(val_source.image_hashes[val])
        return cls(*hashes, source.hashes_contents)

    @classmethod
    def read(cls, model: Path) -> Self | None:
        """What weights were trained on; None if nothing says so.

        Args:
            model: a run folder, or the weights in one.

        Raises:
            RunError: the file is damaged.
        """
        path = (model if model.is_dir() else model.parent) / TRAINED_ON
        if not path.is_file():
            return None
        check_readable(path)
        try:
            with np.load(path) as stored:
                return cls(stored["train"].astype(np.uint64), stored["val"].astype(np.uint64), bool(stored["contents"]))
        except Exception as error:  # of whichever part of the format is damaged
            raise RunError(f"{path} is damaged ({error}). Restore it; without it a test is not compared.") from error

    def write(self, folder: Path) -> None:
        """Write the file into a run folder.

        Args:
            folder: of the run.

        Raises:
            StorageError: the disk refuses.
        """
        with replacing(folder / TRAINED_ON) as temporary, temporary.open("wb") as file:
            np.savez(file, train=self.train, val=self.val, contents=self.hashes_contents)

    def joined(self, earlier: "TrainedOn | None") -> "TrainedOn":
        """With the images of an earlier training that this one started from.

        Args:
            earlier: its images, if they are known.
        """
        if earlier is None or earlier.hashes_contents != self.hashes_contents:
            return self
        return self._replace(train=np.union1d(self.train, earlier.train), val=np.union1d(self.val, earlier.val))

    def among(self, source: Source) -> int | None:
        """How many images of a source were trained on; None if they cannot be compared.

        Args:
            source: the images of a test.
        """
        if source.hashes_contents != self.hashes_contents:
            return None
        return int(np.isin(source.image_hashes, self.train).sum())
