"""Splits of a set of images: by the content of each image alone, or stratified as in version 0.1.

Where images can be added or removed, a stratified split moves others between its parts, so that a network is later
tested on what it was trained on. `divide` therefore decides by each image alone. It draws a number in [0, 1) from the
hash of the image's bytes; the second part are the images below the fraction. Renamed, moved and copied files stay where
they are, whatever is added or removed. The share of a class is the fraction up to chance: with 20 % of 100 images it is
20 +/- 4.
"""

from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vggnet.data.counter_random import derive_seed, splitmix64
from vggnet.errors import ConfigError, DataError

Indices = NDArray[np.int64]
Rule = Literal["content", "stratified"]  # the second in runs of earlier versions, and for sets that never change

TEST_FRACTION = 0.2  # of a folder without splits
_TEST, _VALIDATION = 1, 2  # what numbers are drawn for


def divide(
    hashes: NDArray[np.uint64], labels: NDArray[np.int64], fraction: float, *, seed: int | None = None
) -> tuple[Indices, Indices]:
    """Divide images by their contents, so that no image moves when others are added or removed.

    One exception: a class without an image below the fraction gives the one with the lowest number, and a class with
    all images below it keeps the one with the highest. Only that image can move when its class grows. Copies stay
    together, in several classes too; a class whose images are all the same stays in the first part.

    Args:
        hashes: of the content of each image, uint64 (N,).
        labels: class of each image, int64 (N,).
        fraction: share of the second part, in (0, 1).
        seed: draws the numbers for a validation split; None for the test split.

    Returns:
        The indices of both parts, each in ascending order.

    Example:
        >>> hashes, labels = np.arange(10, dtype=np.uint64), np.zeros(10, np.int64)
        >>> [part.tolist() for part in divide(hashes, labels, 0.3)]
        [[1, 2, 3, 4, 5, 6, 7, 9], [0, 8]]
        >>> [hashes[:-1][part].tolist() for part in divide(hashes[:-1], labels[:-1], 0.3)]
        [[1, 2, 3, 4, 5, 6, 7], [0, 8]]
    """
    purpose = derive_seed(_TEST) if seed is None else derive_seed(_VALIDATION, seed)
    numbers = splitmix64(purpose, hashes.view(np.int64))  # a bijection: the same for copies alone
    chosen = numbers < np.uint64(int(fraction * 2**64))
    _, of_image = np.unique(labels, return_inverse=True)
    order = np.lexsort((numbers, of_image))
    counts = np.bincount(of_image)
    ends = np.cumsum(counts)
    lowest, highest = numbers[order[ends - counts]], numbers[order[ends - 1]]
    lacking = (np.bincount(of_image, chosen) == 0) & (lowest < highest)
    chosen |= np.isin(numbers, lowest[lacking])
    complete = np.bincount(of_image, chosen) == counts
    chosen &= ~np.isin(numbers, highest[complete])
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def divide_for_validation(
    hashes: NDArray[np.uint64], labels: NDArray[np.int64], fraction: float, seed: int
) -> tuple[Indices, Indices]:
    """A validation split of the images to train on, by their contents.

    Args:
        hashes: of the content of each image, uint64 (N,).
        labels: class of each image, int64 (N,).
        fraction: share to validate on, in [0, 1). With 0 there is no image to validate on.
        seed: fixes the choice.

    Returns:
        Indices to train on and indices to validate on, as `divide` has them.

    Raises:
        ConfigError: the fraction is not in [0, 1), or no class has two different images.

    Example:
        >>> parts = divide_for_validation(np.arange(6, dtype=np.uint64), np.array([0, 0, 0, 1, 1, 1]), 0.3, seed=0)
        >>> sorted(np.concatenate(parts).tolist())
        [0, 1, 2, 3, 4, 5]
    """
    everything = np.arange(len(labels))
    if fraction == 0:
        return everything, everything[:0]
    _require_possible(labels, fraction)
    train, val = divide(hashes, labels, fraction, seed=seed)
    if not len(val):
        raise ConfigError(
            f"val_fraction {fraction} cannot split {len(labels)} images: those of each class are all the same. Add "
            "images, or choose 0 to train on everything."
        )
    return train, val


