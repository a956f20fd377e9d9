"""Every form of a label in a table is one class for each row, or one line that names the first row without one."""

import datetime

import numpy as np
import pyarrow as pa
import pytest

from vggnet.data.sources.labels import class_labels, read_labels
from vggnet.errors import DataError

EXACT = {
    "whole numbers": (pa.array([7, 3, 7]), ["3", "7"], [1, 0, 1]),
    "small numbers": (pa.array([1, 0, 1], pa.uint8()), ["0", "1"], [1, 0, 1]),
    "whole floats": (pa.array([1.0, 0.0, 1.0]), ["0.0", "1.0"], [1, 0, 1]),
    "truth": (pa.array([True, False, True]), ["False", "True"], [1, 0, 1]),
    "signs": (pa.array([1, -1, 1]), ["-1", "1"], [1, 0, 1]),
    "names": (pa.array(["owl", "cat", "owl"]), ["cat", "owl"], [1, 0, 1]),
    "large names": (pa.array(["owl", "cat", "owl"], pa.large_string()), ["cat", "owl"], [1, 0, 1]),
    "bytes": (pa.array([b"owl", b"caf\xe9", b"owl"]), ["caf\udce9", "owl"], [1, 0, 1]),
    "dictionary": (pa.array(["owl", "cat", "owl"]).dictionary_encode(), ["cat", "owl"], [1, 0, 1]),
    "lists of one": (pa.array([[1], [0], [1]]), ["0", "1"], [1, 0, 1]),
    "lists of one name": (pa.array([["owl"], ["cat"], ["owl"]]), ["cat", "owl"], [1, 0, 1]),
    "lists of lists": (pa.array([[[1]], [[0]], [[1]]]), ["0", "1"], [1, 0, 1]),
    "fixed lists": (pa.array([[1], [0], [1]], pa.list_(pa.int64(), 1)), ["0", "1"], [1, 0, 1]),
    "one-hot": (pa.array([[0, 0, 1], [1, 0, 0], [0, 0, 1]]), ["0", "1", "2"], [2, 0, 2]),
    "one-hot floats": (pa.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]), ["0", "1"], [1, 0, 1]),
    "one-hot truth": (pa.array([[False, True], [True, False], [False, True]]), ["0", "1"], [1, 0, 1]),
    "one-hot fields": (pa.array([{"cat": 0, "owl": 1}, {"cat": 1, "owl": 0}]), ["cat", "owl"], [1, 0]),
    "a single field": (pa.array([{"id": 1}, {"id": 0}]), ["0", "1"], [1, 0]),
}


@pytest.mark.parametrize("kind", EXACT)
def test_what_is_a_label(kind):
    """Oracle: by hand; in one chunk and in one for each row."""
    array, classes, indices = EXACT[kind]
    for chunks in ([array], [array[i : i + 1] for i in range(len(array))]):
        names, labels = class_labels(read_labels(pa.chunked_array(chunks), "t"), None, "t")
        assert (names, labels.tolist(), labels.dtype) == (classes, indices, np.int64)


WRONG = {
    "missing": (pa.array([0, None, 1, None]), "row 1 has no label; .* So do 1 more"),
    "all missing": (pa.array([None, None]), "row 0 has no label"),
    "missing name": (pa.array(["cat", None]), "row 1 has no label"),
    "empty name": (pa.array(["cat", "owl", " "]), "row 2 has no label"),
    "missing in a list": (pa.array([[0], [None]]), "row 1 has no label"),
    "not a number": (pa.array([0.0, 1.0, float("nan")]), "row 2 has no label"),
    "infinite": (pa.array([0.0, float("inf")]), "row 1 has inf, which is no label"),
    "a fraction": (pa.array([0.0, 1.0, 0.5]), "row 2 has 0.5, which is no label"),
    "ragged": (pa.array([[0], [1], [0, 1]]), r"row 2 has 2 labels, \[0, 1\]"),
    "empty list": (pa.array([[0], [], [1]]), "row 1 has no label"),
    "two hot": (pa.array([[0, 1, 1], [1, 0, 0]]), r"row 0 has 3 labels, \[0, 1, 1\]"),
    "soft": (pa.array([[0.2, 0.8], [0.5, 0.5]]), r"row 0 has 2 labels, \[0.2, 0.8\]"),
    "several fields": (pa.array([{"id": 0, "name": "cat"}]), "holds id, name in each row; .* a column of its own"),
    "days": (pa.array([datetime.date(2020, 1, 1)]), "holds date32"),
    "none stands for all": (pa.array([-1, -1]), "every label is -1"),
    "one class": (pa.array([4, 4]), r"has 1 class \(4\); expected at least 2"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_label(kind):
    """Oracle: by hand: the first row that has none."""
    array, message = WRONG[kind]
    with pytest.raises(DataError, match=f"^t.*{message}") as caught:
        class_labels(read_labels(pa.chunked_array([array]), "t"), None, "t")
    assert "\n" not in str(caught.value)


def test_labels_of_named_classes():
    """Oracle: by hand: numbers or names of the classes that the table names."""
    for array in (pa.array([1, 0]), pa.array([1.0, 0.0]), pa.array(["owl", "cat"]), pa.array([[1], [0]])):
        found = class_labels(read_labels(pa.chunked_array([array]), "t"), ["cat", "owl", "fox"], "t")
        assert found[0] == ["cat", "owl", "fox"]
        assert found[1].tolist() == [1, 0]
    for array, message in ((pa.array([0, 3]), "row 1 has the label 3"), (pa.array(["cat", "dog"]), "the label 'dog'")):
        with pytest.raises(DataError, match=f"{message}, which is outside its 3 classes"):
            class_labels(read_labels(pa.chunked_array([array]), "t"), ["cat", "owl", "fox"], "t")
