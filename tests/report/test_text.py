"""Results as JSON and tables. Oracles: `json.loads`, and lines written by hand."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from vggnet.report.text import SKIP, table, to_json, to_plain


class Pair(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True)
class Inner:
    path: Path
    pair: Pair


@dataclass(frozen=True)
class Outer:
    name: str
    inner: tuple[Inner, ...]
    values: Any = None
    picture: Any = field(default=None, metadata=SKIP)


def test_nested_results_are_read_back():
    inner = Inner(Path("runs") / "mine", Pair(0.25, 1.0))
    found = json.loads(to_json(Outer("貓", (inner,), {"set": {"b", "a"}, 3: True}, picture=object())))
    assert found == {
        "name": "貓",
        "inner": [{"path": str(Path("runs/mine")), "pair": {"low": 0.25, "high": 1.0}}],
        "values": {"set": ["a", "b"], "3": True},
    }
    assert "貓" in to_json(Outer("貓", ()))


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.array([[1, 2], [3, 4]], dtype=np.uint8), [[1, 2], [3, 4]]),
        (torch.tensor(1.5, dtype=torch.bfloat16), 1.5),
        (torch.tensor([[1.0, -2.0]], requires_grad=True), [[1.0, -2.0]]),
        (torch.empty(0, 3), []),
        ([np.int32(1), None, "x"], [1, None, "x"]),
    ],
)
def test_numbers_of_numpy_and_pytorch(value: Any, plain: Any):
    found = to_plain(value)
    assert found == plain
    assert type(found) is type(plain)
    assert json.loads(to_json(value)) == plain


@pytest.mark.parametrize("number", [float("nan"), np.float32("inf"), torch.tensor(float("-inf"))])
def test_a_number_that_is_not_finite_is_refused(number: Any):
    """JSON has no NaN; other programs fail on Python's."""
    with pytest.raises(ValueError, match=r"result\.values\['loss'\]\[1\] is -?(nan|inf)"):
        to_json(Outer("", (), {"loss": [1.0, number]}))


def test_a_value_without_json_is_refused():
    with pytest.raises(TypeError, match=r"result\.values is a object"):
        to_json(Outer("", (), object()))


def test_columns_are_aligned():
    assert table(["name", "n", "remark"], [["貓", 5, "x"], ["a cat", 1234, ""]], left=(0, 2)).splitlines() == [
        "name      n  remark",
        "貓        5  x",
        "a cat  1234",
    ]


def test_markdown():
    assert table(["n", "name"], [[10, "a"], [None, "bcdef"]], left={1}, markdown=True).splitlines() == [
        "|  n | name  |",
        "| -: | ----- |",
        "| 10 | a     |",
        "|  - | bcdef |",
    ]


def test_a_table_without_rows_has_headings():
    assert table(["class", "images"], []) == "class  images"


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="argument"):
        table(["a", "b"], [["x"]])
