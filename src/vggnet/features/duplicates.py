"""Near-duplicates: copies, other sizes and compressions, slight crops, changes of brightness.

Cosines of features of small versions find candidates; `alignment.agreement` compares their details.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from vggnet.data.decoding import decode_image
from vggnet.data.formats import image_files
from vggnet.data.pixels import to_tensor
from vggnet.data.sources.opening import open_source, source_splits
from vggnet.errors import ConfigError, DataError, ImageError, OnError
from vggnet.features.alignment import agreement
from vggnet.features.extractor import (
    FeatureExtractor,
    accepts_weights,
    last_relu,
    model_first,
    normalized,
    unit_length,
)
from vggnet.models.vgg import VGG
from vggnet.progress import Progress, report_progress
from vggnet.weights.checkpoint import OpenModel, open_model

# Unlike for search, places matter here: a grid of features of the whole image, made small. Of 28 choices this one
# discriminates best: on 200 training images of flowers17 the most similar two have 0.85, while an image and its copy
# have at least 0.99 (JPEG quality 40), 0.98 (20 % brighter), 0.94 (30 % more contrast), 0.92 (3 % cropped on each side,
# or text on it), 0.91 (48 pixels wide), 0.84 (8 % cropped).
SIDE = 64  # pixels
BLOCK_OF_LAYER = 3  # its last ReLU, relu3_3 of VGG-16
GRID = 4
THRESHOLD = 0.9  # cosine
BATCH = 64  # images at a time through the network
BLOCK = 2048  # rows of the matrix of cosines at a time
REDUCED = 512  # pixels to which an image is reduced before its details are compared
KEPT = 256  # images that are kept for comparing details

AGREEMENT = 0.5  # of the details of near-duplicates

Copies = Literal["turned", "mirrored", "gray"]
COPIES: tuple[Copies, ...] = ("turned", "mirrored", "gray")
View = Image.Transpose | None  # how one image is turned or mirrored before it is compared with another
TURNS = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
MIRRORED = (Image.Transpose.FLIP_LEFT_RIGHT,)
TURNED_AND_MIRRORED = (Image.Transpose.TRANSPOSE, Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.TRANSVERSE)


class Place(NamedTuple):
    """An image of a data set, or of a plain folder, which has neither splits nor classes."""

    name: str
    split: str
    label: str
    read: Callable[[], Image.Image]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Images that are nearly the same, each with where it is, its split and its class."""

    similarity: float  # the least cosine that joins two of them
    images: tuple[str, ...]
    splits: tuple[str, ...]
    classes: tuple[str, ...]
    could_go: tuple[str, ...]  # all images but the one with the most pixels


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Near-duplicates in a data set, the most similar first."""

    threshold: float
    images: int  # that could be read
    groups: tuple[Group, ...]
    unreadable: tuple[str, ...] = ()  # one line for each image that was left out

    @property
    def could_go(self) -> tuple[str, ...]:
        """The images that could be deleted so that one of each group is left. Nothing is deleted."""
        return tuple(image for group in self.groups for image in group.could_go)


@accepts_weights
@model_first("data")
def find_duplicates(
    model: VGG | Path | str,
    data: str | Path,
    *,
    threshold: float = THRESHOLD,
    copies: Sequence[Copies] = (),
    device: str | None = None,
    on_error: OnError = "return",
    progress: Progress = False,
) -> Duplicates:
    """Find groups of near-duplicates among all splits of a data set, or in a folder of images.

    Two images belong together if the cosine of their vectors reaches the threshold and their details agree, or if a
    third joins them.

    Args:
        model: a VGG, a run folder, a `.safetensors` file or a name of `vgg weights list`.
        data: "digits", "cifar10", a folder of class folders or of parquet files, ... as for `vggnet.train`; or a folder
            of image files without classes.
        threshold: cosine in (0, 1]; 1 finds only copies.
        copies: what else counts as a copy: "turned" by a multiple of 90 degrees, "mirrored", or "gray", for which all
            colors are ignored. Each but "gray" takes the time of as many more images.
        device: "cpu", "cuda", ...; by default a VGG stays where it is, and a file goes to the GPU if there is one.
        on_error: "return" leaves an unreadable image out and names it in the result; "raise" raises its ImageError.
        progress: False shows nothing, True a bar or lines on stderr; a callable gets (done, total) after each batch.

    Raises:
        ConfigError: the threshold is out of range, or a kind of copies is unknown.
        DataError: the data set cannot be opened, or none of its images can be read.
        WeightsError: there is no such model, or it has no preprocessing.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> with TemporaryDirectory() as folder:
        ...     for name in ("cat/one.png", "dog/copy.png"):
        ...         Path(folder, "train", name).parent.mkdir(parents=True)
        ...         Image.linear_gradient("L").save(Path(folder, "train", name))
        ...     (group,) = find_duplicates("vgg8_bn-cifar10-fast", folder).groups
        >>> group.classes
        ('cat', 'dog')
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold is {threshold}; it is a cosine in (0, 1].")
    unknown = [name for name in copies if name not in COPIES]
    if unknown:
        raise ConfigError(f"unknown kind of copies {unknown[0]!r}; expected {', '.join(COPIES)}.")
    places = _places(data)
    opened = open_model(model, device=device)
    views = _views(copies)
    with report_progress(progress, "comparing") as report:
        unreadable: dict[int, ImageError] = {}
        found = list(_described(opened, places, views, "gray" in copies, unreadable, report))
    if unreadable and on_error == "raise":
        raise min(unreadable.items())[1]
    if not found:
        raise DataError(f"{data}: none of the {len(places)} images can be read.")
    kept = [places[position] for _, positions in found for position in positions]
    vectors = np.concatenate([vectors for vectors, _ in found], axis=1)  # (views, N, D)
    agree = _Agreement(kept, views)
    groups = tuple(
        _group(similarity, [kept[row] for row in rows])
        for similarity, rows in group_rows(vectors[0], threshold, views=vectors[1:], confirm=agree)
    )
    return Duplicates(
        threshold=threshold,
        images=len(kept),
        groups=groups,
        unreadable=tuple(str(error) for error in unreadable.values()),
    )


