"""Batches of uint8 pixels, for training (shuffled, reproducible from seed and epoch) and for testing (in order)."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2.functional import to_pil_image

from vggnet.data.counter_random import derive_seed
from vggnet.data.decoded import decode_all, decoded
from vggnet.data.decoding import StoredImage, open_image
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.source import Source
from vggnet.data.sources.stream import Item, Stream
from vggnet.errors import ImageError

GROUPED = 64  # whole images whose groups of a stream are looked up at once

# Turns an image into uint8 pixels (C, H, W) for an epoch: view(image, epoch, index).
View = Callable[[StoredImage, int, int], Tensor]


class CropView(NamedTuple):
    """A view of what the preprocessing makes of an image; small ones are then kept decoded."""

    of_crop: View


# Hears of each image that cannot be read, and is left out: skip(index, error).
Skip = Callable[[int, ImageError], None]


class Batch(NamedTuple):
    """Images with their labels and their places in the source."""

    images: Tensor  # uint8 (N, C, H, W), channels-last in memory if photos
    labels: Tensor  # int64 (N,)
    indices: Tensor  # int64 (N,)


class EvalBatches:
    """Every image once, in order, as the preprocessing sees it. `indices` limits it to a part of the source.

    skip: called with each image that cannot be read, which is left out; without it such an image raises ImageError.
    """

    def __init__(
        self,
        source: Source,
        preprocess: Preprocess,
        batch_size: int,
        workers: int = 0,
        indices: NDArray[np.int64] | None = None,
        skip: Skip | None = None,
    ) -> None:
        self.batches = _batches(source, preprocess, None, workers, skip)
        indices = np.arange(len(source)) if indices is None else indices
        self.chunks = _chunks(torch.from_numpy(indices), batch_size)

    def __len__(self) -> int:
        return len(self.chunks)

    def __iter__(self) -> Iterator[Batch]:
        return (batch for batch in self.batches(self.chunks, 0) if len(batch.indices))


class WholeImages:
    """Every image once, in order, whole: uint8 (C, h, w) with `preprocess.resize` as its shorter side.

    Workers are two images ahead, however large these are.
    """

    def __init__(self, source: Source, preprocess: Preprocess, workers: int = 0) -> None:
        self.images = _Whole(source, preprocess)
        self.chunks = _chunks(torch.arange(len(source)), GROUPED)
        self.workers = workers

    def __iter__(self) -> Iterator[Tensor]:
        loader = DataLoader(
            self.images,
            batch_size=None,
            sampler=(item for chunk in _items(self.images.source, self.chunks) for item in chunk),
            num_workers=self.workers,
            worker_init_fn=_leave_group,
        )
        for pixels in loader:
            if isinstance(pixels, ImageError):
                raise pixels
            yield pixels


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


class TrainBatches:
    """Shuffled batches of the images at `indices`.

    The order depends on (seed, epoch) alone, so any step of any epoch can be reached again. No batch is larger than
    `batch_size`, and their sizes differ by one at most: a last batch of a few images would make a step, and batch norm
    statistics, of mostly noise.
    `view` sees each image, by default as the preprocessing, or what that makes of it (CropView); small images are then
    kept decoded.
    `share` takes from a batch's indices those that are this process's to load; of several, each has its own.
    `skip` is called with each image that cannot be read, which its batch then lacks, all of them if need be; without it
    such an image raises ImageError.
    """

    def __init__(
        self,
        source: Source,
        preprocess: Preprocess,
        batch_size: int,
        *,
        indices: NDArray[np.int64],
        seed: int,
        view: View | CropView | None = None,
        workers: int = 0,
        share: Callable[[Tensor], Tensor] = lambda chunk: chunk,
        skip: Skip | None = None,
    ) -> None:
        self.batches = _batches(source, preprocess, view, workers, skip)
        self.share = share
        self.indices = torch.from_numpy(indices)
        self.batch_size = batch_size
        self.seed = seed

    def __len__(self) -> int:
        """Batches an epoch."""
        return math.ceil(len(self.indices) / self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from batch `start` on."""
        return self.batches([self.share(chunk) for chunk in self._epoch_chunks(epoch)[start:]], epoch)

    def _epoch_chunks(self, epoch: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch))
        order = torch.randperm(len(self.indices), generator=generator)
        return _chunks(self.indices[order], self.batch_size)


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


def default_workers(preprocess: Preprocess) -> int:
    """Loader processes: none for small images, which are kept decoded; for photos one a core, eight at most."""
    return 0 if preprocess.is_small else min(8, os.cpu_count() or 1)


def _chunks(indices: Tensor, batch_size: int) -> list[Tensor]:
    """As few batches as can be, as equal as can be."""
    return list(torch.tensor_split(indices, math.ceil(len(indices) / batch_size))) if len(indices) else []


