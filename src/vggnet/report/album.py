"""The test pictures of a report: which ones, and as small as they can be seen."""

from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO

from PIL import Image

from vggnet.data.sources.source import Source
from vggnet.metrics import PerImage

Cell = tuple[int, int]  # true class, predicted class

MAX_BYTES = 3_000_000  # of all pictures, as text
MAX_SIDE = 96  # pixels
MISTAKES_PER_CELL, RIGHT_PER_CLASS = 24, 8
GALLERY = 12  # pictures in the lists of the worst and of the most confident mistakes


@dataclass(frozen=True, kw_only=True)
class Album:
    """Indices of images, and the pictures of those that fit."""

    cells: dict[Cell, list[int]] = field(default_factory=dict)  # highest loss first
    worst: list[int] = field(default_factory=list)  # mistakes, highest loss first
    confident: list[int] = field(default_factory=list)  # mistakes, highest confidence first
    pictures: dict[int, str] = field(default_factory=dict)  # as data URIs


def make_album(answers: PerImage, source: Source | None) -> Album:
    """The mistakes of a test and a few right answers of each class, without pictures if there is no source.

    The two lists of mistakes come first, then the first picture of each cell, the second, ..., until `MAX_BYTES`: of
    mistakes before right answers, and of large cells before small ones.
    Raises: ImageError.
    """
    by_loss = answers.losses.argsort(descending=True, stable=True).tolist()
    by_confidence = answers.confidence.argsort(descending=True, stable=True).tolist()
    true, predicted = answers.labels.tolist(), answers.predicted.tolist()
    members: dict[Cell, list[int]] = defaultdict(list)
    for index in by_loss:
        members[true[index], predicted[index]].append(index)
    worst = [index for index in by_loss if predicted[index] != true[index]][:GALLERY]
    confident = [index for index in by_confidence if predicted[index] != true[index]][:GALLERY]
    pictures: dict[int, str] = {}
    room = MAX_BYTES if source else 0
    for index in _in_turn(worst, confident, members):
        if source is None or room <= 0:
            break
        if index not in pictures:
            pictures[index] = encode(source.read(index))
            room -= len(pictures[index])
    shown = {cell: [index for index in _first(cell, indices) if index in pictures] for cell, indices in members.items()}
    cells = {cell: indices for cell, indices in shown.items() if indices}
    return Album(cells=cells, worst=worst, confident=confident, pictures=pictures)


def encode(image: Image.Image, side: int = MAX_SIDE) -> str:
    """A data URI of the image at no more than `side` pixels."""
    small = image.convert("RGB")  # a copy
    small.thumbnail((side, side))
    file = BytesIO()
    small.save(file, format="WEBP", quality=85, method=4)
    return f"data:image/webp;base64,{b64encode(file.getvalue()).decode()}"


def _in_turn(worst: list[int], confident: list[int], members: dict[Cell, list[int]]) -> Iterator[int]:
    yield from worst
    yield from confident
    ranked = sorted(members.items(), key=lambda item: (item[0][0] == item[0][1], -len(item[1])))
    shown = [_first(cell, indices) for cell, indices in ranked]
    for turn in range(MISTAKES_PER_CELL):
        yield from (indices[turn] for indices in shown if turn < len(indices))


def _first(cell: Cell, indices: list[int]) -> list[int]:
    true, predicted = cell
    return indices[: RIGHT_PER_CLASS if true == predicted else MISTAKES_PER_CELL]
