"""Batches of uint8 pixels, for training (shuffled, reproducible from seed and epoch) and for testing (in order)."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggnet.data.counter_random import derive_seed
from vggnet.data.decoded import decode_all, decoded
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.source import Source
from vggnet.data.sources.stream import Stream
from vggnet.data.workers import (
    AnyView,
    CropView,
    ObjectsView,
    Request,
    UncroppedImages,
    View,
    ViewedImages,
    make_requests,
    received,
    sent,
    stack,
    start_workers,
)
from vggnet.devices import usable_cores
from vggnet.errors import ImageError
from vggnet.progress import Progress

GROUPED = 64  # whole images whose groups of a stream are looked up at once

# Called with each image that cannot be read, and that its batch then lacks: skip(index, error).
Skip = Callable[[int, ImageError], None]


class Batch(NamedTuple):
    """Images with their labels and their places in the source."""

    images: Tensor  # uint8 (N, C, H, W), channels-last in memory if photos
    labels: Tensor  # int64 (N,)
    indices: Tensor  # int64 (N,)
    masks: Tensor | None = None  # uint8 (N, H, W), where they are wanted
    objects: tuple[Tensor, ...] | None = None  # float32 (n, 5) of each, where a view gives them


class EvalBatches:
    """Every image once, in order, resized and cropped.

    Args:
        source: the images.
        preprocess: how to resize and crop them.
        batch_size: most images of a batch.
        workers: processes that open and preprocess images; they stay until the object is deleted. 0 for none.
        indices: places of the images to take, int64 (N,); by default all.
        skip: called with each image that cannot be read, which its batch then lacks; without it such an image raises
            ImageError.
        view: what to make of each image; by default what `preprocess` does.
        masks: whether each image comes with its mask.
        progress: how to report the decoding of small images, which happens once for a data set.

    Raises:
        ImageError: for an image that cannot be read, unless there is `skip`.
        DataError: if no image can be read.
    """

    def __init__(
        self,
        source: Source,
        preprocess: Preprocess,
        batch_size: int,
        workers: int = 0,
        indices: NDArray[np.int64] | None = None,
        skip: Skip | None = None,
        *,
        view: View | ObjectsView | None = None,
        masks: bool = False,
        progress: Progress = False,
    ) -> None:
        self._loader = _make_loader(source, preprocess, view, workers, skip, progress, masks=masks)
        indices = np.arange(len(source)) if indices is None else indices
        self.chunks = _chunks(torch.from_numpy(indices), batch_size)

    def __len__(self) -> int:
        return len(self.chunks)

    def __iter__(self) -> Iterator[Batch]:
        return (batch for batch in self._loader.load(self.chunks, 0) if len(batch.indices))


class TrainBatches:
    """Shuffled batches of the images at `indices`.

    The order depends on (seed, epoch) alone, so any step of any epoch can be reached again. No batch is larger than
    `batch_size`, and their sizes differ by one at most: a last batch of a few images would make a step, and batch norm
    statistics, of mostly noise.

    Args:
        source: the images.
        preprocess: how to resize and crop them, unless `view` does.
        batch_size: most images of a batch, of all processes together.
        indices: places of the images to take, int64 (N,).
        seed: fixes the order.
        view: what to make of each image; by default what `preprocess` does. A `CropView` gets what `preprocess` has
            made of it.
        workers: processes that open images and make views; they stay for all epochs. 0 for none.
        share: takes from the indices of a batch those that this process is to load.
        skip: called with each image that cannot be read, which its batch then lacks; a batch can become empty. Without
            it such an image raises ImageError.
        masks: whether each image comes with its mask.
        progress: how to report the decoding of small images, which happens once for a data set.

    Raises:
        ImageError: for an image that cannot be read, unless there is `skip`.
        DataError: if no image can be read.
    """

    def __init__(
        self,
        source: Source,
        preprocess: Preprocess,
        batch_size: int,
        *,
        indices: NDArray[np.int64],
        seed: int,
        view: AnyView | None = None,
        workers: int = 0,
        share: Callable[[Tensor], Tensor] = lambda chunk: chunk,
        skip: Skip | None = None,
        masks: bool = False,
        progress: Progress = False,
    ) -> None:
        self._loader = _make_loader(source, preprocess, view, workers, skip, progress, masks=masks)
        self.share = share
        self.labels = source.labels
        self.indices = torch.from_numpy(indices)
        self.batch_size = batch_size
        self.seed = seed

    def __len__(self) -> int:
        """Batches an epoch."""
        return math.ceil(len(self.indices) / self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from batch `start` on. Only the epoch that was started last can be continued."""
        return self._loader.load([self.share(chunk) for chunk in self._epoch_chunks(epoch)[start:]], epoch)

    def _epoch_chunks(self, epoch: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch))
        order = torch.randperm(len(self.indices), generator=generator)
        return _chunks(self.indices[order], self.batch_size)


