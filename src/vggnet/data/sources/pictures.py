"""Images in memory, or of scattered files, with labels in a list."""

from collections.abc import Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vggnet.data.decoding import StoredImage, as_viewed, open_image
from vggnet.data.hashing import hash_bytes, hash_files
from vggnet.data.sources.source import Source
from vggnet.errors import DataError

Held = Path | str | Image.Image | NDArray[np.uint8]


class Pictures(Source):
    """The training images of a data set that a program holds, for `vggnet.train`.

    Args:
        pictures: paths, PIL images, or uint8 arrays (H, W, 3) or (H, W).
        labels: of each picture the index of its class.
        classes: names of the classes.

    Raises:
        DataError: there are other numbers of labels and pictures, or a label is no index of `classes`.

    Example:
        >>> source = Pictures([np.zeros((8, 8, 3), np.uint8)] * 2, [0, 1], ["cat", "dog"])
        >>> len(source), source.read(1).size, source.describe(1)
        (2, (8, 8), 'image 2')
    """

    def __init__(self, pictures: Sequence[Held], labels: Sequence[int], classes: Sequence[str]) -> None:
        array = np.asarray(labels, dtype=np.int64)
        if array.shape != (len(pictures),) or not all(0 <= label < len(classes) for label in array):
            raise DataError(
                f"{len(pictures)} pictures have labels of shape {array.shape}; expected one for each, from 0 to "
                f"{len(classes) - 1}."
            )
        super().__init__(name="pictures", split="train", classes=classes, labels=array)
        self._pictures = pictures

    def open(self, index: int) -> StoredImage:
        """From its file, or from memory."""
        picture = self._pictures[index]
        if isinstance(picture, str | Path):
            return open_image(Path(picture).expanduser())
        return StoredImage(as_viewed(picture), self.describe(index))

    def describe(self, index: int) -> str:
        """Its path, or "image 3" for the third."""
        picture = self._pictures[index]
        return str(picture) if isinstance(picture, str | Path) else f"image {index + 1}"

    @cached_property
    def image_hashes(self) -> NDArray[np.uint64]:
        """Of the files, and of the sizes and pixels of what is in memory."""
        hashes = np.zeros(len(self), dtype=np.uint64)
        files = [index for index, picture in enumerate(self._pictures) if isinstance(picture, str | Path)]
        hashes[files] = hash_files([Path(self.describe(index)).expanduser() for index in files])
        for index in set(range(len(self))).difference(files):
            image = self.read(index)
            hashes[index] = hash_bytes(repr(image.size).encode() + image.tobytes())
        return hashes

    @cached_property
    def pixels_key(self) -> str:
        """Of the hashes."""
        return blake2b(self.image_hashes.tobytes(), digest_size=8).hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """Of hashes, labels and class names."""
        facts = self.image_hashes.tobytes() + self.labels.tobytes() + "\0".join(self.classes).encode()
        return blake2b(facts, digest_size=8).hexdigest()
