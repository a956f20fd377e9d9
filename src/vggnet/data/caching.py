"""What the cache keeps of data sets: decoded images, tables and hashes. It is bounded, and can be cleared."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vggnet.files import cache_folder

LIMIT = 20 * 10**9  # bytes; beyond, what was used longest ago is removed
FOLDERS = ("decoded", "arrow", "hashes")  # of the cache folder; other folders in it hold what was downloaded


@dataclass(frozen=True, kw_only=True)
class CacheUse:
    """What the cache holds of data sets, all of which can be made again."""

    folder: str
    files: int
    num_bytes: int


def cache_use() -> CacheUse:
    """What the cache holds of data sets.

    Example:
        >>> cache_use().files >= 0
        True
    """
    sizes = [size for _, size, _ in _files()]
    return CacheUse(folder=str(cache_folder()), files=len(sizes), num_bytes=sum(sizes))


def clear_cache() -> CacheUse:
    """Remove what is kept of data sets.

    Returns:
        What was removed. Downloaded weights and data sets stay.
    """
    used = [(size, path) for _, size, path in _files()]
    removed = [size for size, path in used if _remove(path)]
    return CacheUse(folder=str(cache_folder()), files=len(removed), num_bytes=sum(removed))


def mark_used(path: Path) -> None:
    """Note that a file of the cache was used now, and remove what was used longest ago beyond LIMIT.

    Args:
        path: of the file, which is kept.
    """
    with suppress(OSError):
        os.utime(path)
    files = sorted(_files())
    total = sum(size for _, size, _ in files)
    for _, size, oldest in files:
        if total <= LIMIT:
            return
        if oldest != path and _remove(oldest):
            total -= size


def _files() -> list[tuple[int, int, Path]]:
    """When each file was used last, its size in bytes, and its path."""
    found = []
    for folder in FOLDERS:
        with suppress(OSError):  # there is none, or this user may not read it
            for path in (cache_folder() / folder).iterdir():
                with suppress(OSError):  # another process has removed it
                    status = path.stat()
                    found.append((status.st_mtime_ns, status.st_size, path))
    return found


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True