class BalancedBatches(TrainBatches):
    """Shuffled batches of as many images of each class as there would be if all classes were equally large.

    An epoch has as many images as without balance. Its part of a class is made of whole passes over the images of that
    class and a random rest: in how often they are seen the images of a class differ by one at most.
    """

    def _epoch_chunks(self, epoch: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch))
        labels = torch.from_numpy(self.labels)[self.indices]
        classes = torch.tensor(np.unique(labels))
        sizes = [len(part) for part in torch.arange(len(self.indices)).tensor_split(len(classes))]
        larger_first = torch.randperm(len(classes), generator=generator).tolist()  # sizes differ by one at most
        drawn = []
        for label, size in zip(classes[larger_first].tolist(), sizes, strict=True):
            of_class = self.indices[labels == label]
            passes = [torch.randperm(len(of_class), generator=generator) for _ in range(-(-size // len(of_class)))]
            drawn.append(of_class[torch.cat(passes)[:size]])
        images = torch.cat(drawn)
        return _chunks(images[torch.randperm(len(images), generator=generator)], self.batch_size)


class StreamBatches(TrainBatches):
    """Batches of a stream, as `Stream.order` shuffles it.

    Of the images of an epoch, process `rank` of `size` sees its share; `batch_size` is that of all processes together,
    and all of them have the same number of batches.
    """

    def __init__(self, source: Stream, *arguments: Any, rank: int = 0, size: int = 1, **options: Any) -> None:
        super().__init__(source, *arguments, **options)
        self.order = partial(source.order, self.indices.numpy(), seed=self.seed, rank=rank, size=size)

    def _epoch_chunks(self, epoch: int) -> list[Tensor]:
        return list(torch.from_numpy(self.order(epoch=epoch)).tensor_split(len(self)))


class WholeImages:
    """Every image once, in order, whole: uint8 (C, h, w) with `preprocess.resize` as its shorter side.

    Workers are two images ahead, however large these are. `skip`: as `EvalBatches`.
    """

    def __init__(self, source: Source, preprocess: Preprocess, workers: int = 0, skip: Skip | None = None) -> None:
        self.skip = skip
        self.images = UncroppedImages(source, preprocess)
        self.chunks = _chunks(torch.arange(len(source)), GROUPED)
        self.workers = workers

    def __iter__(self) -> Iterator[Tensor]:
        pending = chain.from_iterable(make_requests(self.images.source, self.chunks, 0))
        loader = start_workers(self.images, self.workers, batch_size=None, sampler=pending, collate_fn=sent)
        for index, pixels in enumerate(loader):
            if not isinstance(pixels, ImageError):
                yield received(pixels)
            elif self.skip is None:
                raise copy(pixels)
            else:
                self.skip(index, pixels)


def of_one_size(images: Iterable[Tensor], max_pixels: int) -> Iterator[Tensor]:
    """Stacks of images that follow each other and have the same size, of up to max_pixels together, or of one."""
    group: list[Tensor] = []
    for image in images:
        if group and (image.shape != group[0].shape or (len(group) + 1) * image[0].numel() > max_pixels):
            yield torch.stack(group)
            group = []
        group.append(image)
    if group:
        yield torch.stack(group)


def default_workers(preprocess: Preprocess) -> int:
    """Loader processes: none for small images, which are kept decoded; for photos one a core, eight at most."""
    return 0 if preprocess.is_small else min(8, usable_cores())


def _chunks(indices: Tensor, batch_size: int) -> list[Tensor]:
    """As few batches as can be, as equal as can be."""
    return list(torch.tensor_split(indices, math.ceil(len(indices) / batch_size))) if len(indices) else []


class _Loader(Protocol):
    def load(self, chunks: Sequence[Tensor], epoch: int) -> Iterator[Batch]:
        """A batch for each chunk of indices."""


def _make_loader(
    source: Source,
    preprocess: Preprocess,
    view: AnyView | None,
    workers: int,
    skip: Skip | None,
    progress: Progress,
    *,
    masks: bool,
) -> _Loader:
    is_kept = preprocess.is_small and not isinstance(source, Stream) and not masks
    if is_kept and view is None:
        return _DecodedLoader(source, preprocess, skip, progress)
    if is_kept and isinstance(view, CropView):
        decode_all(source, preprocess, progress=progress)  # before worker processes start, which inherit it
    return _WorkerLoader(ViewedImages(source, preprocess, view, masks=masks), workers, skip)


class _DecodedLoader:
    """Takes batches from the array of decoded images."""

    def __init__(self, source: Source, preprocess: Preprocess, skip: Skip | None, progress: Progress) -> None:
        if skip is None:
            decoded(source, preprocess, progress=progress)  # raises
        self.pixels, self.bad = decode_all(source, preprocess, progress=progress)
        self.labels = torch.from_numpy(source.labels)
        self.skip = skip

    def load(self, chunks: Sequence[Tensor], epoch: int) -> Iterator[Batch]:
        for chunk in chunks:
            places = enumerate(chunk.tolist() if self.bad else ())
            chunk = _readable(
                chunk, {place: self.bad[index] for place, index in places if index in self.bad}, self.skip
            )
            yield Batch(self.pixels[chunk], self.labels[chunk], chunk)


class _WorkerLoader:
    """Lets worker processes open and preprocess images. They start with the first epoch and stay until the last."""

    def __init__(self, images: ViewedImages, workers: int, skip: Skip | None) -> None:
        self.plan = _Plan(images.source)
        self.start = partial(start_workers, images, workers, batch_sampler=self.plan, collate_fn=stack)
        self.loader = self.start()
        self.labels = torch.from_numpy(images.source.labels)
        self.skip = skip

    def load(self, chunks: Sequence[Tensor], epoch: int) -> Iterator[Batch]:
        self.plan.chunks, self.plan.epoch = chunks, epoch
        try:
            for chunk, (pixels, masks, objects, bad) in zip(self._current(chunks), self.loader, strict=True):
                chunk = _readable(chunk, bad, self.skip)
                images, with_masks = received(pixels).permute(0, 3, 1, 2), None if masks is None else received(masks)
                with_objects = None if objects is None else tuple(map(torch.from_numpy, objects))
                yield Batch(images, self.labels[chunk], chunk, with_masks, with_objects)
        except Exception:
            self._restart()
            raise

    def _restart(self) -> None:
        """End the worker processes now. Freed later by Python's cycle collector, each would be waited for for 5 s."""
        if self.loader._iterator is not None:
            self.loader._iterator._shutdown_workers()  # type: ignore[attr-defined]
        self.loader = self.start()

    def _current(self, chunks: Sequence[Tensor]) -> Iterator[Tensor]:
        for chunk in chunks:
            assert self.plan.chunks is chunks, "another epoch was started, which has taken over the worker processes"
            yield chunk


class _Plan:
    """The requests of the current epoch, batch by batch: the sampler of a DataLoader that serves many epochs."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.chunks: Sequence[Tensor] = ()
        self.epoch = 0

    def __iter__(self) -> Iterator[list[Request]]:
        return make_requests(self.source, self.chunks, self.epoch)


def _readable(chunk: Tensor, bad: Mapping[int, ImageError], skip: Skip | None) -> Tensor:
    """The indices of a chunk that are left; `bad` are errors by their places in it, raised if there is no `skip`."""
    for place, error in bad.items():
        if skip is None:
            raise copy(error)
        skip(int(chunk[place]), error)
    return chunk[[place for place in range(len(chunk)) if place not in bad]] if bad else chunk
