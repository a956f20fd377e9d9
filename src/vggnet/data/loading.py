"""Batches of uint8 pixels, for training (shuffled, reproducible from seed and epoch) and for testing (in order)."""

import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torchvision.transforms.v2.functional import to_pil_image

from vggnet.data.counter_random import derive_seed
from vggnet.data.decoded import decode_all, decoded
from vggnet.data.decoding import StoredImage, open_image
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.source import Source
from vggnet.data.sources.stream import Stream
from vggnet.errors import DataError, ImageError, one_line
from vggnet.progress import Progress

T = TypeVar("T")
SHARED_MEMORY = Path("/dev/shm")
AHEAD = 4  # batches that a worker may have in shared memory: two that are asked for, one sent, one received
GROUPED = 64  # whole images whose groups of a stream are looked up at once

# Turns an image into uint8 pixels (C, H, W) for an epoch: view(image, epoch, index).
View = Callable[[StoredImage, int, int], Tensor]


class CropView(NamedTuple):
    """A view of what the preprocessing makes of an image; small ones are then kept decoded."""

    of_crop: View


# Called with each image that cannot be read, and that its batch then lacks: skip(index, error).
Skip = Callable[[int, ImageError], None]


class Batch(NamedTuple):
    """Images with their labels and their places in the source."""

    images: Tensor  # uint8 (N, C, H, W), channels-last in memory if photos
    labels: Tensor  # int64 (N,)
    indices: Tensor  # int64 (N,)


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
        progress: Progress = False,
    ) -> None:
        self._loader = _make_loader(source, preprocess, None, workers, skip, progress)
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
        view: View | CropView | None = None,
        workers: int = 0,
        share: Callable[[Tensor], Tensor] = lambda chunk: chunk,
        skip: Skip | None = None,
        progress: Progress = False,
    ) -> None:
        self._loader = _make_loader(source, preprocess, view, workers, skip, progress)
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
        self.images = _Whole(source, preprocess)
        self.chunks = _chunks(torch.arange(len(source)), GROUPED)
        self.workers = workers

    def __iter__(self) -> Iterator[Tensor]:
        requests = chain.from_iterable(_requests(self.images.source, self.chunks, 0))
        loader = _data_loader(self.images, self.workers, batch_size=None, sampler=requests, collate_fn=_sent)
        for index, pixels in enumerate(loader):
            if not isinstance(pixels, ImageError):
                yield _received(pixels)
            elif self.skip is None:
                raise pixels
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
    return 0 if preprocess.is_small else min(8, os.cpu_count() or 1)


def _chunks(indices: Tensor, batch_size: int) -> list[Tensor]:
    """As few batches as can be, as equal as can be."""
    return list(torch.tensor_split(indices, math.ceil(len(indices) / batch_size))) if len(indices) else []


class _Loader(Protocol):
    def load(self, chunks: Sequence[Tensor], epoch: int) -> Iterator[Batch]:
        """A batch for each chunk of indices."""


def _make_loader(
    source: Source,
    preprocess: Preprocess,
    view: View | CropView | None,
    workers: int,
    skip: Skip | None,
    progress: Progress,
) -> _Loader:
    is_kept = preprocess.is_small and not isinstance(source, Stream)
    if is_kept and view is None:
        return _DecodedLoader(source, preprocess, skip, progress)
    if is_kept and isinstance(view, CropView):
        decode_all(source, preprocess, progress=progress)  # before worker processes start, which inherit it
    return _WorkerLoader(_Images(source, preprocess, view), workers, skip)


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

    def __init__(self, images: "_Images", workers: int, skip: Skip | None) -> None:
        self.plan = _Plan(images.source)
        self.start = partial(_data_loader, images, workers, batch_sampler=self.plan, collate_fn=_stack)
        self.loader = self.start()
        self.labels = torch.from_numpy(images.source.labels)
        self.skip = skip

    def load(self, chunks: Sequence[Tensor], epoch: int) -> Iterator[Batch]:
        self.plan.chunks, self.plan.epoch = chunks, epoch
        try:
            for chunk, (pixels, bad) in zip(self._current(chunks), self.loader, strict=True):
                chunk = _readable(chunk, bad, self.skip)
                yield Batch(_received(pixels).permute(0, 3, 1, 2), self.labels[chunk], chunk)
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


class _Request(NamedTuple):
    """What a worker process is asked for."""

    image: int  # its index
    epoch: int
    file: bytes | None  # of a stream, which the main process reads


