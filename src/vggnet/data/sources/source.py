"""One split of a labeled image data set, wherever it lies."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vggnet.data.decoding import StoredImage
from vggnet.errors import DataError


class Source(ABC):
    """Images by index, with labels and class names. Decoding happens on `read`, or after `open`, never before.

    A source can be sent to another process (loader workers).
    """

    def __init__(self, *, name: str, split: str, classes: Sequence[str], labels: NDArray[np.int64]) -> None:
        self.name = name
        self.split = split
        self.classes = tuple(classes)
        self.labels = labels  # (N,), index into classes

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def open(self, index: int) -> StoredImage:
        """The image, not decoded yet where it lies in a file.  Raises: ImageError, naming the image."""

    def read(self, index: int) -> Image.Image:
        """The decoded image, mode RGB.  Raises: ImageError, naming the image."""
        return self.open(index).decode()

    @abstractmethod
    def describe(self, index: int) -> str:
        """Where image `index` lies, for messages: a path, or a path and a row."""

    def boxes(self) -> NDArray[np.float64]:
        """One box an image, unchecked: (N, 4) left, top, right, bottom, as in `vggnet.data.boxes`.

        Raises: DataError if there are none.
        """
        raise DataError(
            f"{self.name}, split {self.split}: no boxes; expected a parquet column box (xmin, ymin, xmax, ymax), or "
            "beside each image of a class folder an XML file of the same name, as PASCAL VOC has it."
        )

    def ignored(self) -> list[str]:
        """Files that lie among the images but are not taken for images of a class."""
        return []

    @cached_property
    @abstractmethod
    def fingerprint(self) -> str:
        """Sixteen hex digits that change when the images, the labels or the class names change."""

    @property
    def contents(self) -> str:
        """The same, but not when the files are merely copied."""
        return self.fingerprint
