"""From a column of a table to one label for each image, or one line that says which row has none."""

import reprlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from numpy.typing import NDArray

from vggnet.errors import DataError

EXPECTED = "expected one label in every row: a name or a whole number"

Locate = Callable[[int], str]  # what a row is called in messages


class Labels:
    """The label of each row, as it is written there.

    Args:
        values: (N,), numbers or names.
        names: of the classes, if the column itself says them: numbers are then places in it.
    """

    def __init__(self, values: NDArray[Any], names: Sequence[str] | None = None) -> None:
        self.values = values
        self.names = names


def read_labels(column: Any, where: str, locate: Locate = "row {}".format) -> Labels:
    """The labels of a column.

    A list or a struct of one value is its value. Numbers of which one is 1 and the others are 0 are the place of the 1;
    in a struct its field names the class.

    Args:
        column: a pyarrow.ChunkedArray.
        where: the data and the column, for messages.
        locate: names a row, for messages.

    Raises:
        DataError: a row has no label or several, or one that is none; the message names the first such row.

    Example:
        >>> read_labels(pa.chunked_array([[[0, 1, 0], [1, 0, 0]]]), "a table").values.tolist()
        [1, 0]
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        return read_labels(column.cast(kind.value_type), where, locate)
    if pa.types.is_null(kind) or column.null_count:
        rows = np.flatnonzero(np.asarray(column.is_null()))
        raise _refused(where, locate, rows, "has no label")
    if pa.types.is_struct(kind):
        return _of_structs(column.to_pylist(), [field.name for field in kind], where, locate)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _of_lists(column.to_pylist(), kind.value_type, where, locate)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _of_values(np.array([v.decode(errors="surrogateescape") for v in column.to_pylist()]), where, locate)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (is_text or pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DataError(f"{where} holds {kind}; {EXPECTED}. Choose another column (--label-column).")
    values: NDArray[Any] = np.array(column.to_pylist()) if is_text else column.to_numpy()
    return _of_values(values, where, locate)


def class_labels(
    labels: Labels, names: Sequence[str] | None, where: str, locate: Locate = "row {}".format, *, least: int = 2
) -> tuple[list[str], NDArray[np.int64]]:
    """The names of the classes and the label of each image, int64 (N,).

    Args:
        labels: as `read_labels` gives them.
        names: of the classes, if they are known; labels are then their numbers, or the names themselves.
        where: the data and the column, for messages.
        locate: names a row, for messages.
        least: the smallest number of classes.

    Raises:
        DataError: there are fewer classes, or a label is none of them.
    """
    names, values = names or labels.names, labels.values
    if values.dtype.kind in "if" and len(values) and (values == -1).all():
        raise DataError(f"{where}: every label is -1, which stands for none; {EXPECTED}. `vgg predict` needs none.")
    if names is None:
        unique, found = np.unique(values, return_inverse=True)
        classes = [str(value) for value in unique]
    elif values.dtype.kind in "US":
        classes, places = list(names), {name: place for place, name in enumerate(names)}
        found = np.array([places.get(value, -1) for value in values.tolist()], dtype=np.int64)
    else:
        classes, found = list(names), values.astype(np.int64)
    if len(classes) < least:
        listed = f" ({classes[0]})" if classes else ""
        raise DataError(f"{where} has {len(classes)} class{listed}; expected at least {least}.")
    outside = np.flatnonzero((found < 0) | (found >= len(classes)))
    if len(outside):
        value = values[outside[0]].item()
        raise _refused(where, locate, outside, f"has the label {value!r}, which is outside its {len(classes)} classes")
    return classes, found.astype(np.int64)


def _of_values(values: NDArray[Any], where: str, locate: Locate) -> Labels:
    """Of numbers or texts."""
    if values.dtype.kind == "f":
        wrong = np.flatnonzero(~np.isfinite(values) | (values != np.floor(values)))
    elif values.dtype.kind == "U":
        wrong = np.flatnonzero(np.char.str_len(np.char.strip(values)) == 0)
    else:
        wrong = np.array([], dtype=np.int64)
    if len(wrong):
        value = values[wrong[0]].item()
        is_missing = value != value or values.dtype.kind == "U"
        raise _refused(where, locate, wrong, "has no label" if is_missing else f"has {value!r}, which is no label")
    return Labels(values)


def _of_lists(rows: list[list[Any]], kind: Any, where: str, locate: Locate) -> Labels:
    lengths = np.array([len(row) for row in rows])
    if (lengths == 1).all():
        return read_labels(pa.chunked_array([pa.array([row[0] for row in rows], type=kind)]), where, locate)
    if len(rows) and (lengths == lengths[0]).all() and lengths[0] > 1:
        places = one_hot(rows)
        if places is not None:
            return Labels(places, [str(place) for place in range(int(lengths[0]))])
    wrong = np.flatnonzero(lengths != 1)
    found = "no label" if lengths[wrong[0]] == 0 else f"{lengths[wrong[0]]} labels, {reprlib.repr(rows[wrong[0]])}"
    raise _refused(where, locate, wrong, f"has {found}")


def _of_structs(rows: list[dict[str, Any]], fields: list[str], where: str, locate: Locate) -> Labels:
    if len(fields) == 1:
        return read_labels(pa.chunked_array([pa.array([row[fields[0]] for row in rows])]), where, locate)
    places = one_hot([list(row.values()) for row in rows]) if rows and fields else None
    if places is None:
        raise DataError(
            f"{where} holds {', '.join(fields)} in each row; {EXPECTED}. Write one of them to a column of its own."
        )
    return Labels(places, fields)


def one_hot(rows: Sequence[Sequence[Any]]) -> NDArray[np.int64] | None:
    """The place of the only 1 of each row, the others being 0; None if they are not all so.

    Args:
        rows: of one length.
    """
    try:
        values = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    if values.ndim != 2 or not np.isin(values, (0, 1)).all() or not (values.sum(1) == 1).all():
        return None
    places: NDArray[np.int64] = values.argmax(1)
    return places


def _refused(where: str, locate: Locate, rows: NDArray[np.int64], what: str) -> DataError:
    more = f" So do {len(rows) - 1:,} more." if len(rows) > 1 else ""
    return DataError(f"{where}: {locate(int(rows[0]))} {what}; {EXPECTED}.{more} Mend or remove such rows.")