class _Plan:
    """The requests of the current epoch, batch by batch: the sampler of a DataLoader that serves many epochs."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.chunks: Sequence[Tensor] = ()
        self.epoch = 0

    def __iter__(self) -> Iterator[list[_Request]]:
        return _requests(self.source, self.chunks, self.epoch)


def _requests(source: Source, chunks: Sequence[Tensor], epoch: int) -> Iterator[list[_Request]]:
    if isinstance(source, Stream):
        for items in source.ahead([chunk.numpy() for chunk in chunks]):
            yield [_Request(index, epoch, file) for index, file in items]
    else:
        for chunk in chunks:
            yield [_Request(index, epoch, None) for index in chunk.tolist()]


def _data_loader(dataset: Dataset[Any], workers: int, **options: Any) -> DataLoader[Any]:
    """A DataLoader whose worker processes stay from one epoch to the next, and that draws no global random number."""
    return DataLoader(
        dataset,
        num_workers=workers,
        worker_init_fn=_leave_group,
        persistent_workers=workers > 0,
        generator=torch.Generator(),
        **options,
    )


def _leave_group(worker: int) -> None:
    """Ctrl-C and torchrun signal a whole group of processes; the main one finishes its step and stops the workers."""
    if hasattr(os, "setpgrp"):  # Windows has no groups of processes
        os.setpgrp()


def _sent(pixels: T) -> T | NDArray[np.uint8]:
    """What a worker sends: PyTorch passes a tensor through shared memory, of which containers have 64 MB.

    A full one ends the worker by a bus error. Where all workers together could fill it, an array goes through a pipe,
    which costs a copy.
    """
    worker = get_worker_info()
    if worker is None or not isinstance(pixels, Tensor) or not SHARED_MEMORY.is_dir():
        return pixels
    in_flight = AHEAD * worker.num_workers * pixels.nbytes
    return pixels if in_flight < shutil.disk_usage(SHARED_MEMORY).free else pixels.numpy()


def _received(pixels: Tensor | NDArray[np.uint8]) -> Tensor:
    """What a worker has sent, as a tensor."""
    return pixels if isinstance(pixels, Tensor) else torch.from_numpy(pixels)


@contextmanager
def lost_workers_named() -> Iterator[None]:
    """Say in one line that a loader process was killed. PyTorch tells of it at any point of the main process.

    Raises: DataError.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise DataError(
            f"a loader process has ended ({one_line(error)}). Often memory ran out. Start again, or go on from the "
            "last checkpoint (--resume), with fewer of them (--workers); 0 is none."
        ) from error


def _stack(images: list[Tensor | ImageError]) -> tuple[Tensor | NDArray[np.uint8], dict[int, ImageError]]:
    """The images as one batch (n, H, W, C), and the errors by their places, which would arrive in a traceback."""
    tensors = [image for image in images if isinstance(image, Tensor)]
    bad = {place: image for place, image in enumerate(images) if isinstance(image, ImageError)}
    if not tensors:
        return torch.empty((0, 0, 0, 0), dtype=torch.uint8), bad
    return _sent(torch.stack([pixels.permute(1, 2, 0) for pixels in tensors])), bad


def _readable(chunk: Tensor, bad: Mapping[int, ImageError], skip: Skip | None) -> Tensor:
    """The indices of a chunk that are left; `bad` are errors by their places in it, raised if there is no `skip`."""
    for place, error in bad.items():
        if skip is None:
            raise error
        skip(int(chunk[place]), error)
    return chunk[[place for place in range(len(chunk)) if place not in bad]] if bad else chunk


class _Images(Dataset[Tensor | ImageError]):
    """The images of a source, through a view."""

    def __init__(self, source: Source, preprocess: Preprocess, view: View | CropView | None) -> None:
        self.source = source
        self.preprocess = preprocess
        self.view = view

    def __getitem__(self, request: _Request) -> Tensor | ImageError:
        try:
            return self._view(request)
        except ImageError as error:
            return error.named(self.source.describe(request.image))

    def _view(self, request: _Request) -> Tensor:
        if self.view is None:
            return self.preprocess.pixels(_open(self.source, request).decode())
        if isinstance(self.view, CropView):
            crop, name = to_pil_image(self._crop(request)), self.source.describe(request.image)
            return self.view.of_crop(StoredImage(crop, name, self.preprocess.mode), request.epoch, request.image)
        image = replace(_open(self.source, request), mode=self.preprocess.mode)
        return self.view(image, request.epoch, request.image)

    def _crop(self, request: _Request) -> Tensor:
        if isinstance(self.source, Stream) or not self.preprocess.is_small:
            return self.preprocess.pixels(_open(self.source, request).decode())
        pixels, bad = decode_all(self.source, self.preprocess)
        if request.image in bad:
            raise bad[request.image]
        return pixels[request.image]


class _Whole(Dataset[Tensor | ImageError]):
    """The images of a source, resized and not cropped."""

    def __init__(self, source: Source, preprocess: Preprocess) -> None:
        self.source = source
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, request: _Request) -> Tensor | ImageError:
        try:
            return self.preprocess.whole(_open(self.source, request).decode())
        except ImageError as error:
            return error.named(self.source.describe(request.image))


def _open(source: Source, request: _Request) -> StoredImage:
    if request.file is None:
        return source.open(request.image)
    return open_image(request.file, name=source.describe(request.image))
