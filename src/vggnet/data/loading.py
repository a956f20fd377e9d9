"""Batches of uint8 pixels, for training (shuffled, reproducible from seed and epoch) and for testing (in order)."""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2.functional import to_pil_image

from vggnet.data.arrays import SMALL, decoded
from vggnet.data.decode import StoredImage
from vggnet.data.draws import derive_seed
from vggnet.data.preprocess import Preprocess
from vggnet.data.source import Source
from vggnet.errors import ImageError

# Turns an image into uint8 pixels (C, H, W) for an epoch: view(image, epoch, index).
View = Callable[[StoredImage, int, int], Tensor]


class Batch(NamedTuple):
    """Images with their labels and their places in the source."""

    images: Tensor  # uint8 (N, C, H, W), channels-last in memory if photos
    labels: Tensor  # int64 (N,)
    indices: Tensor  # int64 (N,)


class EvalBatches:
    """Every image once, in order, as the preprocessing sees it. `indices` limits it to a part of the source."""

    def __init__(
        self,
        source: Source,
        preprocess: Preprocess,
        batch_size: int,
        workers: int = 0,
        indices: NDArray[np.int64] | None = None,
    ) -> None:
        self.batches = _batches(source, preprocess, None, workers)
        indices = np.arange(len(source)) if indices is None else indices
        self.chunks = _chunks(torch.from_numpy(indices), batch_size)

    def __len__(self) -> int:
        return len(self.chunks)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches(self.chunks, 0)


class WholeImages:
    """Every image once, in order, whole: uint8 (C, h, w) with `preprocess.resize` as its shorter side.

    Workers are two images ahead, however large these are.
    """

    def __init__(self, source: Source, preprocess: Preprocess, workers: int = 0) -> None:
        self.images = _Whole(source, preprocess)
        self.workers = workers

    def __iter__(self) -> Iterator[Tensor]:
        loader = DataLoader(self.images, batch_size=None, num_workers=self.workers, worker_init_fn=_leave_group)
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
    `view` sees each image, by default as the preprocessing; small images are then kept decoded.
    `share` takes from a batch's indices those that are this process's to load; of several, each has its own.
    """

    def __init__(
        self,
        source: Source,
        preprocess: Preprocess,
        batch_size: int,
        *,
        indices: NDArray[np.int64],
        seed: int,
        view: View | None = None,
        workers: int = 0,
        share: Callable[[Tensor], Tensor] = lambda chunk: chunk,
    ) -> None:
        self.batches = _batches(source, preprocess, view, workers)
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


def default_workers(preprocess: Preprocess) -> int:
    """Loader processes: none for small images, which are kept decoded; for photos one a core, eight at most."""
    return 0 if preprocess.crop <= SMALL else min(8, os.cpu_count() or 1)


def _chunks(indices: Tensor, batch_size: int) -> list[Tensor]:
    """As few batches as can be, as equal as can be."""
    return list(torch.tensor_split(indices, math.ceil(len(indices) / batch_size))) if len(indices) else []


def _batches(
    source: Source, preprocess: Preprocess, view: View | None, workers: int
) -> Callable[[list[Tensor], int], Iterator[Batch]]:
    labels = torch.from_numpy(source.labels)
    if view is None and preprocess.crop <= SMALL:
        pixels = decoded(source, preprocess)

        def from_array(chunks: list[Tensor], epoch: int) -> Iterator[Batch]:
            return (Batch(pixels[chunk], labels[chunk], chunk) for chunk in chunks)

        return from_array

    def from_workers(chunks: list[Tensor], epoch: int) -> Iterator[Batch]:
        images = _Images(source, preprocess, view, epoch)
        loader = DataLoader(
            images,
            batch_sampler=[chunk.tolist() for chunk in chunks],
            collate_fn=_stack,
            num_workers=workers,
            worker_init_fn=_leave_group,
        )
        for pixels, chunk in zip(loader, chunks, strict=True):
            if isinstance(pixels, ImageError):
                raise pixels
            yield Batch(pixels, labels[chunk], chunk)

    return from_workers


def _stack(images: list[Tensor | ImageError]) -> Tensor | ImageError:
    """The batch, or the first image's error: raised in a worker, it would arrive wrapped in a traceback."""
    tensors = [image for image in images if isinstance(image, Tensor)]
    errors = [image for image in images if isinstance(image, ImageError)]
    return errors[0] if errors else torch.stack([pixels.permute(1, 2, 0) for pixels in tensors]).permute(0, 3, 1, 2)


def _leave_group(worker: int) -> None:
    """Ctrl-C and torchrun signal a whole group of processes; the main one finishes its step and stops the workers."""
    os.setpgrp()


class _Images(Dataset[Tensor | ImageError]):
    """The images of a source by index, through a view, for loader workers."""

    def __init__(self, source: Source, preprocess: Preprocess, view: View | None, epoch: int) -> None:
        self.source = source
        self.preprocess = preprocess
        self.view = view
        self.epoch = epoch

    def __getitem__(self, index: int) -> Tensor | ImageError:
        try:
            if self.view is None:
                return self.preprocess.pixels(self.source.read(index))
            return self.view(self._image(index), self.epoch, index)
        except ImageError as error:
            return error

    def _image(self, index: int) -> StoredImage:
        if self.preprocess.crop > SMALL:
            return replace(self.source.open(index), mode=self.preprocess.mode)
        small = to_pil_image(decoded(self.source, self.preprocess)[index])
        return StoredImage(small, self.source.describe(index), self.preprocess.mode)


class _Whole(Dataset[Tensor | ImageError]):
    """The images of a source by index, resized and not cropped."""

    def __init__(self, source: Source, preprocess: Preprocess) -> None:
        self.source = source
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Tensor | ImageError:
        try:
            image = self.source.read(index)
        except ImageError as error:
            return error
        try:
            return self.preprocess.whole(image)
        except ImageError as error:
            return ImageError(f"{self.source.describe(index)}: {error}")
