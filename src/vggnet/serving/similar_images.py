"""The index of images that `/similar` searches, as requests see it: by numbers, never by paths."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vggnet.data.images import named_pictures
from vggnet.errors import ImageError
from vggnet.features.retrieval import describe_images
from vggnet.features.similarity_index import SimilarityIndex
from vggnet.models.vgg import VGG
from vggnet.serving.image_decoder import Pixels
from vggnet.weights.checkpoint import OpenModel


class Neighbor(NamedTuple):
    """An image of the index."""

    position: int
    similarity: float  # cosine, at most 1


class SimilarImages:
    """An index that was opened.

    Args:
        path: a file that `vgg similar index` wrote.

    Raises:
        DataError: it is not an index.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = path
        self._index = SimilarityIndex(path)
        self.weights = self._index.weights
        folders = {str(Path(image).parent) for image in self._index.images}
        common = os.path.commonpath(folders) if folders else ""
        self.names = [os.path.relpath(image, common or ".") for image in self._index.images]

    def __len__(self) -> int:
        return len(self.names)

    def fits(self, network: VGG) -> bool:
        """Whether the network has the weights that made the index."""
        return self._index.fits(network)

    def describe(self, opened: OpenModel, pictures: Sequence[Pixels]) -> list[NDArray[np.float32]]:
        """The vectors (D,) of pictures (h, w, C), whose shorter side is resized already.  Raises: ImageError."""
        found = []
        for vector in describe_images(opened, list(named_pictures(list(pictures))), list(self._index.layers)):
            if isinstance(vector, ImageError):
                raise vector
            found.append(vector)
        return found

    def nearest(self, vector: NDArray[np.float32], top: int) -> list[Neighbor]:
        """The nearest images, the nearest first."""
        order, cosines = self._index.nearest(vector[None], top)
        return [
            Neighbor(int(place), float(cosine))
            for place, cosine in zip(order[0], np.minimum(cosines[0], 1), strict=True)
        ]

    def read(self, position: int) -> bytes:
        """The file of an image.  Raises: IndexError; OSError if it is no longer there."""
        if not 0 <= position < len(self):
            raise IndexError(position)
        return Path(self._index.images[position]).read_bytes()
