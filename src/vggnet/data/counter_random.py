"""Counter-based random numbers, keyed by (seed, epoch, image index).

The draw of an image depends on (seed, epoch, index, stream) alone. Order, batch size, number of processes and a
resumed run therefore change nothing, and there is no generator state to save. The numbers are outputs of
SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), whose n-th output
is a function of seed and n.
"""

from enum import IntEnum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

GOLDEN_GAMMA = 0x9E3779B97F4A7C15  # odd integer nearest to 2^64 / golden ratio
MASK64 = 2**64 - 1

Words = TypeVar("Words", int, NDArray[np.uint64])


def _mix(words: Words) -> Words:
    """SplitMix64's finalizer, a bijection of 64-bit words. Integers need the masks, arrays wrap by themselves."""
    z: Any = words  # integers and arrays share these operators
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK64
    mixed: Words = z ^ (z >> 31)
    return mixed


def splitmix64(seed: int, positions: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Outputs of SplitMix64 started at `seed` (modulo 2^64); position 0 is the first. Same shape as `positions`."""
    return _mix((positions.astype(np.uint64) + 1) * GOLDEN_GAMMA + (seed & MASK64))


def derive_seed(*parts: int) -> int:
    """A seed in [0, 2^63) from any integers, taken modulo 2^64; their number and order count. For torch generators."""
    state = len(parts)
    for part in parts:
        state = _mix((state + part + GOLDEN_GAMMA) & MASK64)
    return state >> 1


class Domain(IntEnum):
    """What a seed is derived for. Seeds of two domains differ, whatever their other parts are."""

    RANDOM_CROP = 1  # of photos
    TUTORIAL = 2  # the augmentation of the tutorial
    OBJECT_CROP = 3  # SSD's augmentation


def image_seed(domain: Domain, *, seed: int, epoch: int, index: int) -> int:
    """A seed in [0, 2^63) for one image in one epoch."""
    return derive_seed(domain, seed, epoch, index)


def uniform(seed: int, epoch: int, indices: NDArray[np.int64], stream: int) -> NDArray[np.float32]:
    """One number in [0, 1), a multiple of 2^-24, for each image index. Same shape as `indices`.

    `stream` tells the quantities drawn for one image apart: use another one for each.
    """
    bits = splitmix64(derive_seed(seed, epoch, stream), indices)
    return (bits >> 40).astype(np.float32) * np.float32(2**-24)
