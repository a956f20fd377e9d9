"""Small images, decoded once into one uint8 array that is cached on the disk."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from vggnet.atomic import replacing
from vggnet.cache import cache_folder
from vggnet.data.preprocess import Preprocess
from vggnet.data.source import Source
from vggnet.errors import StorageError

SMALL = 64  # pixels; images up to this size are kept decoded


@lru_cache(maxsize=2)
def decoded(source: Source, preprocess: Preprocess) -> Tensor:
    """Every image of `source`, resized and cropped: uint8 (N, C, crop, crop), memory-mapped where a cache can be kept.

    Raises: ImageError for an image that cannot be read.
    """
    shape = (len(source), len(preprocess.mean), preprocess.crop, preprocess.crop)
    path = cache_folder() / "decoded" / f"{_key(source, preprocess)}.npy"
    array = _cached(path, shape)
    if array is None:
        array = _decode(source, preprocess, shape)
        with suppress(StorageError):  # without a cache it is decoded again next time
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, array)
            array = _cached(path, shape)
    return torch.from_numpy(array)


def _key(source: Source, preprocess: Preprocess) -> str:
    identity = json.dumps([source.fingerprint, source.split, preprocess.resize, preprocess.crop, preprocess.mode])
    return hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()


def _cached(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    try:
        array = np.load(path, mmap_mode="c")  # copy on write: the file is never changed
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == shape and array.dtype == np.uint8 else None


def _decode(source: Source, preprocess: Preprocess, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    array = np.empty(shape, np.uint8)

    def fill(index: int) -> None:
        array[index] = preprocess.pixels(source.read(index)).numpy()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(fill, range(len(source)))
        for _ in tqdm(results, total=len(source), desc="decoding", unit="image", leave=False, disable=None):
            pass
    return array