def stratified_split(labels: NDArray[np.int64], fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Divide the images of every class in the same proportion.

    The indices are those of scikit-learn's `train_test_split(..., stratify=labels)`, whose algorithm it follows, so
    that splits stay what they were with that library.

    Args:
        labels: class of each image, int64 (N,).
        fraction: share of the second part, in (0, 1).
        seed: fixes the choice.

    Returns:
        The indices of both parts, each in ascending order.

    Raises:
        DataError: if a class has a single image, or a part would have fewer images than there are classes.

    Example:
        >>> [part.tolist() for part in stratified_split(np.array([0, 0, 0, 0, 1, 1, 1, 1]), 0.25, seed=0)]
        [[1, 2, 3, 4, 5, 6], [0, 7]]
    """
    classes, of_image, counts = np.unique(labels, return_inverse=True, return_counts=True)
    num_second = ceil(fraction * len(labels))
    num_first = len(labels) - num_second
    if min(counts, default=0) < 2 or min(num_first, num_second) < len(classes):
        raise DataError(
            f"{len(labels)} images of {len(classes)} classes cannot be divided into {num_first} and {num_second}; "
            "expected two or more of each class, and as many as there are classes in each part."
        )
    random = np.random.RandomState(seed)
    firsts = _apportioned(counts, num_first, random)
    seconds = _apportioned(counts - firsts, num_second, random)
    parts: tuple[list[Indices], list[Indices]] = ([], [])
    for label, (first, second) in enumerate(zip(firsts, seconds, strict=True)):
        shuffled = np.flatnonzero(of_image == label)[random.permutation(counts[label])]
        parts[0].append(shuffled[:first])
        parts[1].append(shuffled[first : first + second])
    first_part, second_part = (np.sort(np.concatenate(part)) for part in parts)
    return first_part, second_part


def carve(labels: NDArray[np.int64], fraction: float, seed: int) -> tuple[Indices, Indices]:
    """A stratified validation split, carved from the images to train on.

    Args:
        labels: class of each image, int64 (N,).
        fraction: share to validate on, in [0, 1). With 0 there is no image to validate on.
        seed: fixes the choice.

    Returns:
        Indices to train on and indices to validate on, each in ascending order. Where the images are too few for an
        exact share, every class of two or more gives at least one and keeps one.

    Raises:
        ConfigError: if the fraction is not in [0, 1), or no class has two images.

    Example:
        >>> [part.tolist() for part in carve(np.array([0, 0, 0, 1, 1, 1]), 0.0, seed=0)]
        [[0, 1, 2, 3, 4, 5], []]
    """
    everything = np.arange(len(labels))
    if fraction == 0:
        return everything, everything[:0]
    _require_possible(labels, fraction)
    try:
        return stratified_split(labels, fraction, seed)
    except DataError:  # fewer images to validate on than classes, or a class of a single image
        val = _some_of_each_class(labels, fraction, seed)
        return np.setdiff1d(everything, val), np.sort(val)


def _apportioned(counts: NDArray[np.int64], total: int, random: np.random.RandomState) -> NDArray[np.int64]:
    """How many of each class, in proportion to `counts`: rounded down, then one more by the largest remainders.

    Ties are drawn at random.
    """
    shares = counts / counts.sum() * total
    rounded = np.floor(shares)
    missing, remainders = int(total - rounded.sum()), shares - rounded
    for remainder in sorted(set(remainders.tolist()), reverse=True):
        if missing == 0:
            break
        (tied,) = np.nonzero(remainders == remainder)
        chosen = random.choice(tied, size=min(len(tied), missing), replace=False)
        rounded[chosen] += 1
        missing -= len(chosen)
    whole: NDArray[np.int64] = rounded.astype(np.int64)
    return whole


def _some_of_each_class(labels: NDArray[np.int64], fraction: float, seed: int) -> Indices:
    """The rounded share of each class, but at least one and not all; a class of one image gives none."""
    rng = np.random.default_rng(seed)
    shuffled = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    return np.concatenate([of[: min(max(round(fraction * len(of)), 1), len(of) - 1)] for of in shuffled])


def _require_possible(labels: NDArray[np.int64], fraction: float) -> None:
    _, counts = np.unique(labels, return_counts=True)
    if not 0 < fraction < 1 or max(counts, default=0) < 2:
        raise ConfigError(
            f"val_fraction {fraction} cannot split {len(labels)} images of {len(counts)} classes: it must be in "
            "[0, 1), and a class needs two images to give one. Choose 0 to train on everything."
        )
