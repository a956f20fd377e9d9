"""Read images before they are needed."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from vggnet.data.sources.source import Source
from vggnet.devices import usable_cores
from vggnet.errors import ImageError

T = TypeVar("T")


def read_ahead(source: Source, read: Callable[[int], T], workers: int | None) -> Iterator[T | ImageError]:
    """What is read of each image, or why it cannot be, in order; threads read a few ahead.

    Args:
        source: the images.
        read: called with the place of an image; raises ImageError.
        workers: threads, 0 for none; by default one for each core, eight at most.
    """
    threads = min(8, usable_cores()) if workers is None else workers
    if not threads:
        yield from map(partial(_read, source, read), range(len(source)))
        return
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(source), 2 * threads):
            yield from pool.map(partial(_read, source, read), range(first, min(first + 2 * threads, len(source))))


def _read(source: Source, read: Callable[[int], T], index: int) -> T | ImageError:
    try:
        return read(index)
    except ImageError as error:
        return error.named(source.describe(index))
