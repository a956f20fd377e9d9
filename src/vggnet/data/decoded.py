"""Small images, decoded once into one uint8 array that is cached on the disk."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.source import Source
from vggnet.errors import DataError, ImageError, StorageError
from vggnet.files import cache_folder, replacing


class Decoded(NamedTuple):
    """Every image of a source, resized and cropped."""

    pixels: Tensor  # uint8 (N, C, crop, crop), memory-mapped where a cache can be kept; 0 for what cannot be read
    bad: dict[int, str]  # index of each image that cannot be read -> a message that names it


def decoded(source: Source, preprocess: Preprocess) -> Tensor:
    """Every image of `source`, resized and cropped: uint8 (N, C, crop, crop).

    Raises: ImageError for the first image that cannot be read.
    """
    pixels, bad = decode_all(source, preprocess)
    if bad:
        raise ImageError(bad[min(bad)])
    return pixels


@lru_cache(maxsize=2)
def decode_all(source: Source, preprocess: Preprocess) -> Decoded:
    """Every image of `source`, as far as it can be read.  Raises: DataError if none can."""
    shape = (len(source), preprocess.in_channels, preprocess.crop, preprocess.crop)
    path = cache_folder() / "decoded" / f"{_key(source, preprocess)}.npy"
    found = _cached(path, shape)
    if found is None:
        found = array, bad = _decode(source, preprocess, shape)
        with suppress(StorageError):  # without a cache it is decoded again next time
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, array)
                file.write(json.dumps(bad).encode())  # behind the array, where no reader of arrays looks
            found = _cached(path, shape) or found
    array, bad = found
    if len(bad) == len(source) > 0:
        raise DataError(f"{source.name}: none of its {len(source):,} images can be read. The first is {bad[0]}")
    return Decoded(torch.from_numpy(array), bad)


def named(error: ImageError, source: Source, index: int) -> ImageError:
    """An error that begins with where image `index` lies."""
    name = source.describe(index)
    return error if str(error).startswith(name) else ImageError(f"{name}: {error}")


def _key(source: Source, preprocess: Preprocess) -> str:
    identity = [source.fingerprint, source.split, preprocess.resize, preprocess.crop, preprocess.mode]
    if preprocess.interpolation != "bilinear":
        identity.append(preprocess.interpolation)
    return hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).hexdigest()


def _cached(path: Path, shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], dict[int, str]] | None:
    try:
        array = np.load(path, mmap_mode="c")  # copy on write: the file is never changed
        with path.open("rb") as file:
            file.seek(array.offset + array.nbytes)
            bad = json.loads(file.read() or "{}")
    except (OSError, ValueError, EOFError):
        return None
    sound = array.shape == shape and array.dtype == np.uint8
    return (array, {int(index): message for index, message in bad.items()}) if sound else None


def _decode(source: Source, preprocess: Preprocess, shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], dict[int, str]]:
    array, bad = np.zeros(shape, np.uint8), {}

    def fill(index: int) -> None:
        try:
            array[index] = preprocess.pixels(source.read(index)).numpy()
        except ImageError as error:
            bad[index] = str(named(error, source, index))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(fill, range(len(source)))
        for _ in tqdm(results, total=len(source), desc="decoding", unit="image", leave=False, disable=None):
            pass
    return array, bad
