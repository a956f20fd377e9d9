"""Image retrieval: a vector for each image, an index of many of them, and the nearest to a query."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggnet.data.formats import image_files
from vggnet.data.images import Named, Pictures, named_pictures
from vggnet.errors import ConfigError, ImageError, OnError, check_at_least
from vggnet.features.duplicates import Duplicates, Group, find_duplicates
from vggnet.features.extractor import (
    FeatureExtractor,
    accepts_weights,
    model_first,
    normalized,
    pooled,
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
    on_error: OnError = "return",
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


@overload
def find_similar(
    index: Path | str,
    images: Pictures,
    *,
    top: int = ...,
    model: VGG | Path | str | None = ...,
    device: str | None = ...,
    on_error: Literal["raise"] = ...,
) -> list[list[Match]]: ...
@overload
def find_similar(
    index: Path | str,
    images: Pictures,
    *,
    top: int = ...,
    model: VGG | Path | str | None = ...,
    device: str | None = ...,
    on_error: OnError,
) -> list[list[Match] | ImageError]: ...
@accepts_weights
def find_similar(
    index: Path | str,
    images: Pictures,
    *,
    top: int = 8,
    model: VGG | Path | str | None = None,
    device: str | None = None,
    on_error: OnError = "raise",
) -> list[list[Match]] | list[list[Match] | ImageError]:
    """Find the most similar images of an index for each image.

    Args:
        index: a file that `build_index` wrote.
        images: files, folders, the bytes of files, open files, PIL images, uint8 arrays (H, W, 3) or uint8 tensors
            (3, H, W).
        top: number of matches for each image.
        model: only if the weights that made the index are somewhere else now.
        device: "cpu", "cuda", ...; by default a GPU if there is one.
        on_error: "raise" raises the error of an image that cannot be read; "return" has it in the place of its matches.

    Returns:
        A list of matches for each image, the nearest first.

    Raises:
        ConfigError: `top` is below 1, or the index was made by other weights.
        DataError: the file is not an index.
        ImageError: an image cannot be read, with `on_error="raise"`.
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
    described = describe_images(opened, list(named_pictures(images)), list(found.layers))
    errors = [one for one in described if isinstance(one, ImageError)]
    if errors and on_error == "raise":
        raise errors[0]
    vectors = [one for one in described if not isinstance(one, ImageError)]
    matches = iter(_matches(found, np.stack(vectors), top) if vectors else ())
    return [one if isinstance(one, ImageError) else next(matches) for one in described]


def _matches(index: SimilarityIndex, vectors: NDArray[np.float32], top: int) -> list[list[Match]]:
    order, cosines = index.nearest(vectors, top)
    return [
        [Match(image=index.images[place], similarity=float(cosine)) for place, cosine in zip(*row, strict=True)]
        for row in zip(order, cosines, strict=True)
    ]


@torch.no_grad()
def describe_images(
    opened: OpenModel, pictures: Sequence[Named], layers: Sequence[str]
) -> list[NDArray[np.float32] | ImageError]:
    """The vector (D,) of each image, of length 1, as in an index of these layers; or why it cannot be read."""
    extractor = FeatureExtractor(opened.network, layers).eval()
    described: list[NDArray[np.float32] | ImageError] = []
    for batch in read_batches(pictures, opened.preprocess, BATCH):
        readable = [pixels for pixels in batch if isinstance(pixels, Tensor)]
        vectors = iter(())
        if readable:
            maps = extractor(normalized(readable, opened.preprocess, opened.device))
            vectors = iter(joined({layer: pooled(values, POOLING).cpu().numpy() for layer, values in maps.items()}))
        described += [pixels if isinstance(pixels, ImageError) else next(vectors) for pixels in batch]
    return described
