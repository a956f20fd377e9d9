"""Boxes around objects: read, checked, and followed through the preprocessing.

A box is (left, top, right, bottom), the edges of a rectangle in pixels of the upright image: right - left is its width,
and the whole of an image is (0, 0, width, height).
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vggnet.data.decoded import recall
from vggnet.data.objects import VOC, read_voc_objects
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.source import Source
from vggnet.devices import usable_cores
from vggnet.errors import DataError, ImageError
from vggnet.progress import Progress, report_progress

Array = NDArray[np.float64]


class Boxes(NamedTuple):
    """One box an image, with the sizes of the images."""

    edges: Array  # (N, 4) left, top, right, bottom
    sizes: Array  # (N, 2) width, height


_kept: dict[Source, Boxes] = {}


def read_boxes(source: Source, *, progress: Progress = False) -> Boxes:
    """The boxes of a source, each checked against its image.

    Args:
        source: images with boxes. All images are decoded for the check, once in a process.
        progress: how to report the check; see `vggnet.progress.Progress`.

    Raises:
        DataError: names the first image whose box has no area or reaches outside, or whose box is missing.
        ImageError: for an image that cannot be read.
    """
    return recall(_kept, source, lambda: _read_boxes(source, progress))


def _read_boxes(source: Source, progress: Progress) -> Boxes:
    edges, sizes, reductions = source.boxes(), np.zeros((len(source), 2)), np.ones((len(source), 1))

    def check(index: int) -> tuple[tuple[int, int], int]:
        image = source.open(index)
        return image.decode().size, image.reduced

    with ThreadPoolExecutor(usable_cores()) as pool, report_progress(progress, "checking boxes") as report:
        for index, (size, reduced) in enumerate(pool.map(check, range(len(source)))):
            sizes[index] = size
            reductions[index] = reduced
            report(index + 1, len(source))
    edges = edges / reductions
    boxes = Boxes(edges, sizes)
    left, top, right, bottom = edges.T
    width, height = boxes.sizes.T
    _refuse(source, edges, ~((left < right) & (top < bottom)), "has no area; its right and lower edge must lie beyond")
    outside = (left < 0) | (top < 0) | (right > width) | (bottom > height)
    _refuse(
        source, edges, outside, "reaches outside the image; expected edges within {width:g} x {height:g}", boxes.sizes
    )
    return boxes


def unreadable_images(source: Source) -> dict[int, ImageError]:
    """The images that cannot be decoded, and why; all of them are tried.

    Args:
        source: the images.
    """

    def error_of(index: int) -> ImageError | None:
        try:
            source.open(index).decode()
        except ImageError as error:
            return error
        return None

    with ThreadPoolExecutor(usable_cores()) as pool:
        return {index: error for index, error in enumerate(pool.map(error_of, range(len(source)))) if error}


def read_voc(file: Path | str, label: str) -> tuple[float, float, float, float]:
    """The box of an XML file as PASCAL VOC has it: of the largest object named `label`, or else of the largest of all.

    Raises: DataError, naming the file, if it is missing, no such XML, or has no object.
    """
    objects = read_voc_objects(file)
    boxes = [one.box for one in objects if one.label == label] or [one.box for one in objects]
    if not boxes:
        raise DataError(f"{file}: no object, so its image has no box; {VOC}.")
    return max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))


def resize_factors(sizes: Array, resize: int) -> Array:
    """By what `Preprocess.whole` multiplies width and height, (N, 2) as `sizes`: it rounds the longer side down."""
    shorter, longer = sizes.min(1, keepdims=True), sizes.max(1, keepdims=True)
    resized = np.where(sizes == shorter, resize, np.floor(resize * longer / shorter))
    factors: Array = resized / sizes
    return factors


def to_crop(boxes: Boxes, preprocess: Preprocess) -> Array:
    """The boxes in pixels of the preprocessed images, (N, 4); they may reach outside the crop."""
    factors = resize_factors(boxes.sizes, preprocess.resize)
    resized = np.round(boxes.sizes * factors)  # a product such as 85 * (30 / 85) is not whole
    offsets = np.round((resized - preprocess.crop) / 2)  # as torchvision's center crop
    edges: Array = boxes.edges * np.tile(factors, 2) - np.tile(offsets, 2)
    return edges


def _refuse(source: Source, edges: Array, wrong: NDArray[np.bool_], why: str, sizes: Array | None = None) -> None:
    """Raises: DataError naming the first image that is wrong."""
    if not wrong.any():
        return
    first = int(wrong.argmax())
    width, height = (0, 0) if sizes is None else sizes[first]
    box = ", ".join(f"{edge:g}" for edge in edges[first])
    more = f" So do {wrong.sum() - 1} more." if wrong.sum() > 1 else ""
    raise DataError(
        f"{source.describe(first)}: the box (left, top, right, bottom) = ({box}) "
        f"{why.format(width=width, height=height)}.{more} Mend or remove the box."
    )
