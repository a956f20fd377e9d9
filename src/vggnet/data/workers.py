"""Loader processes: what they are asked for, what they make of an image, and how it comes back."""

import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from multiprocessing.context import BaseContext
from pathlib import Path
from traceback import clear_frames
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from vggnet.data.decoded import decode_all
from vggnet.data.decoding import StoredImage, open_image
from vggnet.data.objects import Objects
from vggnet.data.pixels import to_picture
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.source import Source
from vggnet.data.sources.stream import Stream
from vggnet.errors import DataError, ImageError, VGGError, one_line

T = TypeVar("T")
SHARED_MEMORY = Path("/dev/shm")
LOST = (ConnectionResetError, ConnectionRefusedError, EOFError)  # when it is killed while it hands over a batch
AHEAD = 4  # batches that a worker may have in shared memory: two that are asked for, one sent, one received

# Turns an image into uint8 pixels (C, H, W) for an epoch: view(image, epoch, index); a mask, which has one channel of
# class indices, by view(mask, epoch, index, nearest=True).
View = Callable[..., Tensor]


class ObjectsView(NamedTuple):
    """A view of an image together with its objects: view(image, objects, epoch, index) gives both, as seen."""

    of_both: Callable[[StoredImage, Objects, int, int], tuple[Tensor, Tensor]]


class CropView(NamedTuple):
    """A view of what the preprocessing makes of an image; small ones are then kept decoded."""

    of_crop: View


AnyView = View | CropView | ObjectsView


class Request(NamedTuple):
    """What a worker process is asked for."""

    image: int  # its index
    epoch: int
    file: bytes | None  # of a stream, which the main process reads


def make_requests(source: Source, chunks: Sequence[Tensor], epoch: int) -> Iterator[list[Request]]:
    """The requests for each chunk of indices; a stream reads the files itself."""
    if isinstance(source, Stream):
        for items in source.ahead([chunk.numpy() for chunk in chunks]):
            yield [Request(index, epoch, file) for index, file in items]
    else:
        for chunk in chunks:
            yield [Request(index, epoch, None) for index in chunk.tolist()]


class Example(NamedTuple):
    """An image as the network is to see it, and its mask if it has one."""

    pixels: Tensor  # uint8 (C, H, W)
    mask: Tensor | None = None  # uint8 (H, W)
    objects: Tensor | None = None  # float32 (n, 5), as in `vggnet.data.object_views`


class ViewedImages(Dataset[Example | ImageError]):
    """The images of a source, through a view; with their masks if these are wanted, or their objects by the view."""

    def __init__(self, source: Source, preprocess: Preprocess, view: AnyView | None, *, masks: bool = False) -> None:
        self.source = source
        self.preprocess = preprocess
        self.view = view
        self.masks = masks

    def __getitem__(self, request: Request) -> Example | ImageError:
        try:
            if isinstance(self.view, ObjectsView):
                return self._with_objects(self.view, request)
            return Example(self._view(request), self._mask(request) if self.masks else None)
        except ImageError as error:
            return error.named(self.source.describe(request.image))

    def _with_objects(self, view: ObjectsView, request: Request) -> Example:
        objects = self.source.objects(request.image)
        image = replace(_open(self.source, request), mode=self.preprocess.mode)
        pixels, seen = view.of_both(image, objects, request.epoch, request.image)
        return Example(pixels, objects=seen)

    def _view(self, request: Request) -> Tensor:
        if self.view is None:
            return self.preprocess.pixels(_open(self.source, request).decode())
        if isinstance(self.view, CropView):
            crop, name = to_picture(self._crop(request)), self.source.describe(request.image)
            return self.view.of_crop(StoredImage(crop, name, self.preprocess.mode), request.epoch, request.image)
        assert not isinstance(self.view, ObjectsView), "it is asked for both"
        image = replace(_open(self.source, request), mode=self.preprocess.mode)
        return self.view(image, request.epoch, request.image)

    def _mask(self, request: Request) -> Tensor:
        mask = self.source.mask(request.image)
        if self.view is None:
            return self.preprocess.pixels(mask, nearest=True)[0]
        assert not isinstance(self.view, CropView | ObjectsView), "no view of a crop, or of objects, is for masks"
        stored = StoredImage(mask, self.source.describe(request.image), mask.mode)
        return self.view(stored, request.epoch, request.image, nearest=True)[0]

    def _crop(self, request: Request) -> Tensor:
        if isinstance(self.source, Stream) or not self.preprocess.is_small:
            return self.preprocess.pixels(_open(self.source, request).decode())
        pixels, bad = decode_all(self.source, self.preprocess)
        if request.image in bad:
            raise copy(bad[request.image])
        return pixels[request.image]


class UncroppedImages(Dataset[Tensor | ImageError]):
    """The images of a source, resized and not cropped."""

    def __init__(self, source: Source, preprocess: Preprocess) -> None:
        self.source = source
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, request: Request) -> Tensor | ImageError:
        try:
            return self.preprocess.whole(_open(self.source, request).decode())
        except ImageError as error:
            return error.named(self.source.describe(request.image))


