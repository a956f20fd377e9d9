"""Image retrieval: a vector for each image, an index of many of them, and the nearest to a query."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggnet.data.formats import image_files
from vggnet.data.images import Named, Pictures, named_pictures
from vggnet.data.loading import Skip
from vggnet.errors import ConfigError, ImageError, check_at_least
from vggnet.features.duplicates import Duplicates, Group, find_duplicates
from vggnet.features.extractor import (
    FeatureExtractor,
    accepts_weights,
    model_first,
    normalized,
    pooled,
    raised,
    read_batches,
)
from vggnet.features.index_update import IndexUpdate, update_index
from vggnet.features.similarity_index import (
    FORMAT,
    POOLING,
    SimilarityIndex,
    descriptor_layers,
    fingerprint,
    graph_file,
    joined,
    stamps_of,
    write_graph,
)
from vggnet.features.store import Extraction, extract_to_file
from vggnet.models.vgg import VGG
from vggnet.progress import Progress
from vggnet.weights.checkpoint import OpenModel, open_model

__all__ = [
    "Duplicates",
    "Extraction",
    "Group",
    "IndexUpdate",
    "Match",
    "SimilarityIndex",
    "build_index",
    "find_duplicates",
    "find_similar",
    "update_index",
]

BATCH = 16  # images at a time through the network, of a query


@dataclass(frozen=True, kw_only=True)
class Match:
    """An image of the index."""

    image: str  # its path as it was indexed
    similarity: float  # cosine of the angle between both vectors, at most 1


@accepts_weights
@model_first("images", "out")
def build_index(
    model: VGG | Path | str,
    images: Sequence[Path | str] | Path | str,
    out: Path | str,
    *,
    layers: Sequence[str] | str | None = None,
    batch_size: int = 16,
    device: str | None = None,
    on_error: Literal["raise", "return"] = "return",
    progress: Progress = False,
) -> Extraction:
    """Write the vectors of images to a file, for `find_similar`. An interrupted call resumes.

    From 50,000 images on, a graph for fast search is written as well if usearch is installed:
    pip install 'vggnet[search]'.

    Args:
        model: a VGG, a run folder, a `.safetensors` file or a name of `vgg weights list`, such as "vgg16:features".
        images: image files, and folders of them.
        out: a `.safetensors` file.
        layers: what the vectors consist of, such as "relu7"; maps are pooled over places. By default three deep layers.
        batch_size, device, on_error, progress: as for `vggnet.features.store.extract_to_file`.

    Raises:
        ConfigError: `out` is no `.safetensors` file, or as `extract_to_file`.
        DataError, WeightsError, StorageError: as `extract_to_file`.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> with TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 32)).save(f"{folder}/photo.png")
        ...     build_index("vgg8_bn-cifar10-fast", folder, f"{folder}/index.safetensors").images
        1
    """
    out = Path(out).expanduser()
    if out.suffix != ".safetensors":
        raise ConfigError(f"{out}: an index is a .safetensors file; give a name that ends so.")
    graph_file(out).unlink(missing_ok=True)
    opened = open_model(model, device=device)
    layers = [layers] if isinstance(layers, str) else list(layers or descriptor_layers(opened.network))
    name = opened.network.architecture.name if isinstance(model, VGG) else str(model)
    extraction = extract_to_file(
        opened.network,
        images,
        layers,
        out,
        pooling=POOLING,
        batch_size=batch_size,
        on_error=on_error,
        progress=progress,
        metadata={
            "format": FORMAT,
            "weights": name,
            "fingerprint": fingerprint(opened.network, layers),
            "stamps": json.dumps(stamps_of(image_files([images] if isinstance(images, Path | str) else images))),
        },
    )
    write_graph(out)
    return extraction


@accepts_weights
def find_similar(
    index: Path | str,
    images: Pictures,
    *,
    top: int = 8,
    model: VGG | Path | str | None = None,
    device: str | None = None,
    skip: Callable[[ImageError], None] | None = None,
) -> list[list[Match]]:
    """Find the most similar images of an index for each image.

    Args:
        index: a file that `build_index` wrote.
        images: files, folders, the bytes of files, open files, PIL images, uint8 arrays (H, W, 3) or uint8 tensors
            (3, H, W).
        top: number of matches for each image.
        model: only if the weights that made the index are somewhere else now.
        device: "cpu", "cuda", ...; by default a GPU if there is one.
        skip: called with the error of each image that cannot be read, which then has no matches; without it such an
            error is raised.

    Returns:
        A list of matches for each image, the nearest first.

    Raises:
        ConfigError: `top` is below 1, or the index was made by other weights.
        DataError: the file is not an index.
        ImageError: an image cannot be read, and there is no `skip`.
        WeightsError: there is no such model.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> with TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 32), "red").save(f"{folder}/red.png")
        ...     _ = build_index("vgg8_bn-cifar10-fast", folder, f"{folder}/index.safetensors")
        ...     ((match,),) = find_similar(f"{folder}/index.safetensors", f"{folder}/red.png", top=1)
        >>> round(match.similarity, 3)
        1.0
    """
    check_at_least(1, top=top)
    found = SimilarityIndex(index)
    opened = open_model(model or found.weights, device=device)
    if not found.fits(opened.network):
        raise ConfigError(
            f"{index} was made by other weights than {model or found.weights} has now. Make it again, or name those "
            "weights."
        )
    bad: dict[int, ImageError] = {}

    def note(place: int, error: ImageError) -> None:
        bad[place] = error

    vectors = describe_images(opened, list(named_pictures(images)), list(found.layers), note if skip else None)
    if skip:
        for error in bad.values():
            skip(error)
    order, cosines = found.nearest(vectors, top)
    return [
        []
        if number in bad
        else [Match(image=found.images[place], similarity=float(cosine)) for place, cosine in zip(*row, strict=True)]
        for number, row in enumerate(zip(order, cosines, strict=True))
    ]


@torch.no_grad()
def describe_images(
    opened: OpenModel, pictures: Sequence[Named], layers: Sequence[str], skip: Skip | None = None
) -> NDArray[np.float32]:
    """The vectors (N, D) of images, of length 1, as in an index of these layers.

    The vector of an image that cannot be read is 0, and `skip` is called with it.

    Raises: ImageError without `skip`; WeightsError.
    """
    extractor = FeatureExtractor(opened.network, layers).eval()
    found: dict[str, list[NDArray[np.float32]]] = {layer: [] for layer in extractor.channels}
    for first, batch in zip(count(0, BATCH), read_batches(pictures, opened.preprocess, BATCH), strict=False):
        for place, error in enumerate(batch):
            if skip and isinstance(error, ImageError):
                skip(first + place, error)
        readable = [place for place, pixels in enumerate(batch) if skip is None or isinstance(pixels, Tensor)]
        images = [raised(batch[place]) for place in readable]
        maps = extractor(normalized(images, opened.preprocess, opened.device)) if images else {}
        for layer, channels in extractor.channels.items():
            values = np.zeros((len(batch), channels), np.float32)
            if images:
                values[readable] = pooled(maps[layer], POOLING).cpu().numpy()
            found[layer].append(values)
    return joined({layer: np.concatenate(values) for layer, values in found.items()})
