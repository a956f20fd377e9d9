"""Objects on an image: a box and a class each; read from PASCAL VOC's XML, and checked against the image.

A box is (left, top, right, bottom), the edges of a rectangle in pixels of the upright image, as in `vggnet.data.boxes`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml.ElementTree import fromstring
from numpy.typing import NDArray

from vggnet.errors import DataError, ImageError

Box = tuple[float, float, float, float]

VOC = "expected <annotation><object><name>...</name><bndbox> with xmin, ymin, xmax, ymax, as PASCAL VOC has it"
MAX_XML = 1 << 20  # bytes


class Annotated(NamedTuple):
    """An object as a file has it, unchecked."""

    label: str
    box: Box
    is_crowd: bool = False  # whether the box has many objects of the class, as COCO marks groups


class Objects(NamedTuple):
    """The n objects of an image."""

    boxes: NDArray[np.float32]  # (n, 4) left, top, right, bottom
    labels: NDArray[np.int64]  # (n,), index into the classes
    crowd: NDArray[np.bool_]  # (n,), whether a box has many objects; such boxes are not trained on


def read_voc_objects(file: Path | str) -> list[Annotated]:
    """The objects of an XML file as PASCAL VOC has it.

    VOC counts pixels from 1 and includes the last; a 0, as ILSVRC has it, is taken for a 1.

    Args:
        file: the XML file.

    Raises:
        DataError: naming the file, if it is missing, or no such XML; it may have no object.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> box = "<xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>3</ymax>"
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder, "1.xml")
        ...     _ = file.write_text(f"<annotation><object><name>cat</name><bndbox>{box}</bndbox></object></annotation>")
        ...     read_voc_objects(file)
        [Annotated(label='cat', box=(0.0, 0.0, 4.0, 3.0), is_crowd=False)]
    """
    file = Path(file).expanduser()
    if not file.is_file():
        raise DataError(f"{file}: does not exist, so its image has no box; {VOC}.")
    text = file.read_bytes()[: MAX_XML + 1]
    if len(text) > MAX_XML:
        raise DataError(f"{file}: has more than {MAX_XML:,} bytes; {VOC}.")
    try:
        return [Annotated(one.findtext("name", "").strip(), _voc_box(one)) for one in fromstring(text).iter("object")]
    except (ParseError, TypeError, ValueError) as error:  # a ValueError for entities, which may be huge
        raise DataError(f"{file}: cannot be read ({error}); {VOC}.") from error


def checked_objects(
    found: Sequence[Annotated], *, classes: Sequence[str], size: tuple[int, int], reduced: int = 1, name: str
) -> Objects:
    """Objects whose boxes lie within their image and whose classes are known.

    Args:
        found: as a file has them.
        classes: of the data.
        size: width and height in pixels of the image as it is decoded.
        reduced: by how much decoding divides the sides of the image, and so the boxes.
        name: of the file, for messages.

    Raises:
        ImageError: a box has no area or reaches outside, or a class is not known.

    Example:
        >>> objects = checked_objects([Annotated("cat", (0, 0, 4, 3))], classes=("cat",), size=(8, 6), name="1.xml")
        >>> objects.boxes.tolist(), objects.labels.tolist()
        ([[0.0, 0.0, 4.0, 3.0]], [0])
    """
    width, height = size[0] * reduced, size[1] * reduced
    for label, box, _ in found:
        left, top, right, bottom = box
        where = f"the box of {label or 'an object'} (left, top, right, bottom) = ({', '.join(f'{x:g}' for x in box)})"
        if not (left < right and top < bottom):
            raise ImageError(
                f"{where} has no area; its right and lower edge must lie beyond. Mend or remove it.", name=name
            )
        if left < 0 or top < 0 or right > width or bottom > height:
            raise ImageError(
                f"{where} reaches outside the image; expected edges within {width} x {height}. Mend or remove it.",
                name=name,
            )
        if label not in classes:
            raise ImageError(
                f"an object of the class {label!r}; expected one of {', '.join(classes[:10])}. Mend it, or name the "
                "class in classes.txt.",
                name=name,
            )
    boxes = np.array([one.box for one in found], dtype=np.float32).reshape(-1, 4) / np.float32(reduced)
    labels = np.array([classes.index(one.label) for one in found], dtype=np.int64)
    return Objects(boxes, labels, np.array([one.is_crowd for one in found], dtype=np.bool_))


def _voc_box(element: Element) -> Box:
    """Raises: TypeError, ValueError if an edge is missing, or no number.

    Of a box whose last pixel is its first nothing is left: such a mark is a click, no outline of an object.
    """
    edges = (element.findtext(f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax"))
    left, top, right, bottom = (float(edge) for edge in edges)  # type: ignore[arg-type]
    return left - (1 <= left < right), top - (1 <= top < bottom), right, bottom
