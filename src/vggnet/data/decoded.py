"""Small images, decoded once into one uint8 array that is cached on the disk."""

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggnet.data.caching import mark_used
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.source import Source
from vggnet.devices import usable_cores
from vggnet.errors import DataError, ImageError, StorageError
from vggnet.files import cache_folder, replacing
from vggnet.progress import Progress, report_progress

DECODING = 2  # changes when the same files come to be decoded to other pixels
KEPT = 2  # data sets that a process keeps, such as those for training and for testing

Key = TypeVar("Key")
Value = TypeVar("Value")


class Decoded(NamedTuple):
    """Every image of a source, resized and cropped."""

    pixels: Tensor  # uint8 (N, C, crop, crop), memory-mapped where a cache can be kept; 0 for what cannot be read
    bad: dict[int, ImageError]  # by index, the errors of the images that cannot be read


_kept: dict[tuple[Source, Preprocess], Decoded] = {}


def decoded(source: Source, preprocess: Preprocess, *, progress: Progress = False) -> Tensor:
    """Every image of `source`, resized and cropped: uint8 (N, C, crop, crop).  Arguments: as `decode_all`.

    Raises: ImageError for the first image that cannot be read.
    """
    pixels, bad = decode_all(source, preprocess, progress=progress)
    if bad:
        raise copy(bad[min(bad)])
    return pixels


def decode_all(source: Source, preprocess: Preprocess, *, progress: Progress = False) -> Decoded:
    """Every image of `source`, as far as it can be read.

    Args:
        source: the images.
        preprocess: how to resize and crop them.
        progress: how to report decoding, which happens once for a data set; see `vggnet.progress.Progress`.

    Raises:
        DataError: if no image can be read.
    """
    found = recall(_kept, (source, preprocess), lambda: _cached_or_decoded(source, preprocess, progress))
    if len(found.bad) == len(source) > 0:
        first = found.bad[min(found.bad)]
        raise DataError(f"{source.name}: none of its {len(source):,} images can be read. The first is {first}")
    return found


def recall(kept: dict[Key, Value], key: Key, make: Callable[[], Value]) -> Value:
    """`kept[key]`, made if it is not there. `kept` holds the KEPT values that were used last, the newest at its end."""
    value = kept.pop(key) if key in kept else make()
    kept[key] = value
    for oldest in list(kept)[:-KEPT]:
        del kept[oldest]
    return value


def forget_decoded() -> None:
    """Close the arrays that this process keeps open."""
    _kept.clear()


def _cached_or_decoded(source: Source, preprocess: Preprocess, progress: Progress) -> Decoded:
    shape = (len(source), preprocess.in_channels, preprocess.crop, preprocess.crop)
    path = cache_folder() / "decoded" / f"{_key(source, preprocess)}.npy"
    array, reasons = _cached(path, shape) or (np.zeros(shape, np.uint8), dict.fromkeys(range(len(source))))
    missing = [index for index, reason in reasons.items() if reason is None]
    if missing:
        bad = _decode(source, preprocess, array, missing, progress)
        kept = {index: reason for index, reason in reasons.items() if reason is not None}
        kept |= {index: None if error.may_pass else error.reason for index, error in bad.items()}
        if len(bad) < len(missing) or kept != reasons:
            with suppress(StorageError):  # without a cache it is decoded again next time
                _write(path, array, kept)
                array = (_cached(path, shape) or (array, kept))[0]  # from the disk rather than in memory
        reasons = kept | {index: error.reason for index, error in bad.items()}
    mark_used(path)
    errors = {index: ImageError(str(reason), name=source.describe(index)) for index, reason in reasons.items()}
    return Decoded(torch.from_numpy(array), errors)


def _key(source: Source, preprocess: Preprocess) -> str:
    identity = [source.pixels_key, source.split, preprocess.resize, preprocess.crop, preprocess.mode, DECODING]
    identity += ["stretch"] if preprocess.stretch else []
    if preprocess.interpolation != "bilinear":
        identity.append(preprocess.interpolation)
    return hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).hexdigest()


def _write(path: Path, array: NDArray[np.uint8], reasons: dict[int, str | None]) -> None:
    """Raises: StorageError."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)
        file.write(json.dumps(sorted(reasons.items())).encode())  # behind the array, where np.load stops


def _cached(path: Path, shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], dict[int, str | None]] | None:
    """The array and why images are missing, None if they are not there or not whole.

    The reason of an image that may be readable by now is None.
    """
    try:
        array = np.load(path, mmap_mode="c")  # copy on write: the file is never changed
        with path.open("rb") as file:
            file.seek(array.offset + array.nbytes)
            reasons = json.loads(file.read() or "[]")
    except (OSError, ValueError, EOFError):
        return None
    if array.shape != shape or array.dtype != np.uint8 or (isinstance(reasons, dict) and reasons):
        return None  # version 0.1 wrote an object, in which each reason contained the path of that time
    return array, dict(reasons)


def _decode(
    source: Source, preprocess: Preprocess, array: NDArray[np.uint8], indices: Sequence[int], progress: Progress
) -> dict[int, ImageError]:
    """Fill in the images at `indices`, and return the errors of those that cannot be read."""
    bad: dict[int, ImageError] = {}

    def fill(index: int) -> None:
        try:
            array[index] = preprocess.pixels(source.read(index)).numpy()
        except ImageError as error:
            bad[index] = error

    with ThreadPoolExecutor(usable_cores()) as pool, report_progress(progress, "decoding") as report:
        for done, _ in enumerate(pool.map(fill, indices), start=1):
            report(done, len(indices))
    return dict(sorted(bad.items()))
