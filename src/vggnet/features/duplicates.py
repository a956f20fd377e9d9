"""Pictures of a data set that show the same: copies, other sizes and compressions, slight crops, changes of light."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from vggnet.data.sources.opening import open_source, source_splits
from vggnet.data.sources.source import Source as Data
from vggnet.errors import ConfigError, DataError, ImageError
from vggnet.features.descriptors import at_length_1
from vggnet.features.extractor import FeatureExtractor, last_relu, on_device
from vggnet.features.pretrained import DEFAULT, Source, answering
from vggnet.models.vgg import VGG

# Unlike for search, places matter here: a grid of features of the whole picture, made small. Of 28 choices this one
# tells apart best: on 200 training images of flowers17 the most similar two have 0.85, while an image and its like have
# at least 0.99 (JPEG quality 40), 0.98 (20 % brighter), 0.94 (30 % more contrast), 0.92 (3 % cropped on each side, or
# text on it), 0.91 (48 pixels wide), 0.84 (8 % cropped).
SIDE = 64  # pixels
BLOCK_OF_LAYER = 3  # its last ReLU, relu3_3 of VGG-16
GRID = 4
THRESHOLD = 0.9  # cosine
BATCH = 64  # pictures at a time through the network
BLOCK = 2048  # rows of the matrix of cosines at a time

Place = tuple[Data, int]  # a picture: its split, and its index there


@dataclass(frozen=True, kw_only=True)
class Group:
    """Pictures that are nearly the same, each with where it lies, its split and its class."""

    similarity: float  # the least cosine that joins two of them
    images: tuple[str, ...]
    splits: tuple[str, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """What was found in a data set, the surest first."""

    threshold: float
    images: int  # that could be read
    groups: tuple[Group, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def as_table(self) -> str:
        """A line for each group that says what is bad about it, then one for each picture."""
        lines = [f"near-duplicates, cosine at least {self.threshold:g}: {len(self.groups)} groups"]
        for group in self.groups:
            across = "".join(
                f", in several {what}"
                for what, found in (("splits", group.splits), ("classes", group.classes))
                if len(set(found)) > 1
            )
            lines.append(f"  {group.similarity:.3f}{across}")
            lines += [
                f"    {image}  ({split}, {name})"
                for image, split, name in zip(group.images, group.splits, group.classes, strict=True)
            ]
        return "\n".join(lines)


def find_duplicates(
    spec: str | Path,
    *,
    weights: Source = DEFAULT,
    threshold: float = THRESHOLD,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Duplicates:
    """Groups of near-duplicates among all splits of a data set (`spec` as in open_source).

    Two pictures belong together if the cosine of their vectors reaches `threshold`, or if a third joins them. What
    cannot be read is left out. Mirror images are not found.
    Raises: ConfigError for a threshold outside (0, 1]; DataError as `inspect`; WeightsError.
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold is {threshold}; it is a cosine in (0, 1].")
    splits = [split for split in source_splits(spec) if split != "all"]
    sources = [open_source(spec, split) for split in splits]
    places = [(source, index) for source in sources for index in range(len(source))]
    found = list(_described(answering(weights, device), places, progress))
    if not found:
        raise DataError(f"{spec}: none of the {len(places)} pictures can be read.")
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
    network: VGG, places: Sequence[Place], progress: Callable[[int, int], None] | None
) -> Iterator[tuple[NDArray[np.float32], list[int]]]:
    """Batches of vectors (n, D), with the positions of the pictures among `places`."""
    layer = last_relu(network, BLOCK_OF_LAYER)
    extractor = FeatureExtractor(network, layer).eval()
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
                maps = extractor(on_device(network, pixels))[layer]
                yield F.adaptive_avg_pool2d(maps, GRID).flatten(1).cpu().numpy(), positions
        if progress:
            progress(min(start + BATCH, len(places)), len(places))


def _small(image: Image.Image) -> Tensor:
    """uint8 (3, SIDE, SIDE) of the whole picture, whatever its shape."""
    pixels: Tensor = pil_to_tensor(image.resize((SIDE, SIDE), Image.Resampling.BOX))
    return pixels


def group_rows(vectors: NDArray[np.float32], threshold: float) -> list[tuple[float, list[int]]]:
    """Rows of (N, D) that are joined by cosines of at least `threshold`.

    Each group with the least cosine that joins two of it, the highest first.
    """
    normal = at_length_1(vectors)
    found: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
    for start in range(0, len(normal), BLOCK):
        block = normal[start : start + BLOCK] @ normal[start:].T
        row, column = np.nonzero(np.triu(block >= threshold, k=1))
        found.append((row + start, column + start, block[row, column]))
    first, second, cosine = (np.concatenate(parts) for parts in zip(*found, strict=True))
    _, labels = connected_components(coo_array((cosine, (first, second)), shape=(len(normal), len(normal))), False)
    groups = [
        (float(cosine[labels[first] == label].min()), np.flatnonzero(labels == label).tolist())
        for label in np.unique(labels[first])
    ]
    return sorted(groups, key=lambda group: -group[0])
