"""Parquet files with a column of masks or of objects beside the images.

Masks are encoded as images are, PNG with one channel of class indices. Objects are a struct of two lists, as Hugging
Face has them: `bbox` with COCO's boxes (left, top, width, height in pixels), and `category` with indices or names.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vggnet.data.masks import IGNORED, checked_mask, decode_mask, largest_index
from vggnet.data.objects import Annotated, Objects, checked_objects
from vggnet.data.sources.annotated_folder import class_names as listed_classes
from vggnet.data.sources.columns import AnnotationColumn, class_names
from vggnet.data.sources.rows import BATCH, OpenTable, Rows, encoded_column
from vggnet.data.sources.source import Columns, Source
from vggnet.devices import usable_cores
from vggnet.errors import DataError, ImageError, one_line


def annotated_rows(
    open_table: OpenTable, open_all: OpenTable, schema: Any, column: AnnotationColumn, image: str, path: Path,
    split: str, columns: Columns,
) -> Source:  # fmt: skip
    """The images of a table, and a mask or the objects of each.

    Classes are named by `classes.txt` in the folder, or for objects by Hugging Face's metadata, or by the names in all
    splits, sorted. Otherwise they are called "class 0" up to the largest index in all splits.

    Args:
        open_table: gives the table of the split, with the two columns.
        open_all: gives the column of annotations of all splits.
        schema: with Hugging Face's metadata, if any.
        column: of the annotations.
        image: column of the images.
        path: folder of the files.
        split: its name.
        columns: the index to ignore.

    Raises:
        DataError: there are no classes.
    """
    kind = _KINDS[column.kind]
    classes = listed_classes(path) or class_names(schema, column.name)
    if not classes:
        classes = kind.read_classes(open_all(), column.name, columns.ignore_index)
    if len(classes) < kind.least:
        raise DataError(
            f"{path}: column {column.name!r} has {len(classes)} classes; expected {kind.least} at least. "
            f"{kind.expected}"
        )
    table = open_table()
    return kind(open_table, table, image, column.name, path, split, classes, columns.ignore_index)


class _AnnotatedRows(Rows):
    """Images with annotations. All have the label 0: images are not of one class."""

    _mapped = (*Rows._mapped, "_annotations")
    _annotations: Any
    least = 1
    expected = ""

    def __init__(
        self, open_table: OpenTable, table: Any, image: str, column: str, path: Path, split: str,
        classes: Sequence[str], ignore_index: int | None,
    ) -> None:  # fmt: skip
        self._column, self._ignore_index = column, ignore_index
        labels = np.zeros(len(table), np.int64)
        super().__init__(open_table, table, image, name=str(path), split=split, classes=list(classes), labels=labels)

    @staticmethod
    @abstractmethod
    def read_classes(table: Any, column: str, ignore_index: int | None) -> list[str]:
        """The names of the classes where nothing else tells, from a table of the annotations of all splits."""

    @cached_property
    def fingerprint(self) -> str:
        """Of images and annotations, and of what is ignored."""
        digest = blake2b(f"{super().fingerprint} {self._ignore_index}".encode(), digest_size=8)
        for start in range(0, len(self), BATCH):
            digest.update(repr(self._annotations.slice(start, BATCH).to_pylist()).encode(errors="surrogateescape"))
        return digest.hexdigest()


class MaskRows(_AnnotatedRows):
    """Images, and a mask of each."""

    annotation = "mask"
    least = 2
    expected = "Masks are PNG with the class index of each pixel."

    def _take(self, table: Any) -> None:
        super()._take(table)
        self._annotations = encoded_column(table, self._column)

    def mask(self, index: int) -> Image.Image:
        """From the bytes in its row."""
        encoded, name = self._annotations[index].as_py(), f"{self.describe(index)}, column {self._column}"
        if encoded is None:
            raise ImageError("has no mask in this row. Add it, or remove the image.", name=name)
        stored = self.open(index)
        with stored.image:
            size = stored.size
        return checked_mask(
            decode_mask(encoded, name=name),
            size=size,
            num_classes=len(self.classes),
            ignore_index=self._ignore_index,
            name=name,
        )

    @staticmethod
    def read_classes(table: Any, column: str, ignore_index: int | None) -> list[str]:
        """As many as the masks have."""
        masks = encoded_column(table, column)
        with ThreadPoolExecutor(usable_cores()) as pool:
            found = pool.map(lambda index: largest_index(masks[index].as_py() or b"", ignore_index), range(len(masks)))
            return [f"class {index}" for index in range(min(max(found, default=-1) + 1, IGNORED))]


class ObjectRows(_AnnotatedRows):
    """Images, and the objects of each."""

    annotation = "objects"
    expected = "Objects are structs of two lists: bbox (left, top, width, height), and category."

    def _take(self, table: Any) -> None:
        super()._take(table)
        self._annotations = table[self._column]

    def objects(self, index: int) -> Objects:
        """From its row, checked."""
        name = f"{self.describe(index)}, column {self._column}"
        try:
            row = self._annotations[index].as_py() or {"bbox": [], "category": []}
            found = [
                Annotated(self._name_of(label), _edges(box))
                for box, label in zip(row["bbox"], row["category"], strict=True)
            ]
        except (TypeError, ValueError, IndexError) as error:
            raise ImageError(f"its objects cannot be read ({one_line(error)}). {self.expected}", name=name) from error
        stored = self.open(index)
        with stored.image:
            size, reduced = stored.size, stored.reduced
        return checked_objects(found, classes=self.classes, size=size, reduced=reduced, name=name)

    def _name_of(self, label: Any) -> str:
        if isinstance(label, str):
            return label
        if not 0 <= label < len(self.classes):
            raise IndexError(f"the class index {label}; expected 0 to {len(self.classes) - 1}")
        return str(self.classes[label])

    @staticmethod
    def read_classes(table: Any, column: str, ignore_index: int | None) -> list[str]:
        """The names that occur, or as many as the largest index says."""
        found = {label for row in table[column].to_pylist() if row for label in row["category"] or ()}
        names = sorted(label for label in found if isinstance(label, str))
        return names or [f"class {index}" for index in range(max(found, default=-1) + 1)]


_KINDS: Mapping[str, type[_AnnotatedRows]] = {"mask": MaskRows, "objects": ObjectRows}


def _edges(box: Any) -> tuple[float, float, float, float]:
    left, top, width, height = map(float, box)
    return left, top, left + width, top + height
