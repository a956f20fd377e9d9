"""One vector for a picture, by which pictures are compared."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggnet.data.images import Named
from vggnet.errors import ImageError
from vggnet.features.extractor import FeatureExtractor, last_relu, on_device, prepared
from vggnet.features.pooling import pool
from vggnet.models.vgg import VGG

POOLING = "gem"
BATCH = 16  # pictures at a time through the network


def described_layers(network: VGG) -> list[str]:
    """relu4_3, relu5_1 and relu5_3 for VGG-16, and the like of other columns.

    Of 90 choices the best by leave-one-out on the training images of flowers17: with POOLING 95.5 % have a nearest
    neighbor of their class, against 90.2 % by the mean of relu5_3; on the test images 85.6 %.
    """
    return list(dict.fromkeys([last_relu(network, 4), "relu5_1", last_relu(network, 5)]))


def joined(layers: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """{layer: (N, C)} -> (N, D): each layer at length 1, side by side, and the whole at length 1."""
    return at_length_1(np.concatenate([at_length_1(layers[layer]) for layer in sorted(layers)], axis=1))


@torch.no_grad()
def describe_pictures(network: VGG, pictures: Sequence[Named]) -> NDArray[np.float32]:
    """The vectors (N, D) of pictures, of length 1.

    Raises: ImageError for a picture that cannot be read; WeightsError as FeatureExtractor.
    """
    extractor = FeatureExtractor(network, described_layers(network)).eval()
    found: dict[str, list[NDArray[np.float32]]] = {layer: [] for layer in extractor.channels}
    for batch in prepared(network, pictures, BATCH):
        for layer, maps in extractor(on_device(network, [_readable(pixels) for pixels in batch])).items():
            found[layer].append(pool(maps, POOLING).cpu().numpy())
    return joined({layer: np.concatenate(values) for layer, values in found.items()})


def _readable(pixels: Tensor | ImageError) -> Tensor:
    if isinstance(pixels, ImageError):
        raise pixels
    return pixels


def fingerprint(network: VGG) -> str:
    """Hex digits that change with the weights below the deepest layer."""
    digest = blake2b(digest_size=16)
    for name, tensor in FeatureExtractor(network, described_layers(network)).state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def at_length_1(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, D), each row divided by its length; a row of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    normal: NDArray[np.float32] = vectors / np.maximum(lengths, np.float32(1e-12))
    return normal
