"""Rows of a table as a source: encoded images, and what is said of each."""

import reprlib
from collections.abc import Callable, Iterator
from functools import cached_property
from hashlib import blake2b
from numbers import Number
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
from numpy.typing import NDArray

from vggnet.data.decoding import StoredImage, open_image
from vggnet.data.hashing import hash_bytes
from vggnet.data.sources.source import Source
from vggnet.errors import DataError, ImageError

BATCH = 256  # rows that are read together
BOX_COLUMN = "box"  # pixels counted from 0, the last ones included; a list of four numbers, or a struct
_BOX_NAMES = ("xmin", "ymin", "xmax", "ymax")

OpenTable = Callable[[], Any]


class Rows(Source):
    """Images in a column of a table, with labels.

    Args:
        open_table: gives the table; called again in another process.
        table: what it gives.
        image: column of encoded images.
        name, split, classes, labels: as `Source`.
    """

    _mapped: ClassVar[tuple[str, ...]] = ("_encoded", "_boxes")  # columns of the table, which another process opens

    def __init__(
        self,
        open_table: OpenTable,
        table: Any,
        image: str,
        *,
        name: str,
        split: str,
        classes: list[str],
        labels: NDArray[np.int64],
    ) -> None:
        super().__init__(name=name, split=split, classes=classes, labels=labels)
        self._open_table, self._image = open_table, image
        self._take(table)

    def _take(self, table: Any) -> None:
        self._encoded = encoded_column(table, self._image)
        self._boxes = table[BOX_COLUMN] if BOX_COLUMN in table.column_names else None

    def __getstate__(self) -> dict[str, Any]:
        """Without the table, which the other process opens itself."""
        return {name: value for name, value in vars(self).items() if name not in self._mapped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._take(self._open_table())

    def boxes(self) -> NDArray[np.float64]:
        """Those of the column box."""
        if self._boxes is None:
            return super().boxes()
        boxes = [_numbers_of(box, self.describe(index)) for index, box in enumerate(self._boxes.to_pylist())]
        edges: NDArray[np.float64] = np.array(boxes, dtype=np.float64) + np.array([0, 0, 1, 1])
        return edges

    def open(self, index: int) -> StoredImage:
        """From the bytes in its row."""
        encoded = self._encoded[index].as_py()
        if encoded is None:
            raise ImageError("no image bytes in this row; expected an encoded image.", name=self.describe(index))
        return open_image(encoded, name=self.describe(index))

    def describe(self, index: int) -> str:
        """The table and the row."""
        return f"{self.name}, split {self.split}, row {index}"

    @cached_property
    def image_hashes(self) -> NDArray[np.uint64]:
        """Of the bytes in each row."""
        hashes = [hash_bytes(row or b"") for rows in self._batches() for row in rows]
        return np.array(hashes, dtype=np.uint64)

    @cached_property
    def fingerprint(self) -> str:
        """Of the contents alone: the same from a folder and from the hub, whatever the files are called."""
        digest = blake2b(
            "\0".join(self.classes).encode(errors="surrogateescape") + self.labels.tobytes(), digest_size=8
        )
        for rows in self._batches():
            for row in rows:
                encoded = row or b""
                digest.update(len(encoded).to_bytes(8, "little") + encoded)
        return digest.hexdigest()

    def _batches(self) -> Iterator[list[bytes | None]]:
        return (self._encoded.slice(start, BATCH).to_pylist() for start in range(0, len(self), BATCH))


def encoded_column(table: Any, name: str) -> Any:
    """A column of encoded images as bytes alone.

    Args:
        table: a pyarrow.Table.
        name: of a column of bytes, or of structs with a field `bytes`.
    """
    column = table[name]
    column = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


def _numbers_of(box: Any, where: str) -> list[Any]:
    """The numbers of a box, in order.  Raises: DataError."""
    values = [box[name] for name in _BOX_NAMES] if isinstance(box, dict) and set(box) == set(_BOX_NAMES) else box
    if isinstance(values, list) and len(values) == 4 and all(map(_is_number, values)):
        return values
    raise DataError(f"{where}: the box is {reprlib.repr(box)}; expected four numbers, {', '.join(_BOX_NAMES)}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, Number) and not isinstance(value, bool)