def _places(data: str | Path) -> list[Place]:
    """Every image of a data set, or of a folder without classes.  Raises: DataError."""
    if is_plain_folder(data):
        files = image_files([Path(data).expanduser()])
        return [Place(str(file), "", "", partial(decode_image, file)) for file in files]
    sources = [open_source(data, split) for split in source_splits(data) if split != "all"]
    return [
        Place(source.describe(index), source.split, source.classes[source.labels[index]], partial(source.read, index))
        for source in sources
        for index in range(len(source))
    ]


def is_plain_folder(data: str | Path) -> bool:
    """Whether it is a folder that holds images itself, and no data set."""
    folder = Path(data).expanduser()
    if not folder.is_dir():
        return False
    try:
        source_splits(data)
    except DataError:
        return any(file.parent == folder for file in image_files([folder]))
    return False


def _views(copies: Sequence[Copies]) -> tuple[View, ...]:
    """How each image is seen when it is compared with the others: as it is first."""
    turned, mirrored = "turned" in copies, "mirrored" in copies
    both = TURNED_AND_MIRRORED if turned and mirrored else ()
    return (None, *(TURNS if turned else ()), *(MIRRORED if mirrored else ()), *both)


def _described(
    opened: OpenModel,
    places: Sequence[Place],
    views: Sequence[View],
    gray: bool,
    unreadable: dict[int, ImageError],
    report: Callable[[int, int], None],
) -> Iterator[tuple[NDArray[np.float32], list[int]]]:
    """Batches of vectors (views, n, D), with the positions of the images among `places`.

    An image that cannot be read is put into `unreadable`, with its position.
    """
    layer = last_relu(opened.network, BLOCK_OF_LAYER)
    extractor = FeatureExtractor(opened.network, layer).eval()
    for start in range(0, len(places), BATCH):
        images: list[Image.Image] = []
        positions: list[int] = []
        for position, place in enumerate(places[start : start + BATCH], start=start):
            try:
                image = place.read().resize((SIDE, SIDE), Image.Resampling.BOX)  # the whole, whatever its shape
            except ImageError as error:
                unreadable[position] = error.named(place.name)
                continue
            images.append(image.convert("L").convert("RGB") if gray else image)
            positions.append(position)
        vectors = []
        for view in views if images else ():
            pixels = [to_tensor(_seen(image, view)) for image in images]
            with torch.no_grad():
                maps = extractor(normalized(pixels, opened.preprocess, opened.device))[layer]
                vectors.append(F.adaptive_avg_pool2d(maps, GRID).flatten(1).cpu().numpy())
        if vectors:
            yield np.stack(vectors), positions
        report(min(start + BATCH, len(places)), len(places))