def _batches(
    source: Source, preprocess: Preprocess, view: View | CropView | None, workers: int, skip: Skip | None
) -> Callable[[list[Tensor], int], Iterator[Batch]]:
    """A function of chunks of indices and the epoch. What cannot be read is given to `skip`, or raised without it."""
    labels = torch.from_numpy(source.labels)

    def without(bad: Mapping[int, ImageError], chunk: Tensor) -> Tensor:
        """The indices of a chunk that are left; `bad` are errors by their places in it."""
        for place, error in bad.items():
            if skip is None:
                raise error
            skip(int(chunk[place]), error)
        return chunk[[place for place in range(len(chunk)) if place not in bad]] if bad else chunk

    if view is None and preprocess.is_small and not isinstance(source, Stream):
        if skip is None:
            decoded(source, preprocess)  # raises
        pixels, unreadable = decode_all(source, preprocess)

        def from_array(chunks: list[Tensor], epoch: int) -> Iterator[Batch]:
            for chunk in chunks:
                places = enumerate(chunk.tolist() if unreadable else ())
                bad = {place: unreadable[index] for place, index in places if index in unreadable}
                chunk = without(bad, chunk)
                yield Batch(pixels[chunk], labels[chunk], chunk)

        return from_array

    def from_workers(chunks: list[Tensor], epoch: int) -> Iterator[Batch]:
        images = _Images(source, preprocess, view, epoch)
        loader = DataLoader(
            images,
            batch_sampler=_items(source, chunks),
            collate_fn=_stack,
            num_workers=workers,
            worker_init_fn=_leave_group,
        )
        for (pixels, bad), chunk in zip(loader, chunks, strict=True):
            chunk = without(bad, chunk)
            yield Batch(pixels, labels[chunk], chunk)

    return from_workers


def _items(source: Source, chunks: Sequence[Tensor]) -> Iterator[list[Item]]:
    """What a loader is asked for, chunk by chunk. Streams are read by this process, and only decoded by workers."""
    if isinstance(source, Stream):
        return source.ahead([chunk.numpy() for chunk in chunks])
    return ([(index, None) for index in chunk.tolist()] for chunk in chunks)


def _open(source: Source, item: Item) -> StoredImage:
    index, file = item
    return source.open(index) if file is None else open_image(file, name=source.describe(index))


def _stack(images: list[Tensor | ImageError]) -> tuple[Tensor, dict[int, ImageError]]:
    """The images as one batch, and the errors by their places: raised in a worker, one would arrive in a traceback."""
    tensors = [image for image in images if isinstance(image, Tensor)]
    bad = {place: image for place, image in enumerate(images) if isinstance(image, ImageError)}
    if not tensors:
        return torch.empty(0, dtype=torch.uint8), bad
    return torch.stack([pixels.permute(1, 2, 0) for pixels in tensors]).permute(0, 3, 1, 2), bad


def _leave_group(worker: int) -> None:
    """Ctrl-C and torchrun signal a whole group of processes; the main one finishes its step and stops the workers."""
    os.setpgrp()


class _Images(Dataset[Tensor | ImageError]):
    """The images of a source, through a view, for loader workers."""

    def __init__(self, source: Source, preprocess: Preprocess, view: View | CropView | None, epoch: int) -> None:
        self.source = source
        self.preprocess = preprocess
        self.view = view
        self.epoch = epoch

    def __getitem__(self, item: Item) -> Tensor | ImageError:
        try:
            if self.view is None:
                return self.preprocess.pixels(_open(self.source, item).decode())
            if isinstance(self.view, CropView):
                crop = StoredImage(to_pil_image(self._crop(item)), self.source.describe(item[0]), self.preprocess.mode)
                return self.view.of_crop(crop, self.epoch, item[0])
            return self.view(replace(_open(self.source, item), mode=self.preprocess.mode), self.epoch, item[0])
        except ImageError as error:
            return error.named(self.source.describe(item[0]))

    def _crop(self, item: Item) -> Tensor:
        if isinstance(self.source, Stream):
            return self.preprocess.pixels(_open(self.source, item).decode())
        pixels, bad = decode_all(self.source, self.preprocess)
        if item[0] in bad:
            raise bad[item[0]]
        return pixels[item[0]]


class _Whole(Dataset[Tensor | ImageError]):
    """The images of a source, resized and not cropped."""

    def __init__(self, source: Source, preprocess: Preprocess) -> None:
        self.source = source
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, item: Item) -> Tensor | ImageError:
        try:
            return self.preprocess.whole(_open(self.source, item).decode())
        except ImageError as error:
            return error.named(self.source.describe(item[0]))
