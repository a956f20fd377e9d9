"""Sets larger than memory or disk: images that are read a group at a time, in an order that keeps to few groups."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vggnet.data.counter_random import uniform
from vggnet.data.decoding import StoredImage, open_image
from vggnet.data.hashing import hash_bytes
from vggnet.data.sources.source import Source
from vggnet.errors import DataError

BUFFER = 4096  # images; by so many places at most is an image late
AHEAD = 4  # batches whose groups are read while another is worked on
READERS = 4  # groups read at a time
GROUP_PLACE, DELAY = 12, 13  # streams of random numbers, beside those of the augmentation

Item = tuple[int, bytes | None]  # the index of an image, and the bytes of its file if they have been read


class Group(Protocol):
    """Images that are read together: a row group of a parquet file, or neighbors in a tar file."""

    def __len__(self) -> int:
        """How many."""

    def read(self) -> list[bytes]:
        """Their files; empty for an image that is missing.  Raises: DataError if they cannot be read."""

    def describe(self, place: int) -> str:
        """Where the image at this place of the group lies, for messages."""


class Stream(Source):
    """A source of which only a few groups are in memory. Labels are known from the start, eight bytes an image."""

    hashes_contents = False

    def __init__(
        self,
        groups: Sequence[Group],
        *,
        name: str,
        split: str,
        classes: Sequence[str],
        labels: NDArray[np.int64],
        fingerprint: str,
    ) -> None:
        super().__init__(name=name, split=split, classes=classes, labels=labels)
        self._groups = groups
        self._firsts = np.cumsum([0, *map(len, groups)])[:-1]  # index of the first image of each group
        self._fingerprint = fingerprint
        self._last: tuple[int, list[bytes]] = (-1, [])  # the group that `open` has read last

    def open(self, index: int) -> StoredImage:
        """Reads all of the image's group, unless it is that of the image before: for images in order."""
        group, place = self._find(index)
        if self._last[0] != group:
            self._last = (group, self._groups[group].read())
        return open_image(self._last[1][place], name=self.describe(index))

    def describe(self, index: int) -> str:
        """As the group has it."""
        group, place = self._find(index)
        return self._groups[group].describe(place)

    def boxes(self) -> NDArray[np.float64]:
        """Raises: DataError."""
        raise DataError(
            f"{self.name}: boxes are not streamed, as all images are read to check them; leave out stream:."
        )

    @cached_property
    def image_hashes(self) -> NDArray[np.uint64]:
        """Of the place of each image in its file, and the classes: no image is read."""
        classes = "\0".join(self.classes)
        places = (self.describe(index).removeprefix(self.name) for index in range(len(self)))
        return np.array(
            [hash_bytes(f"{place}\0{classes}".encode(errors="surrogateescape")) for place in places], dtype=np.uint64
        )

    @cached_property
    def fingerprint(self) -> str:
        """As given."""
        return self._fingerprint

    def order(
        self, indices: NDArray[np.int64], *, seed: int, epoch: int, rank: int = 0, size: int = 1
    ) -> NDArray[np.int64]:
        """The images at `indices` that are for process `rank` of `size`, shuffled as (seed, epoch) say.

        Groups come in random order, and each process takes an equal stretch of them, so that two processes share one
        group at most. Within its stretch each image is late by up to BUFFER places, as drawn for it.
        """
        drawn = uniform(seed, epoch, self.groups_of(indices), GROUP_PLACE)
        mine = np.array_split(indices[np.argsort(drawn, kind="stable")], size)[rank]
        late = np.arange(len(mine)) + BUFFER * uniform(seed, epoch, mine, DELAY)
        return mine[np.argsort(late, kind="stable")]

    def ahead(self, chunks: Sequence[NDArray[np.int64]]) -> Iterator[list[Item]]:
        """The images of each chunk with their files. Each group is read once, and dropped after its last image."""
        needed = [np.unique(self.groups_of(chunk)).tolist() for chunk in chunks]
        last = {group: number for number, groups in enumerate(needed) for group in groups}
        held: dict[int, Future[list[bytes]]] = {}
        readers = ThreadPoolExecutor(READERS)
        try:
            for number, chunk in enumerate(chunks):
                for group in (group for groups in needed[number : number + 1 + AHEAD] for group in groups):
                    if group not in held:
                        held[group] = readers.submit(self._groups[group].read)
                groups = self.groups_of(chunk)
                places = (chunk - self._firsts[groups]).tolist()
                files = (held[group].result()[place] for group, place in zip(groups.tolist(), places, strict=True))
                yield list(zip(chunk.tolist(), files, strict=True))
                for group in needed[number]:
                    if last[group] == number:
                        del held[group]
        finally:
            held.clear()  # a future that has failed refers to this frame
            readers.shutdown(wait=False, cancel_futures=True)

    def groups_of(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """The group of each image, (N,)."""
        groups: NDArray[np.int64] = np.searchsorted(self._firsts, indices, side="right") - 1
        return groups

    def _find(self, index: int) -> tuple[int, int]:
        """The group of an image, and its place there."""
        group = int(np.searchsorted(self._firsts, index, side="right")) - 1
        return group, index - int(self._firsts[group])
