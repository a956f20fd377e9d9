"""Results as text: JSON for programs, aligned tables for terminals and Markdown."""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from os import PathLike
from typing import Any, NamedTuple
from unicodedata import combining, east_asian_width

SKIP = {"json": False}  # metadata of a dataclass field that JSON leaves out, such as a picture


class Fact(NamedTuple):
    """A number or condition of a result, as text."""

    name: str
    value: str
    hint: str = ""  # how to read it


def to_json(result: Any, *, indent: int | None = None) -> str:
    """The result of a function as JSON text.

    Args:
        result: see `to_plain`.
        indent: spaces for each level; by default everything is on one line.

    Returns:
        JSON, with all characters as they are (not escaped to ASCII).

    Raises:
        ValueError: a number is NaN or infinite; the message says where.
        TypeError: a value has no form in JSON.

    Example:
        >>> from dataclasses import dataclass
        >>> from pathlib import Path
        >>> import numpy as np
        >>> @dataclass(frozen=True)
        ... class Result:
        ...     accuracy: float
        ...     counts: np.ndarray
        ...     files: tuple[Path, ...] = ()
        >>> to_json(Result(0.5, np.array([3, 4]), (Path("a.png"),)))
        '{"accuracy": 0.5, "counts": [3, 4], "files": ["a.png"]}'
    """
    return json.dumps(to_plain(result), ensure_ascii=False, allow_nan=False, indent=indent)


def to_plain(value: Any, *, name: str = "the result") -> Any:
    """The same value made of dict, list, str, int, float, bool and None alone.

    Args:
        value: a dataclass or NamedTuple (becomes a dict of its fields, without those marked by `SKIP`), a mapping, a
            list, tuple or set (sorted), a path, an array or tensor of any shape and device, or a plain value.
        name: what the value is, for error messages.

    Returns:
        The plain value. Keys of mappings become strings.

    Raises:
        ValueError: a number is NaN or infinite.
        TypeError: a value has no form in JSON, such as a picture.

    Example:
        >>> to_plain({"size": (32, 32), 5: None})
        {'size': [32, 32], '5': None}
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}, which JSON has no number for.")
        return value
    if is_dataclass(value) and not isinstance(value, type):
        shown = [field.name for field in fields(value) if field.metadata.get("json", True)]
        return {key: to_plain(getattr(value, key), name=f"{name}.{key}") for key in shown}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return to_plain(value._asdict(), name=name)
    if isinstance(value, Mapping):
        return {str(key): to_plain(item, name=f"{name}[{key!r}]") for key, item in value.items()}
    if isinstance(value, set | frozenset):
        value = sorted(value)
    if isinstance(value, list | tuple):
        return [to_plain(item, name=f"{name}[{place}]") for place, item in enumerate(value)]
    if isinstance(value, PathLike):
        return str(value)
    if hasattr(value, "tolist"):  # of numpy or PyTorch
        return to_plain(value.tolist(), name=name)
    raise TypeError(f"{name} is a {type(value).__name__}, which has no form in JSON.")


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    left: Collection[int] = (0,),
    markdown: bool = False,
) -> str:
    """Rows as aligned text, one line each below the headings.

    Args:
        headings: one for each column.
        rows: as many cells as headings; None is shown as "-", everything else by `str`.
        left: the columns aligned left, counted from 0; the others, which hold numbers, are aligned right.
        markdown: write a table of Markdown instead of columns two spaces apart.

    Returns:
        Lines without trailing spaces, and no newline at the end.

    Raises:
        ValueError: a row has more or fewer cells than there are headings.

    Example:
        >>> print(table(["class", "images"], [["cat", 12], ["a dog", None]]))
        class  images
        cat        12
        a dog       -
        >>> print(table(["class", "images"], [["cat", 12]], markdown=True))
        | class | images |
        | ----- | -----: |
        | cat   |     12 |
    """
    cells = [list(headings), *(["-" if cell is None else str(cell) for cell in row] for row in rows)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    padded = [
        [_pad(text, width, left=place in left) for place, (text, width) in enumerate(zip(line, widths, strict=True))]
        for line in cells
    ]
    if not markdown:
        return "\n".join("  ".join(line).rstrip() for line in padded)
    rule = ["-" * width if place in left else "-" * (width - 1) + ":" for place, width in enumerate(widths)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]])


def _pad(text: str, width: int, *, left: bool) -> str:
    space = " " * (width - _width(text))
    return text + space if left else space + text


def _width(text: str) -> int:
    """Columns of a terminal: two for a Chinese character, none for a combining accent."""
    return sum(0 if combining(char) else 1 + (east_asian_width(char) in "WF") for char in text)
