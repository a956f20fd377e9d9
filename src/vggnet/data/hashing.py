"""Hashes of image files by which copies are known, read once for a file and kept in the cache."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggnet.data.caching import mark_used
from vggnet.errors import StorageError
from vggnet.files import cache_folder, replacing

READERS = 16  # files read at a time
SETTLED = 2 * 10**9  # nanoseconds after which a change of a file shows in its times
FORGET = 4  # times as many hashes are kept as a folder has files, before those of earlier files are dropped

Hashes = NDArray[np.uint64]


def hash_bytes(content: bytes) -> int:
    """64 bits of the content of a file.

    Args:
        content: all of it.

    Example:
        >>> hash_bytes(b"one") == hash_bytes(b"one"), hash_bytes(b"one") == hash_bytes(b"two")
        (True, False)
    """
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "little")


def hash_files(files: Sequence[Path]) -> Hashes:
    """The hash of the content of each file, uint64 (N,). One that cannot be read now has that of its name.

    Args:
        files: paths. Hashes are kept in the cache for each path with its size, times and number on the disk.
    """
    if not files:
        return np.empty(0, dtype=np.uint64)
    path = cache_folder() / "hashes" / f"{hash_bytes(os.fsencode(os.path.commonpath(files))):016x}.npy"
    kept = _read(path)
    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(lambda file: _hash_file(file, kept), files))
    fresh = {key: value for key, value, is_kept in found if key is not None and not is_kept}
    if fresh:
        known = {key: value for key, value, _ in found if key is not None}
        with suppress(StorageError), replacing(path) as temporary, temporary.open("wb") as file:
            kept = kept if len(kept) < FORGET * len(known) else {}
            np.save(file, np.array(sorted((kept | known).items()), dtype=np.uint64))
    mark_used(path)
    return np.array([value for _, value, _ in found], dtype=np.uint64)


def _hash_file(file: Path, kept: dict[int, int]) -> tuple[int | None, int, bool]:
    """The key to keep a hash by, None if it must not be kept, the hash, and whether it was kept before."""
    try:
        status = file.stat()
        facts = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        key = hash_bytes(os.fsencode(file.absolute()) + b"\0" + repr(facts).encode())
        if key in kept:
            return key, kept[key], True
        value = hash_bytes(file.read_bytes())
    except OSError:
        return None, hash_bytes(os.fsencode(file.name)), False
    settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > SETTLED
    return key if settled else None, value, False


def _read(path: Path) -> dict[int, int]:
    """The kept hashes by their keys; none if the file is missing or damaged."""
    try:
        pairs = np.load(path)
    except (OSError, ValueError, EOFError):
        return {}
    if pairs.dtype != np.uint64 or pairs.ndim != 2 or pairs.shape[1] != 2:
        return {}
    return dict(pairs.tolist())
