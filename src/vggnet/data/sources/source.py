"""One split of a labeled image data set, wherever it lies."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from copy import copy
from functools import cached_property
from hashlib import blake2b
from typing import Literal, NamedTuple
from unicodedata import normalize

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vggnet.data.decoding import StoredImage
from vggnet.data.hashing import hash_bytes
from vggnet.data.objects import Objects
from vggnet.errors import DataError

Annotation = Literal["label", "mask", "objects"]
SPLITS = ("train", "val", "test")  # the usual ones, in the order to list them
_OTHER_NAMES = {
    "training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test",
}  # fmt: skip


def usual_split(name: str) -> str | None:
    """The split of `SPLITS` that a name stands for, in any case; None for other names.

    Args:
        name: of a folder, a file or a split.

    Example:
        >>> usual_split("Training"), usual_split("dev"), usual_split("cats")
        ('train', 'val', None)
    """
    name = name.lower()
    return name if name in SPLITS else _OTHER_NAMES.get(name)


def same_split(split: str, found: Iterable[str]) -> str | None:
    """What a data set calls a split.

    Args:
        split: as it is asked for.
        found: the names of the data set's splits.

    Returns:
        That name, or else the first other name of the same split; None if there is neither.

    Example:
        >>> same_split("val", ["train", "validation"])
        'validation'
    """
    found = list(found)
    if split in found:
        return split
    return next((name for name in found if usual_split(name) == (usual_split(split) or "")), None)


def split_rank(split: str) -> tuple[int, str]:
    """For sorting names of splits: the usual ones first, in the order of `SPLITS`."""
    usual = usual_split(split)
    return SPLITS.index(usual) if usual else len(SPLITS), split


class Columns(NamedTuple):
    """How data are read where their names do not tell; None where they do."""

    image: str | None = None  # column of a table
    label: str | None = None  # column of a table; of labels, or of masks
    ignore_index: int | None = None  # of masks: the class index of pixels that do not count, besides 255


BY_NAME = Columns()


class Source(ABC):
    """Images by index, with labels and class names. Decoding happens on `read`, or after `open`, never before.

    A source can be sent to another process (loader workers).
    """

    annotation: Annotation = "label"  # what people have said of each image

    def __init__(self, *, name: str, split: str, classes: Sequence[str], labels: NDArray[np.int64]) -> None:
        self.name = name
        self.split = split
        self.classes = tuple(classes)
        self.labels = labels  # (N,), index into classes

    def __len__(self) -> int:
        return len(self.labels)

    def __str__(self) -> str:
        return self.name

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

    def mask(self, index: int) -> Image.Image:
        """The class of each pixel of an image, mode L, of its size; `vggnet.data.masks.IGNORED` where there is none.

        Raises: DataError if the images have no masks; ImageError for a mask that is missing or does not fit.
        """
        raise DataError(
            f"{self.name}, split {self.split}: no masks; expected <split>/images/NAME.jpg with <split>/masks/NAME.png."
        )

    def objects(self, index: int) -> Objects:
        """The objects on an image: a box and a class each.

        Raises: DataError if the images have none; ImageError for objects that are missing or do not fit.
        """
        raise DataError(
            f"{self.name}, split {self.split}: no objects; expected <split>/NAME.jpg with <split>/NAME.xml, as PASCAL "
            "VOC has it."
        )

    def ignored(self) -> list[str]:
        """Files that lie among the images but are not taken for images of a class."""
        return []

    @cached_property
    @abstractmethod
    def fingerprint(self) -> str:
        """Sixteen hex digits that change when the images, the labels or the class names change."""

    is_fixed = False  # whether no image can be added or removed: of data that come with the package
    hashes_contents = True  # whether `image_hashes` are of the images' bytes

    @cached_property
    def image_hashes(self) -> NDArray[np.uint64]:
        """(N,), of the bytes of each image, so that copies are known; of its place where they are not read."""
        places = [hash_bytes(os.fsencode(self.describe(index))) for index in range(len(self))]
        return np.array(places, dtype=np.uint64)

    @property
    def pixels_key(self) -> str:
        """Changes when the images change, and when they are merely renamed it need not: a name for what is cached."""
        return self.fingerprint

    @property
    def contents(self) -> str:
        """The same, but not when the files are merely copied."""
        return self.fingerprint


class Subset(Source):
    """Some of the images of a source.

    Args:
        source: the source.
        indices: places of the images in it, int64 (N,).
    """

    def __init__(self, source: Source, indices: NDArray[np.int64]) -> None:
        super().__init__(name=source.name, split=source.split, classes=source.classes, labels=source.labels[indices])
        self.annotation = source.annotation
        self._source, self._indices = source, indices

    def open(self, index: int) -> StoredImage:
        """As the source does."""
        return self._source.open(int(self._indices[index]))

    def describe(self, index: int) -> str:
        """As the source does."""
        return self._source.describe(int(self._indices[index]))

    def boxes(self) -> NDArray[np.float64]:
        """Those of the source."""
        return self._source.boxes()[self._indices]

    def mask(self, index: int) -> Image.Image:
        """As the source has it."""
        return self._source.mask(int(self._indices[index]))

    def objects(self, index: int) -> Objects:
        """As the source has them."""
        return self._source.objects(int(self._indices[index]))

    @cached_property
    def fingerprint(self) -> str:
        """Of the source and of the places."""
        return blake2b(self._source.fingerprint.encode() + self._indices.tobytes(), digest_size=8).hexdigest()


def match_classes(source: Source, classes: Sequence[str] | None, num_classes: int) -> Tensor:
    """The model's class for each class of the data.

    Args:
        source: the data.
        classes: the model's class names, in the order of its outputs; None if they are not known.
        num_classes: how many classes the model has.

    Returns:
        int64 (C,): indices of the model's outputs, matched by name; without names in the data's order. The data may
        lack classes of the model.

    Raises:
        DataError: the data has classes that the model has not, or other ones.
    """
    found, classes = _composed(source.classes), None if classes is None else _composed(classes)
    if classes is not None and set(found) < set(classes) and len(set(classes)) == num_classes:
        return torch.tensor([classes.index(name) for name in found])
    if len(found) != num_classes:
        raise DataError(
            f"{source.name} has {len(found)} classes ({_few(found)}), but the model {num_classes}"
            f"{f' ({_few(classes)})' if classes else ''}; use the data set that it was trained for."
        )
    if classes is None or found == classes:
        return torch.arange(num_classes)
    if set(found) == set(classes) and len(set(classes)) == num_classes:
        return torch.tensor([classes.index(name) for name in found])
    only_data = [name for name in found if name not in classes] or found
    only_model = [name for name in classes if name not in found] or classes
    raise DataError(
        f"{source.name} has other classes than the model: the data has {_few(only_data)} where the model has "
        f"{_few(only_model)}; use the data set that it was trained for, or rename the classes."
    )


def matching_text(source: Source, classes: Sequence[str] | None) -> str | None:
    """How the classes of the data were matched to others of the model; None if they are the same in the same order."""
    found, known = _composed(source.classes), _composed(classes or ())
    missing = [name for name in known if name not in found]
    if classes is None or found == known:
        return None
    if not missing:
        return "the classes of the data are in another order than the model's; they are matched by name"
    return f"the data has {len(found)} of the model's {len(known)} classes, matched by name; without {_few(missing)}"


def _composed(names: Sequence[str]) -> tuple[str, ...]:
    """Unicode has two forms of an accented letter; file systems change one into the other."""
    return tuple(normalize("NFC", name) for name in names)


def with_classes(source: Source, classes: Sequence[str]) -> Source:
    """The source with labels that count in other classes.

    Args:
        source: the data.
        classes: the names, among them all of the data.

    Raises:
        DataError: as `match_classes`.
    """
    if source.classes == tuple(classes):
        return source
    matched = copy(source)
    matched.labels = match_classes(source, classes, len(classes)).numpy()[source.labels]
    matched.classes = tuple(classes)
    return matched


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", ... {len(names) - 5} more" if len(names) > 5 else "")
