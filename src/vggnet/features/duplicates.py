"""Near-duplicates in a data set: copies, other sizes and compressions, slight crops, changes of brightness."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from vggnet.data.sources.opening import open_source, source_splits
from vggnet.data.sources.source import Source
from vggnet.errors import ConfigError, DataError, ImageError
from vggnet.features.extractor import (
    DEFAULT_MODEL,
    FeatureExtractor,
    accepts_weights,
    last_relu,
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

Place = tuple[Source, int]  # an image: its split, and its index there


@dataclass(frozen=True, kw_only=True)
class Group:
    """Images that are nearly the same, each with where it is, its split and its class."""

    similarity: float  # the least cosine that joins two of them
    images: tuple[str, ...]
    splits: tuple[str, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Near-duplicates in a data set, the most similar first."""

    threshold: float
    images: int  # that could be read
    groups: tuple[Group, ...]


@accepts_weights
def find_duplicates(
    data: str | Path,
    *,
    model: VGG | Path | str = DEFAULT_MODEL,
    threshold: float = THRESHOLD,
    device: str | None = None,
    progress: Progress = False,
) -> Duplicates:
    """Find groups of near-duplicates among all splits of a data set.

    Two images belong together if the cosine of their vectors reaches the threshold, or if a third joins them. Images
    that cannot be read are left out. Mirror images are not found.

    Args:
        data: "digits", "cifar10", a folder of class folders or of parquet files, ... as for `vggnet.train`.
        model: a VGG, a run folder, a `.safetensors` file or a name of `vgg weights list`.
        threshold: cosine in (0, 1]; 1 finds only copies.
        device: "cpu", "cuda", ...; by default a VGG stays where it is, and a file goes to the GPU if there is one.
        progress: False shows nothing, True a bar or lines on stderr; a callable gets (done, total) after each batch.

    Raises:
        ConfigError: the threshold is out of range.
        DataError: the data set cannot be opened, or none of its images can be read.
        WeightsError: there is no such model, or it has no preprocessing.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> with TemporaryDirectory() as folder:
        ...     for name in ("cat/one.png", "dog/copy.png"):
        ...         Path(folder, "train", name).parent.mkdir(parents=True)
        ...         Image.linear_gradient("L").save(Path(folder, "train", name))
        ...     (group,) = find_duplicates(folder, model="vgg8_bn-cifar10-fast").groups
        >>> group.classes
        ('cat', 'dog')
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold is {threshold}; it is a cosine in (0, 1].")
    splits = [split for split in source_splits(data) if split != "all"]
    sources = [open_source(data, split) for split in splits]
    places = [(source, index) for source in sources for index in range(len(source))]
    opened = open_model(model, device=device)
    with report_progress(progress, "comparing") as report:
        found = list(_described(opened, places, report))
    if not found:
        raise DataError(f"{data}: none of the {len(places)} images can be read.")
    kept = [places[position] for _, positions in found for position in positions]
    groups = tuple(
        Group(
            similarity=similarity,
            images=tuple(source.describe(index) for source, index in members),
            splits=tuple(source.split for source, _ in members),
            classes=tuple(source.classes[source.labels[index]] for source, index in members),
        )
        for similarity, rows in group_rows(np.concatenate([vectors for vectors, _ in found]), threshold)
        for members in [[kept[row] for row in rows]]
    )
    return Duplicates(threshold=threshold, images=len(kept), groups=groups)


def _described(
    opened: OpenModel, places: Sequence[Place], report: Callable[[int, int], None]
) -> Iterator[tuple[NDArray[np.float32], list[int]]]:
    """Batches of vectors (n, D), with the positions of the images among `places`."""
    layer = last_relu(opened.network, BLOCK_OF_LAYER)
    extractor = FeatureExtractor(opened.network, layer).eval()
    for start in range(0, len(places), BATCH):
        pixels: list[Tensor] = []
        positions: list[int] = []
        for position, (source, index) in enumerate(places[start : start + BATCH], start=start):
            try:
                pixels.append(_small(source.read(index)))
                positions.append(position)
            except ImageError:  # `inspect` reports it
                continue
        if pixels:
            with torch.no_grad():
                maps = extractor(normalized(pixels, opened.preprocess, opened.device))[layer]
                yield F.adaptive_avg_pool2d(maps, GRID).flatten(1).cpu().numpy(), positions
        report(min(start + BATCH, len(places)), len(places))


def _small(image: Image.Image) -> Tensor:
    """uint8 (3, SIDE, SIDE) of the whole image, whatever its shape."""
    pixels: Tensor = pil_to_tensor(image.resize((SIDE, SIDE), Image.Resampling.BOX))
    return pixels


def group_rows(vectors: NDArray[np.float32], threshold: float) -> list[tuple[float, list[int]]]:
    """Rows of (N, D) that are joined by cosines of at least `threshold`.

    Each group with the least cosine that joins two of it, the highest first.
    """
    normal = unit_length(vectors)
    found: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
    for start in range(0, len(normal), BLOCK):
        block = normal[start : start + BLOCK] @ normal[start:].T
        row, column = np.nonzero(np.triu(block >= threshold, k=1))
        found.append((row + start, column + start, block[row, column]))
    first, second, cosine = (np.concatenate(parts) for parts in zip(*found, strict=True))
    labels = _components(len(normal), first, second)
    groups = [
        (float(cosine[labels[first] == label].min()), np.flatnonzero(labels == label).tolist())
        for label in np.unique(labels[first])
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