def _seen(image: Image.Image, view: View) -> Image.Image:
    return image if view is None else image.transpose(view)


class _Agreement:
    """Whether the details of two images agree. The last images that were read are kept."""

    def __init__(self, places: Sequence[Place], views: Sequence[View]) -> None:
        self.places, self.views = places, views
        self._read = lru_cache(KEPT)(self._reduced)

    def __call__(self, view: int, first: int, second: int) -> bool:
        """Of two rows, the first as in a view."""
        return agreement(_seen(self._read(first), self.views[view]), self._read(second)) >= AGREEMENT

    def _reduced(self, row: int) -> Image.Image:
        image = self.places[row].read()
        image.thumbnail((REDUCED, REDUCED))
        return image.convert("L")


def _group(similarity: float, members: Sequence[Place]) -> Group:
    sizes = [math.prod(place.read().size) for place in members]
    best = sizes.index(max(sizes))
    return Group(
        similarity=similarity,
        images=tuple(place.name for place in members),
        splits=tuple(place.split for place in members),
        classes=tuple(place.label for place in members),
        could_go=tuple(place.name for number, place in enumerate(members) if number != best),
    )


def group_rows(
    vectors: NDArray[np.float32],
    threshold: float,
    *,
    views: Sequence[NDArray[np.float32]] | NDArray[np.float32] = (),
    confirm: Callable[[int, int, int], bool] = lambda view, first, second: True,
) -> list[tuple[float, list[int]]]:
    """Rows of (N, D) that are joined by cosines of at least `threshold`.

    views: other vectors of the same rows, (N, D) each, which may also join a row with another one.
    confirm: decides about a pair (view, row, row) whose cosine is high enough; view 0 are the vectors themselves.
    Each group with the least cosine that joins two of it, the highest first.
    """
    normal = unit_length(vectors)
    found: list[tuple[int, int, float]] = []
    for view, rows in enumerate([normal, *map(unit_length, views)]):
        for start in range(0, len(normal), BLOCK):
            block = rows[start : start + BLOCK] @ normal.T
            first, second = np.nonzero(block >= threshold)
            cosines = block[first, second]
            first = first + start
            wanted = first < second if view == 0 else first != second
            for i, j, cosine in zip(first[wanted].tolist(), second[wanted].tolist(), cosines[wanted], strict=True):
                if confirm(view, i, j):
                    found.append((i, j, float(cosine)))
    if not found:
        return []
    pairs, cosine = np.array([(i, j) for i, j, _ in found]), np.array([value for _, _, value in found])
    labels = _components(len(normal), pairs[:, 0], pairs[:, 1])
    joined = labels[pairs[:, 0]]
    groups = [
        (float(cosine[joined == label].min()), np.flatnonzero(labels == label).tolist()) for label in np.unique(joined)
    ]
    return sorted(groups, key=lambda group: -group[0])


def _components(count: int, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of `count` nodes the least node that the edges (first, second) connect it with."""
    labels = np.arange(count)
    while True:
        before = labels.copy()
        np.minimum.at(labels, first, before[second])
        np.minimum.at(labels, second, before[first])
        labels = labels[labels]  # a label's own label, so that long chains need few rounds
        if np.array_equal(labels, before):
            return labels