def _open(source: Source, request: Request) -> StoredImage:
    if request.file is None:
        return source.open(request.image)
    return open_image(request.file, name=source.describe(request.image))


Sent = Tensor | NDArray[np.uint8]


class Stacked(NamedTuple):
    """What a worker sends."""

    pixels: Sent  # (n, H, W, C)
    masks: Sent | None  # (n, H, W), if there are
    objects: tuple[NDArray[np.float32], ...] | None  # of each image (k, 5), if there are
    bad: dict[int, ImageError]  # by their places


def stack(images: list[Example | ImageError]) -> Stacked:
    """The images as one batch, with the errors of those that cannot be read: raised, they would be in a traceback."""
    examples = [image for image in images if isinstance(image, Example)]
    bad = {place: image for place, image in enumerate(images) if isinstance(image, ImageError)}
    if not examples:
        return Stacked(torch.empty((0, 0, 0, 0), dtype=torch.uint8), None, None, bad)
    masks = [example.mask for example in examples if example.mask is not None]
    objects = tuple(example.objects.numpy() for example in examples if example.objects is not None)
    pixels = sent(torch.stack([example.pixels.permute(1, 2, 0) for example in examples]))
    return Stacked(pixels, sent(torch.stack(masks)) if masks else None, objects or None, bad)


def start_workers(dataset: Dataset[Any], workers: int, **options: Any) -> DataLoader[Any]:
    """A DataLoader whose worker processes stay from one epoch to the next, and that draws no global random number."""
    return _Loader(
        dataset,
        num_workers=workers,
        worker_init_fn=_leave_group,
        persistent_workers=workers > 0,
        multiprocessing_context=_context() if workers else None,
        generator=torch.Generator(),
        **options,
    )


def _context() -> BaseContext:
    """How this system starts processes, with events that a killed one does not keep locked."""
    context = copy(multiprocessing.get_context())
    context.Event = _Event  # type: ignore[assignment, method-assign]
    return context


class _Event:
    """What a DataLoader uses of `multiprocessing.Event`, which nobody can set once a process that read it was killed.

    That one has a lock, and its reader may be killed while it holds it: PyTorch would wait forever to end the others.
    A pipe that has something to read, which nobody reads, has none.
    """

    def __init__(self) -> None:
        self._reader, self._writer = multiprocessing.Pipe(duplex=False)

    def set(self) -> None:
        self._writer.send_bytes(b"set")

    def is_set(self) -> bool:
        return self._reader.poll()


class _Loader(DataLoader[Any]):
    """A DataLoader that says in one line that its processes cannot be started."""

    def __iter__(self) -> Any:
        try:
            return super().__iter__()
        except OSError as error:
            if isinstance(error, VGGError):  # of a stream, whose files are read here
                raise
            _discard(error)
            raise DataError(
                f"loader processes cannot be started ({one_line(error)}). They need room in shared memory "
                f"({SHARED_MEMORY}; in Docker: --shm-size 1g) and for processes. Make room, or load without them: "
                "--workers 0."
            ) from None


def _discard(error: Exception) -> None:
    """End the processes that were started before an error. PyTorch would do it later, and complain of what it lacks."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda complaint: None
    try:
        clear_frames(error.__traceback__)
    finally:
        sys.unraisablehook = hook


def _leave_group(worker: int) -> None:
    """Ctrl-C and torchrun signal a whole group of processes; the main one finishes its step and stops the workers."""
    if hasattr(os, "setpgrp"):  # Windows has no groups of processes
        os.setpgrp()


def sent(pixels: T) -> T | NDArray[np.uint8]:
    """What a worker sends: PyTorch passes a tensor through shared memory, of which containers have 64 MB.

    A full one ends the worker by a bus error. Where all workers together could fill it, an array goes through a pipe,
    which costs a copy.
    """
    worker = get_worker_info()
    if worker is None or not isinstance(pixels, Tensor) or not SHARED_MEMORY.is_dir():
        return pixels
    in_flight = AHEAD * worker.num_workers * pixels.nbytes
    return pixels if in_flight < shutil.disk_usage(SHARED_MEMORY).free else pixels.numpy()


def received(pixels: Tensor | NDArray[np.uint8]) -> Tensor:
    """What a worker has sent, as a tensor."""
    return pixels if isinstance(pixels, Tensor) else torch.from_numpy(pixels)


@contextmanager
def lost_workers_named() -> Iterator[None]:
    """Say in one line that a loader process was killed. PyTorch tells of it at any point of the main process.

    Raises: DataError.
    """
    try:
        yield
    except (RuntimeError, *LOST) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise
        raise DataError(
            f"a loader process has ended ({one_line(error)}). Often memory ran out. Start again, or go on from the "
            "last checkpoint (--resume), with fewer of them (--workers); 0 is none."
        ) from error
