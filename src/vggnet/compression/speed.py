"""How fast networks are on this machine, measured one right after the other."""

import copy
from collections.abc import Sequence
from statistics import median
from time import perf_counter
from typing import NamedTuple

import torch

from vggnet.accel import api as accel
from vggnet.accel.startup import startup
from vggnet.data.preprocess import SMALL
from vggnet.models.vgg import VGG

BATCH_OF_SMALL, BATCH = 128, 16  # images of a batch, for images up to 64 pixels and for larger ones
CALLS, SECONDS = 3, 0.2  # of each measurement, at least


class Times(NamedTuple):
    """The speed of one network."""

    latency: float  # seconds for one image, the median
    images_per_second: float  # in batches


class Speed(NamedTuple):
    """The speed of several networks."""

    batch_size: int
    each: tuple[Times, ...]


def measure_speed(networks: Sequence[VGG], size: int) -> Speed:
    """Time inference by the engine, for one image and in batches, as all threads of this process do it.

    Args:
        networks: in eval mode, on the CPU; they are not changed.
        size: pixels of both sides of the images.

    Example:
        >>> from vggnet.models.vgg import build
        >>> speed = measure_speed([build("vgg11", num_classes=2, head="gap", width=0.05)], 32)
        >>> speed.batch_size, speed.each[0].latency > 0
        (128, True)
    """
    startup().start()  # else kernels would be in use for the last networks only
    batch_size = BATCH_OF_SMALL if size <= SMALL else BATCH
    return Speed(batch_size, tuple(_times(network, size, batch_size) for network in networks))


def _times(network: VGG, size: int, batch_size: int) -> Times:
    fast = accel.accelerate(copy.deepcopy(network).eval())
    channels = network.architecture.in_channels
    one, many = (_median(fast, torch.zeros(count, channels, size, size)) for count in (1, batch_size))
    return Times(latency=one, images_per_second=batch_size / many)


def _median(network: VGG, images: torch.Tensor) -> float:
    """Seconds of a call, once the engine has decided and compiled."""
    times: list[float] = []
    with torch.inference_mode():
        network(images)
        network(images)
        while len(times) < CALLS or sum(times) < SECONDS:
            start = perf_counter()
            network(images)
            times.append(perf_counter() - start)
    return median(times)
