"""Decode images in processes of their own: one that crashes or hangs costs the request that it worked on."""

import asyncio
import multiprocessing
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import Future, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pebble import ProcessExpired, ProcessPool
from torch import Tensor

from vggnet.data.decoding import MAX_PIXELS_VARIABLE, decode_image
from vggnet.data.preprocess import Preprocess
from vggnet.errors import ImageError
from vggnet.serving.limits import Limits
from vggnet.serving.telemetry import Telemetry

# What is needed of a picture: the crop that a model takes; the whole, its shorter side resized as the preprocessing
# does, so that doing it again changes nothing; the whole as it is; a small one to show.
View = Literal["crop", "resized", "original", "thumbnail"]
THUMBNAIL = 160  # pixels of the longer side
Pixels = NDArray[np.uint8]  # (H, W, C)


class ImageDecoder:
    """A pool of processes that decode images.

    Args:
        limits: how many processes, and what they may use.
        telemetry: counts those that were lost.
    """

    def __init__(self, limits: Limits, telemetry: Telemetry) -> None:
        self._limits, self._telemetry = limits, telemetry
        self._pool = self._start()
        self._first = self._pool.schedule(_decode, args=([], None, "crop"))

    def wait_until_started(self) -> None:
        """Wait until images are decoded at once."""
        self._first.result()

    async def decode(self, images: Sequence[bytes], preprocess: Preprocess, view: View) -> list[Pixels]:
        """The pixels of the images of one request.

        Args:
            images: the bytes of files.
            preprocess: what the model does with a picture.
            view: how much of it is done here.

        Returns:
            uint8 (H, W, C) for each image.

        Raises:
            ImageError: one cannot be decoded, is too large, takes too long, or crashes its decoder.
        """
        seconds = self._limits.decode_timeout * len(images)
        for again in (True, False):
            if not self._pool.active:  # it broke: an idle process was killed
                self.close()
                self._pool = self._start()
            future = self._pool.schedule(_decode, args=(list(images), preprocess, view), timeout=seconds)
            try:
                found: list[Pixels] | ImageError = await _finished(future)
            except TimeoutError:
                self._telemetry.lost_decoders.labels("timeout").inc()
                raise ImageError(f"decoding took longer than {seconds:g} s.") from None
            except ProcessExpired:
                self._telemetry.lost_decoders.labels("crash").inc()
                raise ImageError("the data crashed the decoder, or needs too much memory.") from None
            except BrokenProcessPool:
                self._telemetry.lost_decoders.labels("broken").inc()
                if not again:
                    raise
            else:
                if isinstance(found, ImageError):
                    raise found
                return found
        raise AssertionError("the second attempt returns or raises")

    def close(self) -> None:
        """End the processes."""
        self._pool.stop()
        with suppress(RuntimeError):  # of a pool that broke
            self._pool.join(timeout=5)

    def _start(self) -> Any:
        # Forked from a process that has imported PyTorch and has no threads: starting takes milliseconds.
        context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
        context.set_forkserver_preload([__name__])
        limits = self._limits
        return ProcessPool(
            max_workers=limits.decoders,
            initializer=_limit,
            initargs=(limits.max_pixels, limits.decoder_memory),
            context=context,
        )


async def _finished(future: "Future[Any]") -> Any:
    """Its result. A request that is given up does not end the process that works on it, which would cost a restart."""
    try:
        return await asyncio.shield(asyncio.wrap_future(future))
    except asyncio.CancelledError:
        if not future.running():
            future.cancel()
        raise


def _limit(max_pixels: int, memory: int) -> None:
    """What a process may use."""
    os.environ[MAX_PIXELS_VARIABLE] = str(max_pixels)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of format readers, about files of strangers
    with suppress(ImportError, OSError, ValueError):  # elsewhere than on Linux
        import resource

        used = next(
            int(line.split()[1]) * 1024
            for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines()
            if line.startswith("VmData")
        )
        resource.setrlimit(resource.RLIMIT_DATA, (used + memory, used + memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _decode(images: list[bytes], preprocess: Preprocess, view: View) -> list[Pixels] | ImageError:
    """In a process of the pool. An error is returned: raised, it would come with a traceback as text."""
    found = []
    for number, image in enumerate(images, start=1):
        try:
            found.append(_view(image, preprocess, view))
        except ImageError as error:
            return ImageError(error.reason, name=f"image {number}")
        except MemoryError:
            return ImageError("needs too much memory.", name=f"image {number}")
    return found


def _view(image: bytes, preprocess: Preprocess, view: View) -> Pixels:
    picture = decode_image(image)
    if view == "thumbnail":
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
    if view in ("original", "thumbnail"):
        return np.asarray(picture)
    pixels: Tensor = preprocess.pixels(picture) if view == "crop" else preprocess.whole(picture)
    return pixels.permute(1, 2, 0).contiguous().numpy()
