"""Memory of feature maps: a range of addresses in huge pages, parts of which are used again and again.

A training step takes and gives back hundreds of megabytes. Fresh memory from the system costs up to a third of the time
of the convolution that writes to it, and malloc, told to keep it, leaves gaps between tensors of different sizes and
lifetimes: half as much memory again. Memory in pages of 4 KiB is read up to a third slower, as finding so many pages
takes time, most of all in virtual machines.
"""

import mmap
import os
import sys
import weakref
from collections import deque
from contextlib import suppress
from functools import cache
from threading import Lock

NO_RESERVE = 0x4000  # a flag of mmap in Linux, which Python 3.11 has no name for
LEAST = 1 << 20  # bytes of a tensor that lies here; smaller ones are left to malloc
STEP = 4096 + 64  # parts begin at multiples of it: on a cache line, and not all at the same place in a page


class Arena:
    """Takes parts of a range of addresses; a part is free again as soon as nothing refers to it.

    Args:
        size: bytes of the range. It takes memory of the machine only where it was written to.

    Raises:
        OSError: the system does not give it.
    """

    def __init__(self, size: int) -> None:
        self._memory = memoryview(_huge_pages(size, NO_RESERVE))
        self._free = [(0, size)]  # starts and sizes of what is not in use, in order
        self._returned: deque[tuple[int, int]] = deque()  # also by the garbage collector, in the midst of other code
        self._lock = Lock()

    def take(self, size: int) -> memoryview | None:
        """So many bytes, at the lowest address at which they are free; None if they are nowhere."""
        size = -(-size // STEP) * STEP
        with self._lock:
            while self._returned:
                self._give_back(*self._returned.popleft())
            for i, (start, length) in enumerate(self._free):
                if length >= size:
                    self._free[i : i + 1] = [(start + size, length - size)] if length > size else []
                    part = self._memory[start : start + size]
                    weakref.finalize(part, self._returned.append, (start, size)).atexit = False
                    return part
        return None

    def _give_back(self, start: int, size: int) -> None:
        """Join a part with what is free before and after it."""
        i = 0
        while i < len(self._free) and self._free[i][0] < start:
            i += 1
        first, last = i, i
        if i > 0 and sum(self._free[i - 1]) == start:
            first, start, size = i - 1, self._free[i - 1][0], self._free[i - 1][1] + size
        if i < len(self._free) and self._free[i][0] == start + size:
            last, size = i + 1, size + self._free[i][1]
        self._free[first:last] = [(start, size)]


def take(size: int) -> memoryview | None:
    """So many bytes of the arena of this process; None where there is none, or no room in it."""
    found = _arena(os.getpid()) if size >= LEAST else None
    return found.take(size) if found else None


def kept(size: int) -> mmap.mmap | None:
    """Memory of its own in huge pages, for what stays; None for little of it, and elsewhere than on Linux."""
    return _huge_pages(size) if size >= LEAST and sys.platform == "linux" else None


@cache
def _arena(process: int) -> Arena | None:
    """That of a process: a forked one has its own. It can hold as much as the machine has."""
    if sys.platform != "linux":
        return None
    try:
        return Arena(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except OSError:  # addresses are limited, as by `ulimit -v`
        return None


def _huge_pages(size: int, flags: int = 0) -> mmap.mmap:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | flags)
    with suppress(OSError):  # a system without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
